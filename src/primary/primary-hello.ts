/** The primary's first message: what guest it runs, and what an SVM of it needs. */
import type { Configuration } from '../config/index.js';
import type { Guest, NodeIdentity } from '../guest/index.js';
import { PAGE_SIZE_BYTES } from '../lib/index.js';
import {
  type EncodedMessage,
  encodeControl,
  type Policy,
  REPLICATION_VERSION,
  type SpeechOffer,
} from '../replication/index.js';

export interface HelloParts {
  readonly configuration: Configuration;
  readonly pvm: Guest;
  readonly identity: NodeIdentity;
  /** As it is now. */
  readonly policy: Policy;
  /** The running one. */
  readonly epoch: number;
  /** Null without a witness. */
  readonly speech: SpeechOffer | null;
}

export function primaryHello(parts: HelloParts): EncodedMessage {
  const { configuration, pvm, identity, policy, epoch, speech } = parts;
  const { qemuVersion, accelerator, dirtyTracker } = pvm.emulator.description;
  return encodeControl({
    kind: 'hello',
    json: JSON.stringify({
      version: REPLICATION_VERSION,
      vm: configuration.vm,
      host: configuration.host,
      epoch,
      definition: pvm.definition,
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
      speech,
    }),
  });
}
