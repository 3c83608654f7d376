/** A failed seed in words: the end of its trace, what failed, and the command that replays it. */
import type { Breakage } from './checker.js';
import type { Kind } from './options.js';
import { runSeed } from './simulation.js';
import type { TraceLine } from './world.js';

const TRACE_LINES = 60;

export function formatLine(line: TraceLine): string {
  return `${(line.atUs / 1000).toFixed(3).padStart(11)} ms  ${line.who.padEnd(9)}  ${line.text}`;
}

/** Runs the seed again, now with its trace. */
export function describeFailure(which: {
  seed: number;
  breakage: Breakage | undefined;
  kinds?: readonly Kind[] | undefined;
  witness?: boolean | undefined;
}): string {
  const { seed, breakage, kinds, witness = false } = which;
  const lines: TraceLine[] = [];
  const result = runSeed({ seed, breakage, kinds, witness, sink: (line) => lines.push(line) });
  const third = witness ? ' --witness model' : ' --witness none';
  const sabotage = breakage === undefined ? '' : ` --break ${breakage}`;
  const flag = kinds === undefined ? sabotage : ` --faults ${[...new Set(kinds)]}${sabotage}`;
  return [
    ...lines.slice(-TRACE_LINES).map(formatLine),
    `Seed ${seed} FAILED: ${result.detail}`,
    `Replay: npm run sim -- --seed ${seed} --trace${third}${flag}`,
    '',
  ].join('\n');
}
