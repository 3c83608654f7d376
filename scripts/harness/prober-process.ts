/** The 1 ms prober (scripts/bench/prober.ts) as a child inside the client's namespace. */
import { Child } from './child.js';
import { type Cleanup, withDeadline } from './cleanup.js';
import type { GuestControlOptions } from './guest-control.js';

const DEADLINE_MS = 20_000;

/** Between two answers, CLOCK_MONOTONIC in microseconds. */
export interface Silence {
  readonly fromUs: number;
  readonly toUs: number;
  /** By how much the prober itself was late around it. */
  readonly lateUs: number;
}

export interface ProberReport {
  readonly longestUs: number;
  /** Those of 10 ms and more, in their order. */
  readonly silences: readonly Silence[];
  readonly answers: number;
}

/** Resolves once the guest has answered; what it gives ends the prober, and tells what it saw. */
export async function startProber(
  place: GuestControlOptions,
  cleanup: Cleanup,
): Promise<() => Promise<ProberReport>> {
  const lines: ((line: string) => void)[] = [];
  const next = () => new Promise<string>((resolve) => lines.push(resolve));
  const started = next();
  const report = next();
  const child = new Child({
    name: 'prober',
    command: [
      ...place.enter,
      ...[process.execPath, `${place.buildDir}/scripts/bench/prober.js`, place.host],
    ],
    logPath: place.logPath,
    onLine: (line) => lines.shift()?.(line),
  });
  cleanup.add('prober', () => child.kill('SIGKILL'));
  await withDeadline(started, DEADLINE_MS, 'The first answer to the prober');
  return async () => {
    child.endInput();
    const text = await withDeadline(report, DEADLINE_MS, "The prober's report");
    return JSON.parse(text) as ProberReport;
  };
}
