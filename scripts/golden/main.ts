/**
 * Captures of a real pair, for the golden tests of the comparer: `main.js [SERVICE...]`. One pair
 * for all; each service is used while `colo capture` runs, from the first epoch that begins in it.
 *
 *     pair in mode colo -> colo capture -> test/golden/captures/<service>/
 *
 * Two guests may differ by chance, such as in a date at a second's edge: then once more.
 */
import { cp, mkdir, readFile, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { describeError, OperatorError } from '../../src/lib/index.js';
import { CAPTURE_FILES, captureFileName } from '../../src/proxy/index.js';
import { chooseAccelerator } from '../bench/setups.js';
import { nowUs } from '../clients/clock.js';
import { run } from '../harness/child.js';
import { Cleanup } from '../harness/cleanup.js';
import { guestFiles } from '../harness/guest-files.js';
import { PairLab } from '../harness/pair-lab.js';
import { EXERCISES, type Exercise } from './exercises.js';

/** The source tree, seen from build/scripts/golden. */
const ROOT = join(dirname(fileURLToPath(import.meta.url)), '../../..');
const COLO = [process.execPath, join(ROOT, 'build/src/cli/colo.js')];
const GOLDEN = join(ROOT, 'test/golden/captures');
const DIVERGES = '-diverges';

const MEMORY_MIB = 256;
const PERIOD_MS = 1000;
/** The rest of one epoch, and at least one whole. */
const CAPTURE_MS = 3000;
const CAPTURE_BYTES_MAX = 60 * 1024;
const TRIES = 8;
const POLL_MS = 20;

interface Captured {
  readonly bytes: number;
  readonly epochs: number;
  readonly verdicts: ReadonlyMap<string, number>;
}

async function capture(pair: PairLab, exercise: Exercise, dir: string): Promise<void> {
  const socket = join(pair.directory, 'hosta/run/control.sock');
  const captured = run([
    ...[...COLO, 'capture', '--socket', socket],
    ...['--dir', dir, '--duration', `${CAPTURE_MS}ms`],
  ]);
  const exercised = exerciseFromEdge(pair, exercise, dir);
  const results = await Promise.allSettled([captured, exercised]);
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}

async function exerciseFromEdge(pair: PairLab, exercise: Exercise, dir: string): Promise<void> {
  const verdicts = join(dir, captureFileName('verdicts'));
  const untilUs = nowUs() + CAPTURE_MS * 1000;
  while (!(await readFile(verdicts, 'utf8').catch(() => '')).includes('"edge":"start"')) {
    if (nowUs() > untilUs) throw new Error('No epoch has begun during the capture');
    await delay(POLL_MS);
  }
  const ask = [process.execPath, join(ROOT, 'build/scripts/golden/ask.js')];
  for (const [program = '', ...args] of exercise.commands) {
    const command = program === 'ask' ? ask : [program];
    await run([...pair.lab.client.enter, ...command, ...args]);
  }
}

async function inspect(dir: string): Promise<Captured> {
  let bytes = 0;
  for (const file of CAPTURE_FILES) bytes += (await stat(join(dir, captureFileName(file)))).size;
  const text = await readFile(join(dir, captureFileName('verdicts')), 'utf8');
  const verdicts = new Map<string, number>();
  for (const [, verdict = ''] of text.matchAll(/"verdict":"(\w+)"/g)) {
    verdicts.set(verdict, (verdicts.get(verdict) ?? 0) + 1);
  }
  return { bytes, verdicts, epochs: text.split('"edge":"start"').length - 1 };
}

/** Where the guests differed, for people. It ends with an error because they did. */
async function explain(dir: string): Promise<void> {
  const files = (['primary', 'secondary'] as const).map((side) => join(dir, captureFileName(side)));
  const report = await run([...COLO, 'compare', ...files]).catch(describeError);
  say(report);
}

/** Why a capture is none to keep. */
function flawOf(exercise: Exercise, { bytes, verdicts }: Captured): string | undefined {
  if (bytes > CAPTURE_BYTES_MAX) return `${bytes} bytes, allowed: ${CAPTURE_BYTES_MAX}`;
  const diverges = verdicts.has('mismatch');
  if (exercise.name.endsWith(DIVERGES)) return diverges ? undefined : 'the guests agreed';
  if (diverges) return 'the guests differed';
  return verdicts.has('released') ? undefined : 'nothing was released';
}

async function make(pair: PairLab, exercise: Exercise): Promise<void> {
  let flaw: string | undefined;
  for (let attempt = 1; attempt <= TRIES; attempt++) {
    const dir = join(pair.directory, `capture-${exercise.name}-${attempt}`);
    try {
      await capture(pair, exercise, dir);
      const captured = await inspect(dir);
      const words = [...captured.verdicts].map(([word, count]) => `${word} ${count}`).join(', ');
      if (captured.verdicts.has('mismatch')) await explain(dir);
      say(`${exercise.name}: ${captured.bytes} bytes, ${captured.epochs} epochs; ${words}`);
      flaw = flawOf(exercise, captured);
    } catch (error) {
      flaw = describeError(error);
    }
    if (flaw === undefined) {
      await keep(dir, join(GOLDEN, exercise.name));
      return;
    }
    say(`${exercise.name}: once more: ${flaw}`);
    await pair.waitProtected();
  }
  throw new Error(`${exercise.name}: no good capture in ${TRIES}: ${flaw}`);
}

async function keep(from: string, to: string): Promise<void> {
  await rm(to, { recursive: true, force: true });
  await mkdir(to, { recursive: true });
  for (const file of CAPTURE_FILES) {
    await cp(join(from, captureFileName(file)), join(to, captureFileName(file)));
  }
}

function chosenExercises(names: readonly string[]): readonly Exercise[] {
  const known = EXERCISES.map(({ name }) => name);
  const unknown = names.find((name) => !known.includes(name));
  if (unknown !== undefined) {
    const expected = `expected some of ${known.join(', ')}`;
    throw new OperatorError('COLO_E_OPTION', `Service: found "${unknown}", ${expected}`);
  }
  return names.length === 0 ? EXERCISES : EXERCISES.filter(({ name }) => names.includes(name));
}

function say(text: string): void {
  process.stderr.write(`make-golden-captures: ${text}\n`);
}

async function main(): Promise<void> {
  const exercises = chosenExercises(process.argv.slice(2));
  const guest = await guestFiles(ROOT);
  const cleanup = new Cleanup();
  const stopListening = cleanup.onSignals();
  const failed: string[] = [];
  try {
    const primaryFlags = ['--accel', chooseAccelerator()];
    const pairOptions = { root: ROOT, guest, memoryMib: MEMORY_MIB, periodMs: PERIOD_MS };
    const pair = await PairLab.up({ ...pairOptions, mode: 'colo', primaryFlags }, cleanup);
    await pair.startSecondary();
    await pair.startPrimary();
    await pair.waitProtected();
    await pair.waitGuest();
    for (const exercise of exercises) {
      await make(pair, exercise).catch((error: unknown) => failed.push(describeError(error)));
    }
  } finally {
    await cleanup.run();
    stopListening();
  }
  if (failed.length > 0) throw new Error(failed.join('; '));
}

main().catch((error: unknown) => {
  say(`error: ${describeError(error)}`);
  process.exitCode = error instanceof OperatorError ? 64 : 1;
});
