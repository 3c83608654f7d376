/**
 * May the primary's data replace what the secondary's image holds, and how much must be compared?
 *
 * In: what both hosts know of one disk. Out: a verdict:
 *
 *   changed  the secondary's image is an ancestor, and both change maps say what differs since
 *   all      nothing is at stake, but what differs is unknown: all clusters are compared
 *   refuse   data would be lost that only the secondary has; an operator decides
 *
 * What makes it safe to overwrite an ancestor: a secondary that stood by never wrote to the image
 * by itself. A primary that died while protected has a tail of writes behind the last committed
 * epoch; no client has seen anything that depends on them (I1). Whoever ran without a peer has
 * begun a generation of its own, and that one isn't in the other's lineage.
 */
import { z } from 'zod';
import { OperatorError, ProtocolError } from '../../lib/index.js';
import { DISKS_MAX } from '../limits.js';
import {
  type GenerationRecord,
  type GenerationState,
  type HistoryEntry,
  type Lineage,
  lineageSchema,
  peerNameSchema,
} from './record.js';

/** Where a change map starts from, and whether all of it can be believed. */
export interface MapState {
  readonly trusted: boolean;
  /** The last common epoch: the map has every cluster that was written after its end. */
  readonly base?: { readonly generation: string; readonly epoch: number };
}

const mapSchema = z.strictObject({
  trusted: z.boolean(),
  base: z.strictObject({ generation: z.uuid(), epoch: z.int().nonnegative() }).exactOptional(),
});

/** What a secondary knows of one image; plain data. */
export type ImageClaim =
  /** The image has nothing but holes, and no record that fits. */
  | { readonly kind: 'blank' }
  /** There is data and no record of it. */
  | { readonly kind: 'unknown' }
  | {
      readonly kind: 'record';
      readonly lineage: Lineage;
      readonly state: GenerationState;
      readonly changedOutside: 'replaced' | 'written' | 'no';
      readonly map: MapState;
    };

const primaryImageSchema = z.strictObject({
  record: lineageSchema.extend({ vm: peerNameSchema, disk: peerNameSchema }),
  map: mapSchema,
});

/** What a primary says of one image in its hello; plain data, fit for JSON. */
export type PrimaryImage = z.infer<typeof primaryImageSchema>;

const acceptedSchema = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('changed') }),
  z.strictObject({ kind: z.literal('all'), why: z.string().max(256) }),
]);

/** What a secondary answers for one image that it lets be overwritten; plain data, fit for JSON. */
export type AcceptedImage = z.infer<typeof acceptedSchema>;

export type DiskVerdict =
  | AcceptedImage
  | { readonly kind: 'refuse'; readonly reason: string; readonly command: string };

export type GuestVerdict =
  | { readonly kind: 'resync'; readonly disks: readonly AcceptedImage[] }
  | { readonly kind: 'refuse'; readonly reason: string; readonly command: string };

/**
 * Commits that a primary may not have heard of when it lost its secondary: one checkpoint at a
 * time is on its way.
 */
const COMMITS_UNHEARD_MAX = 1;

/** Checks what a primary said of its images. Throws ProtocolError. */
export function parsePrimaryImages(value: unknown): PrimaryImage[] {
  return parseList(value, primaryImageSchema, "primary's image");
}

/** Checks what a secondary answered. Throws ProtocolError. */
export function parseAcceptedImages(value: unknown): AcceptedImage[] {
  return parseList(value, acceptedSchema, "secondary's verdict");
}

function parseList<T>(value: unknown, schema: z.ZodType<T>, what: string): T[] {
  const result = z.array(schema).max(DISKS_MAX).safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new ProtocolError(`The ${what} ${issue?.path.join('.') ?? ''}: ${issue?.message}`);
}

/** All disks of a guest, in the same order: one refusal refuses all, or the disks would differ. */
export function judgeDisks(
  primary: readonly PrimaryImage[],
  secondary: readonly ImageClaim[],
): GuestVerdict {
  if (primary.length !== secondary.length) {
    throw new ProtocolError(
      `The peer speaks of ${secondary.length} images where the guest has ${primary.length} disks`,
    );
  }
  const disks = primary.map((image, i) => judgeDisk(image, secondary[i] as ImageClaim));
  const refusals = disks.filter((verdict) => verdict.kind === 'refuse');
  const [first] = refusals;
  if (first === undefined) {
    return { kind: 'resync', disks: disks.filter((verdict) => verdict.kind !== 'refuse') };
  }
  const reason = refusals.map((verdict) => verdict.reason).join('; ');
  if (refusals.length === 1) return first;
  // More than one disk: the command without a disk's name is for all of them.
  return { kind: 'refuse', reason, command: discardCommand(primary[0]?.record.vm ?? '') };
}

/** One disk. */
export function judgeDisk(primary: PrimaryImage, secondary: ImageClaim): DiskVerdict {
  const { record } = primary;
  if (secondary.kind === 'blank') return { kind: 'all', why: 'the image is blank' };
  if (secondary.kind === 'unknown') {
    return refuse(record, 'holds data that Colo has no record of');
  }
  if (secondary.state === 'discarded') return { kind: 'all', why: 'the image was discarded' };
  if (secondary.state === 'syncing') {
    return { kind: 'all', why: 'an earlier synchronisation of the image was not finished' };
  }
  if (secondary.changedOutside !== 'no') {
    const change = secondary.changedOutside === 'replaced' ? 'is another file' : 'was written to';
    return refuse(record, `${change} since Colo closed it`);
  }
  const { lineage, state } = secondary;
  const left = departureFrom(record, lineage.generation);
  if (left === undefined) return judgeStranger(record, lineage);
  const impossible = conflictWith(record, left, { lineage, state });
  if (impossible !== undefined) return refuse(record, impossible);
  return ancestorVerdict(primary, secondary, left);
}

/** What a primary tells of its record. */
type Line = PrimaryImage['record'];

/** Where the primary's line left the generation; for its present one, where it is. */
interface Departure extends Pick<HistoryEntry, 'epoch' | 'exact'> {
  readonly as: 'current' | HistoryEntry['role'];
}

function departureFrom(record: Line, generation: string): Departure | undefined {
  if (record.generation === generation) {
    return { epoch: record.epoch, exact: true, as: 'current' };
  }
  const entry = record.history.find((each) => each.generation === generation);
  return entry && { epoch: entry.epoch, exact: entry.exact, as: entry.role };
}

/** Why an image of the primary's own line is no ancestor after all. */
function conflictWith(
  record: Line,
  left: Departure,
  { lineage, state }: { lineage: Lineage; state: 'standby' | 'active' },
): string | undefined {
  const where = `generation ${lineage.generation}, epoch ${lineage.epoch}`;
  if (state === 'active') {
    if (!left.exact && left.as === 'secondary') return undefined;
    // The one who wrote in this generation was the peer, if we were its secondary.
    if (left.as !== 'secondary') {
      return `was written by a guest in ${where}, which is a generation that this host wrote itself`;
    }
    if (lineage.epoch <= left.epoch) return undefined;
    return (
      `knows epoch ${lineage.epoch} of generation ${lineage.generation} as committed, ` +
      `but ${record.host} went on from epoch ${left.epoch}; the secondary's image is newer`
    );
  }
  // 0: no commit was heard of, and the first may have any number.
  if (!left.exact || left.epoch === 0) return undefined;
  if (lineage.epoch <= left.epoch + COMMITS_UNHEARD_MAX) return undefined;
  return (
    `is at ${where}, where this host knows no epoch above ${left.epoch}: ` +
    "the secondary's image is newer: start that host as primary"
  );
}

function ancestorVerdict(
  { record, map }: PrimaryImage,
  secondary: Extract<ImageClaim, { kind: 'record' }>,
  left: Departure,
): DiskVerdict {
  const { lineage, state } = secondary;
  const { generation } = lineage;
  // What an earlier base leaves out is nothing; a later one leaves out what happened before it.
  const common = state === 'standby' ? lineage.epoch : left.epoch;
  const covers = ({ trusted, base }: MapState) =>
    trusted && base?.generation === generation && base.epoch <= common;
  if (!covers(map)) {
    return { kind: 'all', why: `the changes on ${record.host} since then are not known` };
  }
  // A secondary that stood by has changed nothing itself.
  if (state === 'active' && !covers(secondary.map)) {
    return { kind: 'all', why: 'the changes on the secondary since then are not known' };
  }
  return { kind: 'changed' };
}

/** The secondary's generation isn't one of ours. */
function judgeStranger(record: Line, lineage: Lineage): DiskVerdict {
  const theirs = describeLine(lineage);
  const inherits = lineage.history.find((entry) => entry.generation === record.generation);
  if (inherits !== undefined) {
    return refuse(
      record,
      `is at ${theirs}, which went on from epoch ${inherits.epoch} of this host's generation at ` +
        `${inherits.at}: the secondary's image is newer: start that host as primary`,
    );
  }
  for (const entry of lineage.history) {
    const ours = record.history.find((each) => each.generation === entry.generation);
    if (ours === undefined) continue;
    return refuse(
      record,
      `is at ${theirs}: both hosts went on by themselves from generation ${entry.generation}, ` +
        `the secondary from epoch ${entry.epoch} at ${entry.at}, ` +
        `this one from epoch ${ours.epoch} at ${ours.at}`,
    );
  }
  return refuse(record, `is at ${theirs}, which has nothing in common with this host's`);
}

function refuse(record: Line, what: string): DiskVerdict {
  const command = discardCommand(record.vm, record.disk);
  const reason =
    `The secondary's image of disk ${record.disk} ${what}; ` +
    `this host's is at ${describeLine(record)}; ` +
    `to give one of them up run "${command}" on the host that has it`;
  return { kind: 'refuse', reason, command };
}

/** The command that gives an image's data up, to be run on the host that has it. */
export function discardCommand(vm: string, disk?: string): string {
  return disk === undefined
    ? `colo discard-image --vm ${vm}`
    : `colo discard-image --vm ${vm} --disk ${disk}`;
}

/**
 * Whether a guest may be started on the image. Throws OperatorError for one that has no state; the
 * peer's image is the one to start from.
 */
export function assertStartable(record: GenerationRecord, recordPath: string): void {
  const { state, disk, vm } = record;
  if (state === 'active' || state === 'standby') return;
  const found =
    state === 'syncing'
      ? 'was being overwritten by its peer and has no consistent state'
      : 'was given up by "colo discard-image"';
  throw new OperatorError(
    'COLO_E_IMAGE_STATE',
    `The image of disk ${disk} of ${vm} ${found} (${recordPath}); start the other host as ` +
      `primary, or, to start from this image all the same, run "rm ${recordPath}"`,
  );
}

function describeLine(line: Lineage): string {
  const { generation, epoch, since, host } = line;
  return `generation ${generation} of ${host} since ${since}, epoch ${epoch}`;
}
