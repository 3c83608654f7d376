/**
 * How a source shows its destination that both see the same storage, and nothing that only looks
 * like it: a copy, a backup, another export of the same name.
 *
 *   file    a small file beside the image, made for this migration, has a random word in it; the
 *           destination finds it beside its own image, by that one's name
 *   block   there is nothing beside a device: the kernels of both hosts call it the same where they
 *           know a name that belongs to the device (SCSI and NVMe: the WWID; device mapper: the
 *           UUID), and samples of it are equal. The guest goes on writing, so a few may differ.
 */
import { z } from 'zod';
import { ProtocolError } from '../../lib/index.js';
import {
  DISKS_MAX,
  PROOF_SAMPLE_BYTES,
  PROOF_SAMPLES,
  PROOF_SAMPLES_EQUAL_MIN,
} from '../limits.js';

const digest = z.string().regex(/^[0-9a-f]{64}$/);

const deviceSchema = z.strictObject({
  kind: z.literal('block'),
  disk: z.string().max(64),
  /** `wwid ...` or `dm ...`; null: the kernel knows none. */
  identity: z.string().max(512).nullable(),
  /** SHA-256 of the samples, in their order. */
  samples: z.array(digest).length(PROOF_SAMPLES),
});

const proofSchema = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('file'), disk: z.string().max(64), word: digest }),
  deviceSchema,
]);

/** Of one disk; plain data, fit for JSON. */
export type SharedProof = z.infer<typeof proofSchema>;
export type DeviceProof = z.infer<typeof deviceSchema>;

/** Checks what a source said of its shared disks. Throws ProtocolError. */
export function parseSharedProofs(value: unknown): SharedProof[] {
  const result = z.array(proofSchema).max(DISKS_MAX).safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new ProtocolError(
    `The source's proof of a shared disk ${issue?.path.join('.') ?? ''}: ${issue?.message}`,
  );
}

/** Where the samples of a device are, ascending: its beginning, its end, and between them. */
export function sampleOffsets(sizeBytes: number): number[] {
  const last = Math.max(0, sizeBytes - PROOF_SAMPLE_BYTES);
  return Array.from({ length: PROOF_SAMPLES }, (_, index) => {
    const at = Math.floor((last / (PROOF_SAMPLES - 1)) * index);
    return at - (at % 512);
  });
}

/** Why these are two devices; undefined: they are one. */
export function deviceDifference(theirs: DeviceProof, ours: DeviceProof): string | undefined {
  const [there, here] = [theirs.identity, ours.identity];
  // What one host's kernel has behind a multipath device the other's may have without one.
  const isComparable = there?.split(' ')[0] === here?.split(' ')[0];
  if (isComparable && there !== here) return `it is ${here}, the source's is ${there}`;
  const equal = theirs.samples.filter((sample, index) => sample === ours.samples[index]).length;
  if (equal >= PROOF_SAMPLES_EQUAL_MIN) return undefined;
  return `it has other content: ${equal} of ${PROOF_SAMPLES} samples are equal`;
}
