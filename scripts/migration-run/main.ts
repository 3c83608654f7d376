/**
 * The migration matrix, the cuts and the kills; then their tables. `scripts/migration-matrix` starts
 * it. What is measured is measured alone; cuts and kills share the machine with each other.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Prng } from '../../src/lib/index.js';
import { Cleanup } from '../harness/cleanup.js';
import { guestFiles } from '../harness/guest-files.js';
import { runTool } from '../harness/run-main.js';
import { CutLab, type CutResult } from './cut-round.js';
import { type KillResult, killRound } from './kill-round.js';
import type { LabContext } from './movable-lab.js';
import { type MoveResult, moveRound } from './move-round.js';
import { type MatrixOptions, parseOptions, USAGE } from './options.js';
import { type Results, updateDocument } from './table.js';

/** The source tree, seen from build/scripts/migration-run. */
const ROOT = join(dirname(fileURLToPath(import.meta.url)), '../../..');
const DOCUMENT = join(ROOT, 'docs/reliability.md');
/** A round's own chances come from the run's seed and its number, in whichever lab it is. */
const SEED_STEP = 1_000_003;

interface Run {
  readonly context: LabContext;
  readonly options: MatrixOptions;
  readonly say: (text: string) => void;
}

async function main(options: MatrixOptions, say: (text: string) => void): Promise<number> {
  const all = new Cleanup();
  const stopListening = all.onSignals();
  const context: LabContext = {
    ...{ root: ROOT, guest: await guestFiles(ROOT), keep: options.keep, disk: options.disk },
    ...{ running: new Set(), kept: [], tell: (text) => say(`  ${text}`) },
    interrupted: () => all.interrupted,
  };
  all.add('labs', async () => {
    await Promise.all([...context.running].map((cleanup) => cleanup.run()));
  });
  const { seed, parts } = options;
  say(`migration-matrix: seed ${seed}, ${parts.join(', ')}`);
  const run = { context, options, say };
  const results: Results = {
    moves: parts.includes('matrix') ? await moves(run) : [],
    cuts: parts.includes('cuts') ? await cuts(run) : [],
    kills: parts.includes('kills') ? await kills(run) : [],
  };
  stopListening();
  if (options.write) {
    await writeFile(DOCUMENT, updateDocument(await readFile(DOCUMENT, 'utf8'), results));
  }
  const rounds = [...results.moves, ...results.cuts, ...results.kills];
  const wrong = rounds.filter(({ problems }) => problems.length > 0).length;
  say(`${rounds.length} rounds, ${wrong} of them wrong`);
  const { kept } = context;
  process.stdout.write(`${JSON.stringify({ ok: wrong === 0, seed, ...results, kept })}\n`);
  return wrong === 0 ? 0 : 1;
}

async function moves({ context, options, say }: Run): Promise<MoveResult[]> {
  const { cells, rounds, slackMs } = options;
  const wishes = cells.flatMap((cell) =>
    numbers(rounds).map((round) => ({ cell, round, slackMs })),
  );
  return await pool(wishes, 1, { context, say }, () => ({
    round: (wish) => moveRound(context, wish),
    text: ({ cell, round, downtimeMs, seen, totalMs, ramVerified }) => {
      const ms = (value: number | null | undefined) => value?.toFixed(1) ?? '-';
      const times = `downtime ${ms(downtimeMs)} ms, outage ${ms(seen?.outageMs)} ms`;
      const ram = ramVerified ? 'RAM verified' : 'RAM NOT verified';
      return `${cell.padEnd(24)} ${round}: ${times}, total ${ms(totalMs)} ms, ${ram}`;
    },
  }));
}

async function cuts({ context, options, say }: Run): Promise<CutResult[]> {
  const { labs, seed, cutMs } = options;
  // Those that last are all over the run, so that whatever wears out meets them, too.
  const total = options.cuts + options.lasting;
  const every = numbers(total).map((cut) => {
    const before = Math.floor(((cut - 1) * options.lasting) / total);
    const lasting = Math.floor((cut * options.lasting) / total) > before;
    return { cut, lasting, cutMsMax: cutMs };
  });
  const wishes = every.filter(({ cut }) => options.cut === undefined || options.cut === cut);
  return await pool(wishes, labs, { context, say }, () => {
    const lab = new CutLab(context);
    return {
      round: (wish) => lab.round(wish, new Prng(seed + wish.cut * SEED_STEP)),
      text: ({ cut, lasting, sentPart, cutMs, missingMib }) => {
        const what = lasting ? 'never restored' : `restored after ${cutMs} ms`;
        return `cut ${cut} at ${sentPart ?? '-'} of it, ${missingMib ?? '-'} MiB missing: ${what}`;
      },
      finish: () => lab.finish(),
    };
  });
}

async function kills({ context, options, say }: Run): Promise<KillResult[]> {
  const { labs, seed, killRounds } = options;
  const wishes = options.kills.flatMap((kill) =>
    numbers(killRounds).map((round) => ({ kill, round })),
  );
  const seeds = new Map(wishes.map((wish, index) => [wish, seed + (index + 1) * SEED_STEP]));
  return await pool(wishes, labs, { context, say }, () => ({
    round: (wish) => killRound(context, { ...wish, prng: new Prng(seeds.get(wish) ?? seed) }),
    text: ({ kill, round, tries, records, end, decisions }) => {
      const said = decisions.length === 0 ? '' : `, by ${decisions.join(', ')}`;
      const again = tries === 1 ? '' : ` (try ${tries})`;
      return `${kill.padEnd(24)} ${round}${again}: ${records}: the guest is at ${end}${said}`;
    },
  }));
}

interface Worker<Wish, Result> {
  readonly round: (wish: Wish) => Promise<Result>;
  readonly text: (result: Result) => string;
  readonly finish?: () => Promise<void>;
}

/** All wishes, by so many workers at once; results are in the order of their wishes. */
async function pool<Wish, Result extends { problems: readonly string[]; seconds: number }>(
  wishes: readonly Wish[],
  workers: number,
  { context, say }: Pick<Run, 'context' | 'say'>,
  make: () => Worker<Wish, Result>,
): Promise<Result[]> {
  const results: Result[] = [];
  const startMs = Date.now();
  let next = 0;
  let done = 0;
  const work = async (): Promise<void> => {
    const worker = make();
    for (let index = next++; index < wishes.length; index = next++) {
      const result = await worker.round(wishes[index] as Wish);
      // After a signal everything fails, and the process ends as soon as all is cleaned up.
      if (context.interrupted()) await new Promise<never>(() => {});
      results[index] = result;
      done += 1;
      const { problems, seconds } = result;
      const leftMs = ((Date.now() - startMs) / done) * (wishes.length - done);
      const verdict = problems.length === 0 ? 'right' : 'WRONG';
      const left = `[${Math.ceil(leftMs / 60_000)} min left]`;
      say(`${verdict} ${worker.text(result)}; ${seconds} s  ${left}`);
      for (const problem of problems) say(`    ${problem}`);
    }
    await worker.finish?.();
  };
  await Promise.all(numbers(Math.min(workers, wishes.length)).map(work));
  return results;
}

/** From 1. */
function numbers(count: number): number[] {
  return Array.from({ length: count }, (_, index) => index + 1);
}

runTool('migration-matrix', { usage: USAGE, parse: parseOptions }, main);
