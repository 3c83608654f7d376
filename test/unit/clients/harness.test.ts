import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { Child, run } from '../../../scripts/harness/child.js';
import { Cleanup, withDeadline } from '../../../scripts/harness/cleanup.js';

function logPath(t: ExecutionContext): string {
  const directory = mkdtempSync(join(tmpdir(), 'colo-harness-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  return join(directory, 'log');
}

test('cleanup runs its steps once, the latest first', async (t) => {
  const done: number[] = [];
  const cleanup = new Cleanup();
  cleanup.add('one', () => void done.push(1));
  cleanup.add('two', async () => void done.push(2));
  t.false(cleanup.started);
  await Promise.all([cleanup.run(), cleanup.run()]);
  t.deepEqual(done, [2, 1]);
  t.true(cleanup.started);
});

test('cleanup goes on after a step that fails, and runs what is added meanwhile', async (t) => {
  const done: string[] = [];
  const cleanup = new Cleanup();
  cleanup.add('first', () => void done.push('first'));
  cleanup.add('broken', () => {
    cleanup.add('late', () => void done.push('late'));
    throw new Error('on purpose');
  });
  await cleanup.run();
  t.deepEqual(done, ['late', 'first']);
});

test('what is late is named', async (t) => {
  const never = new Promise<void>(() => {});
  await t.throwsAsync(withDeadline(never, 5, 'The answer'), { message: /^The answer: not done/ });
});

test('a command that fails is told with its exit code and its stderr', async (t) => {
  const error = await t.throwsAsync(run(['sh', '-c', 'echo because >&2; exit 3']));
  t.regex(error?.message ?? '', /exit code 3: because/);
});

test('a command that takes too long is killed with its children', async (t) => {
  const error = await t.throwsAsync(
    run(['sh', '-c', 'echo $$; sleep 100; true'], { deadlineMs: 200 }),
  );
  t.regex(error?.message ?? '', /SIGKILL, allowed: 200 ms/);
});

test('a program that is not there is an error', async (t) => {
  await t.throwsAsync(run(['/nonexistent/program']), { code: 'ENOENT' });
});

test('a child answers line by line, its stderr goes to the log', async (t) => {
  const log = logPath(t);
  const lines: string[] = [];
  const child = new Child({
    name: 'echo',
    command: ['sh', '-c', 'read line; echo "got $line"; echo noise >&2'],
    logPath: log,
    onLine: (line) => lines.push(line),
  });
  child.writeLine('hello');
  t.deepEqual(await child.ended, { code: 0, signal: null });
  t.deepEqual(lines, ['got hello']);
  t.is(readFileSync(log, 'utf8'), 'noise\n');
});

test('a child that ignores SIGTERM is killed', async (t) => {
  let tellStarted = (): void => {};
  const started = new Promise<void>((resolve) => {
    tellStarted = resolve;
  });
  const child = new Child({
    name: 'stubborn',
    command: [
      process.execPath,
      '-e',
      `process.on('SIGTERM', () => {}); setInterval(() => {}, 1000); console.log('up')`,
    ],
    logPath: logPath(t),
    onLine: () => tellStarted(),
  });
  await started;
  t.deepEqual(await child.stop(100), { code: null, signal: 'SIGKILL' });
});
