/**
 * The generation record of one image: whose data it is, and how far.
 *
 * A *generation* is a line of data with a random name. A new one begins whenever a guest starts to
 * write without a peer: when the PVM boots, when a primary goes on alone, at a promotion. Inside of
 * a generation the epochs order what both hosts have in common. The history is the line's past:
 * from which epoch of which generation each later one went on. So two records tell which image is
 * the ancestor of the other, or that both went on by themselves (judge.ts). The model is DRBD's
 * generation identifiers (DRBD 8.4 user's guide, section 17.2), with epochs added, because here a
 * common state has a number.
 *
 *   standby    the image is exactly the end of `epoch` of `generation`
 *   active     a guest writes to it; `epoch` is the last that the peer is known to have committed
 *   syncing    a peer overwrites it: no state at all
 *   discarded  the operator gave it up
 *
 * The file is JSON: {"crc32c": 8 hexadecimal digits, "record": {...}}, where the checksum is the
 * CRC-32C of the record as JSON without white space. All functions here are pure; the record is
 * replaced, never changed.
 */
import { z } from 'zod';
import { assert, crc32c, describeError } from '../../lib/index.js';
import { GENERATION_HISTORY_MAX, GENERATIONS_TOLD_MAX } from '../limits.js';

const RECORD_VERSION = 1;

const epoch = z.int().nonnegative();
const host = z.string().max(256);
const time = z.iso.datetime();

const historySchema = z.strictObject({
  generation: z.uuid(),
  /** The last epoch of the generation that both hosts are known to have. */
  epoch,
  /** False: an agent died, and later epochs may have been committed. */
  exact: z.boolean(),
  /** As what the host left the generation: `secondary` is a promotion. */
  role: z.enum(['primary', 'secondary']),
  host,
  at: time,
});

const lineageFields = {
  generation: z.uuid(),
  epoch,
  /** When and where the generation began. */
  since: time,
  host,
};

const imageSchema = z.strictObject({
  kind: z.enum(['file', 'block']),
  device: z.string().regex(/^\d{1,20}$/),
  inode: z.string().regex(/^\d{1,20}$/),
  /** When it was last written, nanoseconds; of use only after a clean close. */
  modifiedNs: z.string().regex(/^-?\d{1,20}$/),
});

const recordSchema = z.strictObject({
  version: z.literal(RECORD_VERSION),
  vm: z.string().max(64),
  disk: z.string().max(64),
  sizeBytes: z.int().positive(),
  image: imageSchema,
  ...lineageFields,
  state: z.enum(['standby', 'active', 'syncing', 'discarded']),
  /** Closed in order, and nothing has been written by us since. */
  clean: z.boolean(),
  bootId: z.uuid(),
  history: z.array(historySchema).max(GENERATION_HISTORY_MAX),
});

/** Of a VM or a disk, as a peer may tell it: it becomes part of a command that people copy. */
export const peerNameSchema = z.string().regex(/^[a-z0-9][a-z0-9_-]{0,63}$/);

/** What one host tells the other of its record. */
export const lineageSchema = z.strictObject({
  ...lineageFields,
  history: z.array(historySchema).max(GENERATIONS_TOLD_MAX),
});

export type HistoryEntry = z.infer<typeof historySchema>;
export type ImageIdentity = z.infer<typeof imageSchema>;
export type GenerationRecord = z.infer<typeof recordSchema>;
export type GenerationState = GenerationRecord['state'];
export type Lineage = z.infer<typeof lineageSchema>;

/** What of a record does not depend on the data. */
export interface RecordOrigin {
  readonly vm: string;
  readonly disk: string;
  readonly sizeBytes: number;
  readonly image: ImageIdentity;
  readonly bootId: string;
}

/** What a transition that starts a generation is given by the world. */
export interface NewGeneration {
  /** A random UUID. */
  readonly generation: string;
  readonly host: string;
  /** ISO 8601, UTC. */
  readonly at: string;
}

export type DecodedRecord =
  | { readonly ok: true; readonly record: GenerationRecord }
  | { readonly ok: false; readonly found: string; readonly expected: string };

export function encodeRecord(record: GenerationRecord): Buffer {
  const file = { crc32c: recordSum(record), record };
  return Buffer.from(`${JSON.stringify(file, null, 1)}\n`);
}

/** Never throws; `found` and `expected` are for the operator. */
export function decodeRecord(bytes: Buffer): DecodedRecord {
  let file: unknown;
  try {
    file = JSON.parse(bytes.toString('utf8'));
  } catch (error) {
    return { ok: false, found: `no JSON: ${describeError(error)}`, expected: 'a JSON object' };
  }
  const outer = z.strictObject({ crc32c: z.string(), record: z.unknown() }).safeParse(file);
  if (!outer.success) {
    return { ok: false, found: firstIssue(outer.error), expected: 'a checksum and a record' };
  }
  const sum = recordSum(outer.data.record);
  if (sum !== outer.data.crc32c) {
    const found = `contents with the checksum ${sum}`;
    return { ok: false, found, expected: `the checksum ${outer.data.crc32c.slice(0, 40)}` };
  }
  const record = recordSchema.safeParse(outer.data.record);
  if (record.success) return { ok: true, record: record.data };
  return { ok: false, found: firstIssue(record.error), expected: 'a valid value there' };
}

/** The part that a peer is told, newest generations first. */
export function lineageOf(record: Lineage): Lineage {
  const { generation, epoch, since, host, history } = record;
  return { generation, epoch, since, host, history: history.slice(0, GENERATIONS_TOLD_MAX) };
}

/** What is different about an image that its record should describe; undefined: nothing. */
export function imageChange(
  record: GenerationRecord,
  now: { readonly image: ImageIdentity; readonly bootId: string },
): 'replaced' | 'written' | undefined {
  const before = record.image;
  const { image, bootId } = now;
  if (before.kind !== image.kind) return 'replaced';
  // A block device's node says nothing about what is on it.
  if (image.kind === 'block') return undefined;
  if (before.inode !== image.inode) return 'replaced';
  // The numbers of devices may be others after a boot.
  if (before.device !== image.device && record.bootId === bootId) return 'replaced';
  return record.clean && before.modifiedNs !== image.modifiedNs ? 'written' : undefined;
}

/** The agent has the image open: from now on only a clean close says when it was written. */
export function opened(
  record: GenerationRecord,
  now: { readonly image: ImageIdentity; readonly bootId: string },
): GenerationRecord {
  return { ...record, image: now.image, bootId: now.bootId, clean: false };
}

/** Nothing is open any more; `image` was looked at after the last write was durable. */
export function closed(record: GenerationRecord, image: ImageIdentity): GenerationRecord {
  return { ...record, image, clean: true };
}

/** The first generation of an image without a past. */
export function beginFirst(origin: RecordOrigin, next: NewGeneration): GenerationRecord {
  const { generation, host, at } = next;
  return {
    version: RECORD_VERSION,
    ...origin,
    generation,
    epoch: 0,
    since: at,
    host,
    state: 'active',
    clean: false,
    history: [],
  };
}

/**
 * A guest is about to write to the image without a peer. Must be durable before the guest's first
 * write, or at the latest before anything that it says leaves. `exact`: `record.epoch` is the last
 * committed epoch; false when an agent died, and what it knew of later ones is lost.
 */
export function beginAlone(
  record: GenerationRecord,
  next: NewGeneration & { readonly exact: boolean },
): GenerationRecord {
  assert(
    record.state === 'standby' || record.state === 'active',
    `A guest may not use an image that is ${record.state}`,
  );
  const entry: HistoryEntry = {
    generation: record.generation,
    epoch: record.epoch,
    exact: next.exact,
    role: record.state === 'standby' ? 'secondary' : 'primary',
    host: next.host,
    at: next.at,
  };
  return {
    ...record,
    generation: next.generation,
    epoch: 0,
    since: next.at,
    host: next.host,
    state: 'active',
    history: extendHistory(record.history, entry),
  };
}

/** The peer is known to have committed `epoch` of the generation that runs here. */
export function committedAt(record: GenerationRecord, epoch: number): GenerationRecord {
  assert(record.state === 'active', `An epoch was committed of an image that is ${record.state}`);
  return epoch <= record.epoch ? record : { ...record, epoch };
}

/** The peer's first byte is about to be written. Must be durable before. */
export function beginSync(record: GenerationRecord): GenerationRecord {
  return { ...record, state: 'syncing' };
}

/** The image is exactly the end of `epoch` of the peer's generation; it has the peer's past. */
export function standbyAt(
  record: GenerationRecord,
  peer: Lineage,
  epoch: number,
): GenerationRecord {
  const { generation, since, host, history } = peer;
  return { ...record, generation, since, host, history, epoch, state: 'standby' };
}

/** A later epoch of the same generation was applied. */
export function appliedAt(record: GenerationRecord, epoch: number): GenerationRecord {
  assert(record.state === 'standby', `An epoch was applied to an image that is ${record.state}`);
  return epoch <= record.epoch ? record : { ...record, epoch };
}

export function discarded(record: GenerationRecord): GenerationRecord {
  return { ...record, state: 'discarded' };
}

/** Newest first. A generation that no peer was ever part of is the first to be forgotten. */
function extendHistory(history: readonly HistoryEntry[], entry: HistoryEntry): HistoryEntry[] {
  const longer = [entry, ...history];
  if (longer.length <= GENERATION_HISTORY_MAX) return longer;
  const unshared = longer.findLastIndex((each, i) => i > 0 && each.epoch === 0 && each.exact);
  longer.splice(unshared === -1 ? longer.length - 1 : unshared, 1);
  return longer;
}

function recordSum(record: unknown): string {
  const sum = crc32c(Buffer.from(JSON.stringify(record) ?? ''));
  return sum.toString(16).padStart(8, '0');
}

function firstIssue(error: z.ZodError): string {
  const issue = error.issues[0];
  return `at ${issue?.path.join('.') || 'the top'}: ${issue?.message}`;
}
