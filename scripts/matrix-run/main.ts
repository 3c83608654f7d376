/** The fault matrix: every cell so many times, then a table. `scripts/fault-matrix` starts it. */
import { readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Prng } from '../../src/lib/index.js';
import { guestFiles } from '../harness/guest-files.js';
import { runTool } from '../harness/run-main.js';
import { type MatrixOptions, parseOptions, USAGE } from './options.js';
import { FaultMatrix, type RoundResult } from './round.js';
import { type CellSummary, summarise, updateDocument } from './table.js';

/** The source tree, seen from build/scripts/matrix-run. */
const ROOT = join(dirname(fileURLToPath(import.meta.url)), '../../..');
const DOCUMENT = join(ROOT, 'docs/reliability.md');
/** Before anything was measured. */
const ROUND_SECONDS = 15;
const PAIR_SECONDS = 20;

async function main(options: MatrixOptions, say: (text: string) => void): Promise<number> {
  const { seed, mode, periodMs, cells, rounds } = options;
  const minutes = (PAIR_SECONDS + cells.length * rounds * ROUND_SECONDS) / 60;
  say(`fault-matrix: seed ${seed}, mode ${mode}, period ${periodMs} ms`);
  say(`${cells.length} cells, ${rounds} rounds of each: about ${Math.ceil(minutes)} minutes`);
  const prng = new Prng(seed);
  const matrix = new FaultMatrix({
    ...{ root: ROOT, guest: await guestFiles(ROOT), options, prng },
    tell: (text) => say(`  ${text}`),
  });
  const summaries = await runCells(matrix, options, say);
  await matrix.finish();
  for (const problem of summaries.flatMap(({ problems }) => problems)) say(problem);
  if (options.write) {
    await writeFile(DOCUMENT, updateDocument(await readFile(DOCUMENT, 'utf8'), mode, summaries));
  }
  const ok = summaries.every(({ right }) => right === rounds);
  const { kept } = matrix;
  process.stdout.write(`${JSON.stringify({ ok, seed, mode, periodMs, cells: summaries, kept })}\n`);
  return ok ? 0 : 1;
}

async function runCells(
  matrix: FaultMatrix,
  { cells, rounds }: MatrixOptions,
  say: (text: string) => void,
): Promise<CellSummary[]> {
  const summaries: CellSummary[] = [];
  const startMs = Date.now();
  let done = 0;
  for (const cell of cells) {
    const results: RoundResult[] = [];
    for (let round = 1; round <= rounds; round++) {
      try {
        const result = await matrix.round(cell, round);
        results.push(result);
        done += 1;
        const leftMs = ((Date.now() - startMs) / done) * (cells.length * rounds - done);
        say(`${formatRound(result)}  [${Math.ceil(leftMs / 60_000)} min left]`);
        for (const problem of result.problems) say(`    ${problem}`);
      } catch {
        // After a signal everything fails, and the process ends as soon as all is cleaned up.
        return await new Promise<never>(() => {});
      }
    }
    summaries.push(summarise(cell, results));
  }
  return summaries;
}

function formatRound(result: RoundResult): string {
  const { cell, round, outageMs, boundMs, laterMs, reactionMs, healingMs, seconds } = result;
  const verdict = result.problems.length === 0 ? 'right' : 'WRONG';
  const times = `outage ${outageMs} (max ${boundMs}), later ${laterMs}`;
  const steps = `reaction ${reactionMs ?? '-'}, protected again ${healingMs ?? '-'} ms`;
  return `${verdict} ${cell.padEnd(22)} ${round}: ${times}, ${steps}; ${seconds} s`;
}

runTool('fault-matrix', { usage: USAGE, parse: parseOptions }, main);
