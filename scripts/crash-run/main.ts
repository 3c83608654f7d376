/** The crash test: so many rounds as asked for, then a table. `scripts/crash-test` starts it. */
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describeError, Prng } from '../../src/lib/index.js';
import { guestFiles } from '../harness/guest-files.js';
import { runTool } from '../harness/run-main.js';
import { type CrashOptions, FAULTS, parseOptions, USAGE } from './options.js';
import { CrashTest, type RoundResult } from './round.js';
import { formatTable } from './table.js';

/** The source tree, seen from build/scripts/crash-run. */
const ROOT = join(dirname(fileURLToPath(import.meta.url)), '../../..');

async function main(options: CrashOptions, say: (text: string) => void): Promise<number> {
  say(`crash-test: seed ${options.seed}, mode ${options.mode}, period ${options.periodMs} ms`);
  say('A power cut is SIGKILL of all processes of a host: its page cache survives (see --help).');
  const guest = await guestFiles(ROOT);
  const prng = new Prng(options.seed);
  const test = new CrashTest({ root: ROOT, guest, options, prng, tell: say });
  const { results, problems } = await runRounds(test, options, say);
  say(formatTable(results));
  for (const problem of problems) say(problem);
  if (test.directory !== undefined) say(`Everything is kept in ${test.directory}`);
  await test.abandon({ keepFiles: true });
  const { seed, mode, periodMs } = options;
  const ok = problems.length === 0;
  process.stdout.write(
    `${JSON.stringify({ ok, seed, mode, periodMs, rounds: results, problems })}\n`,
  );
  return ok ? 0 : 1;
}

async function runRounds(
  test: CrashTest,
  options: CrashOptions,
  say: (text: string) => void,
): Promise<{ results: RoundResult[]; problems: readonly string[] }> {
  const results: RoundResult[] = [];
  try {
    for (let round = 1; round <= options.rounds; round++) {
      const fault = options.fault ?? FAULTS[(round - 1) % FAULTS.length] ?? 'primary';
      const result = await test.round(round, fault);
      results.push(result);
      if (result.problems.length > 0) return { results, problems: result.problems };
    }
    return { results, problems: await test.finish() };
  } catch (error) {
    // After a signal everything fails, and the process ends as soon as all is cleaned up.
    if (test.interrupted) return await new Promise<never>(() => {});
    say(`Round ${results.length + 1} broke off`);
    return { results, problems: [describeError(error)] };
  }
}

runTool('crash-test', { usage: USAGE, parse: parseOptions }, main);
