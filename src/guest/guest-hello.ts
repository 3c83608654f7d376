/** The first message of a host that has a guest: what another host needs to run it, too. */
import type { PrimaryImage, SharedProof } from '../blockrep/index.js';
import type { Configuration } from '../config/index.js';
import { PAGE_SIZE_BYTES } from '../lib/index.js';
import { type Policy, REPLICATION_VERSION, type SpeechOffer } from '../replication/index.js';
import type { Guest } from './guest.js';
import type { NodeIdentity } from './node-role.js';

export interface HelloParts {
  readonly configuration: Configuration;
  readonly guest: Guest;
  readonly images: readonly PrimaryImage[];
  /** Of a guest that moves. */
  readonly sharedDisks?: readonly SharedProof[];
  readonly identity: NodeIdentity;
  /** As it is now. */
  readonly policy: Policy;
  /** The running one. */
  readonly epoch: number;
  /** Null without a witness. */
  readonly speech: SpeechOffer | null;
  /** Of digests of RAM that the other host may have; undefined: they are not asked for. */
  readonly salt?: Buffer;
}

/** JSON, as `parseHello` reads it. */
export function guestHello(parts: HelloParts): string {
  const { configuration, guest, images, identity, policy, epoch, speech, salt } = parts;
  const { sharedDisks = [] } = parts;
  const { qemuVersion, accelerator, dirtyTracker } = guest.emulator.description;
  return JSON.stringify({
    version: REPLICATION_VERSION,
    vm: configuration.vm,
    host: configuration.host,
    epoch,
    definition: guest.definition,
    images,
    sharedDisks,
    qemuVersion,
    accelerator,
    pageSizeBytes: PAGE_SIZE_BYTES,
    dirtyTracker,
    verify: policy.verify,
    port: identity.port,
    instance: identity.instance.toString('hex'),
    policy,
    kernelSha256: guest.kernelSha256,
    initrdSha256: guest.initrdSha256,
    speech,
    ...(salt === undefined ? {} : { ramDigests: { salt: salt.toString('hex') } }),
  });
}
