/** The primary's first message: what guest it runs, and what an SVM of it needs. */
import type { PrimaryImage } from '../blockrep/index.js';
import type { Configuration } from '../config/index.js';
import { PAGE_SIZE_BYTES } from '../lib/index.js';
import {
  type EncodedMessage,
  encodeControl,
  type NodeIdentity,
  type Policy,
  REPLICATION_VERSION,
} from '../replication/index.js';
import type { Pvm } from './pvm-shell.js';

export interface HelloParts {
  readonly configuration: Configuration;
  readonly pvm: Pvm;
  readonly images: readonly PrimaryImage[];
  readonly identity: NodeIdentity;
  /** As it is now. */
  readonly policy: Policy;
  /** The running one. */
  readonly epoch: number;
}

export function primaryHello(parts: HelloParts): EncodedMessage {
  const { configuration, pvm, images, identity, policy, epoch } = parts;
  const { qemuVersion, accelerator, dirtyTracker } = pvm.emulator.description;
  return encodeControl({
    kind: 'hello',
    json: JSON.stringify({
      version: REPLICATION_VERSION,
      vm: configuration.vm,
      host: configuration.host,
      epoch,
      definition: pvm.definition,
      images,
      qemuVersion,
      accelerator,
      pageSizeBytes: PAGE_SIZE_BYTES,
      dirtyTracker,
      verify: policy.verify,
      port: identity.port,
      instance: identity.instance.toString('hex'),
      policy,
      kernelSha256: pvm.kernelSha256,
      initrdSha256: pvm.initrdSha256,
    }),
  });
}
