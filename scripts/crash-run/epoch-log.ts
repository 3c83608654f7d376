/**
 * What the agents' logs (`--log-level debug`) tell of checkpoints. In: text of a log. Out: when the
 * guest ran on after a pause (`captured`), when all of its state was sent (`shipped`), and when the
 * secondary had taken it (`applied`). Pure. Times are milliseconds of the wall clock.
 */

import { median } from '../harness/median.js';

/** What is usual is told by so many of the newest epochs. */
const USUAL_EPOCHS = 12;

export const CHECKPOINT_STEPS = ['captured', 'shipped', 'applied'] as const;
export type CheckpointStep = (typeof CHECKPOINT_STEPS)[number];

export interface CheckpointEvent {
  readonly step: CheckpointStep;
  readonly epoch: number;
  readonly atMs: number;
  /** Of `captured`: how long the guest stood still before it. */
  readonly pauseMs: number;
}

const LINE =
  /^(\S+) debug \S+ (?:primary|secondary)(?: epoch=(\d+))? (Captured|Shipped|Applied)\b(.*)$/;

/** The event of a line; undefined for all other lines. */
export function parseLine(line: string): CheckpointEvent | undefined {
  const match = LINE.exec(line);
  if (match === null) return undefined;
  const [, time = '', context, word = '', fields = ''] = match;
  const step = CHECKPOINT_STEPS.find((candidate) => candidate === word.toLowerCase());
  const epoch = Number(context ?? field(fields, 'epoch'));
  if (step === undefined || !Number.isSafeInteger(epoch)) return undefined;
  const pauseUs = ['stopUs', 'takeUs', 'resumeUs'].reduce((sum, name) => {
    return sum + field(fields, name);
  }, 0);
  return { step, epoch, atMs: Date.parse(time), pauseMs: step === 'captured' ? pauseUs / 1000 : 0 };
}

/** All events of a log. */
export function parseLog(text: string): CheckpointEvent[] {
  return text.split('\n').flatMap((line) => parseLine(line) ?? []);
}

function field(fields: string, name: string): number {
  return Number(new RegExp(`\\b${name}=(\\d+)`).exec(fields)?.[1] ?? 0);
}

/** Median of the newest epochs' lengths, from pause to pause; 0 if there were none. */
export function usualEpochMs(events: readonly CheckpointEvent[]): number {
  const captures = events.filter(({ step }) => step === 'captured').slice(-USUAL_EPOCHS);
  return median(captures.slice(1).map(({ atMs }, index) => atMs - (captures[index]?.atMs ?? atMs)));
}

/** Where in an epoch something happened. */
export interface Position {
  /** The epoch that the guest ran in. */
  readonly epoch: number | null;
  /** Since the guest ran on after the last pause. */
  readonly sinceResumeMs: number | null;
  /** How long epochs were, as the median says. */
  readonly usualMs: number;
  /**
   * `captured`: the last epoch's state is being sent; `shipped`: it waits for commit and apply;
   * `applied`: there is no transaction, or the next one's pre-send or pause has begun.
   */
  readonly after: CheckpointStep | null;
}

/** `events` of both hosts. */
export function locate(events: readonly CheckpointEvent[], atMs: number): Position {
  const before = events.filter((event) => event.atMs <= atMs).sort((a, b) => a.atMs - b.atMs);
  const captures = before.filter(({ step }) => step === 'captured');
  const last = captures.at(-1);
  return {
    epoch: last === undefined ? null : last.epoch + 1,
    sinceResumeMs: last === undefined ? null : Math.round(atMs - last.atMs),
    usualMs: usualEpochMs(before),
    after: before.at(-1)?.step ?? null,
  };
}
