/**
 * The demo: so many runs as asked for, then one JSON line. `scripts/demo` has prepared everything.
 */
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describeError } from '../../src/lib/index.js';
import { Cleanup } from '../harness/cleanup.js';
import { type GuestFiles, guestFiles } from '../harness/guest-files.js';
import { runMain } from '../harness/run-main.js';
import { type DemoOptions, parseOptions, USAGE } from './options.js';
import { runDemo } from './run.js';
import { type Failure, summarise } from './summary.js';
import { Timeline } from './timeline.js';
import type { DemoResult } from './verdict.js';

/** The source tree, seen from build/scripts/demo-run. */
const ROOT = join(dirname(fileURLToPath(import.meta.url)), '../../..');

async function runOnce(guest: GuestFiles, options: DemoOptions): Promise<DemoResult | Failure> {
  const cleanup = new Cleanup();
  const timeline = new Timeline(options.json);
  const stopListening = cleanup.onSignals();
  try {
    return await runDemo({ root: ROOT, guest, options, timeline, cleanup });
  } catch (error) {
    // After a signal everything fails, and the process ends as soon as all is cleaned up.
    if (cleanup.started) return await new Promise<never>(() => {});
    const problem = describeError(error);
    timeline.tell(`The run failed: ${problem}`);
    return { ok: false, mode: options.mode, fault: options.fault, problems: [problem] };
  } finally {
    await cleanup.run();
    stopListening();
  }
}

async function main(): Promise<number> {
  const options = parseOptions(process.argv.slice(2));
  if (options.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  const guest = await guestFiles(ROOT);
  const results: (DemoResult | Failure)[] = [];
  for (let run = 1; run <= options.repeat; run++) {
    if (options.repeat > 1 && !options.json) process.stdout.write(`Run ${run}\n`);
    const result = await runOnce(guest, options);
    results.push(result);
    if (options.repeat === 1 || !options.json) process.stdout.write(`${JSON.stringify(result)}\n`);
  }
  if (options.repeat > 1) process.stdout.write(`${JSON.stringify(summarise(results))}\n`);
  return results.every((result) => result.ok) ? 0 : 1;
}

runMain('demo', main);
