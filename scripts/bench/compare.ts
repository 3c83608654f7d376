/**
 * The compare core alone, without guests: scripts/bench/compare-core.ts in a process of its own. It
 * prints one JSON object a line with `name`, `unit`, `value` and, unless more is better,
 * `"better": "less"`; its other lines are for people.
 */
import { existsSync } from 'node:fs';
import { run } from '../harness/child.js';
import type { Sample } from './rows.js';

const PROGRAM = 'scripts/bench/compare-core.js';
const DEADLINE_MS = 300_000;

/** Whether there is such a program in the compiled tree. */
export function hasCompareBench(buildDir: string): boolean {
  return existsSync(`${buildDir}/${PROGRAM}`);
}

export async function compareSamples(buildDir: string): Promise<Sample[]> {
  const text = await run([process.execPath, `${buildDir}/${PROGRAM}`], { deadlineMs: DEADLINE_MS });
  return parseCompareOutput(text);
}

/** Throws if there is no figure in it. */
export function parseCompareOutput(text: string): Sample[] {
  const lines = text.split('\n').filter((line) => line.startsWith('{'));
  const samples = lines.map((line) => {
    const { name, unit, value, better } = JSON.parse(line) as Partial<Sample>;
    if (typeof name !== 'string' || typeof unit !== 'string' || typeof value !== 'number') {
      throw new Error(`The compare bench printed no figure: ${line.slice(0, 200)}`);
    }
    return { name, unit, value, better: better === 'less' ? 'less' : 'more' } as const;
  });
  if (samples.length === 0) throw new Error('The compare bench printed no figure');
  return samples;
}
