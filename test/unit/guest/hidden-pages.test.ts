/** How the pages that a guest no longer sees are looked for, part by part. */
import test, { type ExecutionContext } from 'ava';
import { type Emulator, QemuError } from '../../../src/emulator/index.js';
import { releaseHiddenPages } from '../../../src/guest/index.js';
import { HIDDEN_PART_BYTES } from '../../../src/guest/limits.js';
import type { PageRange } from '../../../src/lib/index.js';
import { LogCollector } from '../transport/support.js';

const SIZE = 2.5 * HIDDEN_PART_BYTES;

/** `release` is what the emulator says; the parts that it was asked for are collected. */
function start(t: ExecutionContext, release: (count: number) => number | undefined) {
  const parts: PageRange[] = [];
  let [exit, check] = [() => {}, () => {}];
  const exited = new Promise<{ reason: string }>((resolve) => {
    exit = () => resolve({ reason: 'the test is over' });
  });
  t.teardown(exit);
  const log = new LogCollector();
  const emulator = {
    ram: { sizeBytes: SIZE },
    exited,
    releaseHidden(part: PageRange) {
      parts.push(part);
      check();
      return release(parts.length);
    },
  } as unknown as Emulator;
  releaseHiddenPages(emulator, log);
  const asked = async (count: number): Promise<void> => {
    while (parts.length < count) {
      await new Promise<void>((resolve) => {
        check = resolve;
      });
    }
  };
  return { parts, log, asked };
}

/** Some turns of the event loop, in which timers of 25 ms are over several times. */
async function aWhile(): Promise<void> {
  for (let turn = 0; turn < 10; turn++) await new Promise((resolve) => setTimeout(resolve, 25));
}

test('all of RAM is looked at, again and again', async (t) => {
  const { parts, asked } = start(t, () => 4096);
  await asked(5);
  const pass = [
    { offset: 0, length: HIDDEN_PART_BYTES },
    { offset: HIDDEN_PART_BYTES, length: HIDDEN_PART_BYTES },
    { offset: 2 * HIDDEN_PART_BYTES, length: HIDDEN_PART_BYTES / 2 },
  ];
  t.deepEqual(parts.slice(0, 5), [...pass, ...pass.slice(0, 2)]);
});

test('where nothing can be hidden it is asked once', async (t) => {
  const { parts, asked } = start(t, () => undefined);
  await asked(1);
  await aWhile();
  t.is(parts.length, 1);
});

test('a guest that has ended is left alone, and what else goes wrong is told once', async (t) => {
  const ended = start(t, () => {
    throw new QemuError('QEMU has ended, its RAM is gone');
  });
  const broken = start(t, () => {
    throw new Error('fallocate: no space');
  });
  await Promise.all([ended.asked(1), broken.asked(1)]);
  await aWhile();
  t.deepEqual([ended.parts.length, broken.parts.length], [1, 1]);
  t.is(ended.log.lines.length, 0);
  const told = broken.log.lines.map(({ level, fields }) => [level, fields['reason']]);
  t.deepEqual(told, [['warn', 'fallocate: no space']]);
});
