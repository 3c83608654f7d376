/**
 * `verdicts.jsonl`: what became of the captured frames, one JSON object a line, beside the three
 * pcap files of `colo capture`. Times are microseconds since 1970, as in the pcap files; frames are
 * numbered from 1, as Wireshark does.
 *
 *     {"kind":"capture","version":1,"nic":0,"epoch":41,"timeUs":...}     the first line
 *     {"kind":"frame","timeUs":...,"side":"primary","frame":7,"verdict":"released","epoch":41}
 *     {"kind":"edge","timeUs":...,"edge":"close","epoch":41,"frames":{"primary":7,...}}
 *     {"kind":"edge","timeUs":...,"edge":"start","epoch":42,"frames":{"primary":7,...}}
 *     {"kind":"end","timeUs":...,"reason":"...","frames":{...},"dropped":{...}}     the last line
 *
 * `frame` is null for a frame that is in no file: the comparer made it, or it was dropped. An edge
 * carries the number of frames that each file had so far, which is its exact place in all three.
 * `close`: the epoch has ended, what was held waits for its commit. `start`: from here both guests
 * are the same again and are compared. A capture without an end line was cut off.
 *
 * Read by `colo compare` for the edges, and by people. What comes from a file is checked.
 */
import { z } from 'zod';
import { ProtocolError } from '../../lib/index.js';

/** The files of frames, by what they hold. */
export const CAPTURE_SIDES = ['primary', 'secondary', 'inbound'] as const;
/** PVM's output, SVM's output, the LAN's input to both. */
export type CaptureSide = (typeof CAPTURE_SIDES)[number];

/**
 * What compare said of a frame. Of the PVM's: `released`, `held` (another word follows), `mismatch`
 * (held, too), `checkpoint` (held to the end of the epoch, leaves with its commit). Of the SVM's:
 * `taken`, `mismatch`, `dropped` (not compared). `made`: the comparer wrote the frame itself.
 */
export const CAPTURE_VERDICTS = [
  ...(['released', 'held', 'mismatch', 'checkpoint'] as const),
  ...(['taken', 'dropped', 'made'] as const),
] as const;
export type CaptureVerdict = (typeof CAPTURE_VERDICTS)[number];

/** What happens at the end of an epoch and at the beginning of the next comparison. */
export type CaptureEdge = 'close' | 'start';

/** A number for each file of frames. */
export type FrameCounts = Readonly<Record<CaptureSide, number>>;

/** What a capture lost because its files were not written fast enough. */
export type DroppedCounts = FrameCounts & { readonly verdicts: number };

/** One line of the file. */
export type VerdictLine =
  | {
      readonly kind: 'capture';
      readonly version: 1;
      readonly nic: number;
      readonly epoch: number;
      readonly timeUs: number;
    }
  | {
      readonly kind: 'frame';
      readonly timeUs: number;
      readonly side: CaptureSide;
      readonly frame: number | null;
      readonly verdict: CaptureVerdict;
      readonly epoch: number;
    }
  | {
      readonly kind: 'edge';
      readonly timeUs: number;
      readonly edge: CaptureEdge;
      readonly epoch: number;
      readonly frames: FrameCounts;
    }
  | {
      readonly kind: 'end';
      readonly timeUs: number;
      readonly reason: string;
      readonly frames: FrameCounts;
      readonly dropped: DroppedCounts;
    };

/** A line's longest text, bytes; a reason may quote an error. Longer is no line of ours. */
export const VERDICT_LINE_BYTES_MAX = 4096;

const count = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
const counts = { primary: count, secondary: count, inbound: count };
const lineSchema = z.discriminatedUnion('kind', [
  z.object({
    kind: z.literal('capture'),
    version: z.literal(1),
    nic: count,
    epoch: count,
    timeUs: count,
  }),
  z.object({
    kind: z.literal('frame'),
    timeUs: count,
    side: z.enum(CAPTURE_SIDES),
    frame: count.nullable(),
    verdict: z.enum(CAPTURE_VERDICTS),
    epoch: count,
  }),
  z.object({
    kind: z.literal('edge'),
    timeUs: count,
    edge: z.enum(['close', 'start']),
    epoch: count,
    frames: z.object(counts),
  }),
  z.object({
    kind: z.literal('end'),
    timeUs: count,
    reason: z.string(),
    frames: z.object(counts),
    dropped: z.object({ ...counts, verdicts: count }),
  }),
]) satisfies z.ZodType<VerdictLine>;

/** A line with its end. */
export function encodeVerdictLine(line: VerdictLine): string {
  return `${JSON.stringify(line)}\n`;
}

/** A line without its end. Throws `ProtocolError` for what is none. */
export function decodeVerdictLine(text: string): VerdictLine {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new ProtocolError('A line of the verdicts is not JSON', { cause: error });
  }
  const parsed = lineSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const where = issue === undefined ? '' : ` (${issue.path.join('.')}: ${issue.message})`;
  throw new ProtocolError(`A line of the verdicts is none of ours${where.slice(0, 200)}`);
}
