/** A failed seed in words: the end of its trace, what failed, and the command that replays it. */
import type { Breakage } from './checker.js';
import { runSeed } from './simulation.js';
import type { TraceLine } from './world.js';

const TRACE_LINES = 60;

export function formatLine(line: TraceLine): string {
  return `${(line.atUs / 1000).toFixed(3).padStart(11)} ms  ${line.who.padEnd(9)}  ${line.text}`;
}

/** Runs the seed again, now with its trace. */
export function describeFailure(which: { seed: number; breakage: Breakage | undefined }): string {
  const { seed, breakage } = which;
  const lines: TraceLine[] = [];
  const result = runSeed({ seed, breakage, sink: (line) => lines.push(line) });
  const flag = breakage === undefined ? '' : ` --break ${breakage}`;
  return [
    ...lines.slice(-TRACE_LINES).map(formatLine),
    `Seed ${seed} FAILED: ${result.detail}`,
    `Replay: npm run sim -- --seed ${seed} --trace${flag}`,
    '',
  ].join('\n');
}
