import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { encodeCommand } from '../../../scripts/clients/resp.js';
import {
  fileCommand,
  fileText,
  foundFile,
  foundLoad,
  loadBlock,
  parseAppendOnlyFile,
  sha256Hex,
  storedValue,
} from '../../../scripts/crash-run/contents.js';

test('the shell writes what is expected of a file, and leaves nothing else', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'colo-crash-contents-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  for (const version of [1, 12]) {
    execFileSync('sh', ['-c', fileCommand(directory, 's0-1', version)]);
    t.is(readFileSync(join(directory, 's0-1'), 'utf8'), fileText('s0-1', version));
  }
  t.is(execFileSync('ls', [directory], { encoding: 'utf8' }), 's0-1\n');
});

test('a file is whole only with all bytes of its version', (t) => {
  const text = fileText('s1-0', 3);
  const judge = (bytes: string) => {
    return foundFile('s1-0', bytes.split('\n')[0] ?? '', sha256Hex(Buffer.from(bytes)));
  };
  t.deepEqual(judge(text), { version: 3, whole: true });
  t.deepEqual(judge(text.slice(0, -1)), { version: 3, whole: false });
  t.deepEqual(judge(fileText('s1-1', 3)), { version: 0, whole: false });
  t.deepEqual(judge(''), { version: 0, whole: false });
});

test('an append-only file is read up to its torn tail', (t) => {
  const commands = ['a', 'b', 'c'].map((key) => encodeCommand(['SET', key, storedValue(key)]));
  const bytes = Buffer.concat([encodeCommand(['SELECT', '0']), ...commands]);
  const whole = parseAppendOnlyFile(bytes);
  t.deepEqual([...whole.sets.keys()], ['a', 'b', 'c']);
  t.false(whole.zeroTail);
  const torn = parseAppendOnlyFile(bytes.subarray(0, -1));
  t.deepEqual([...torn.sets.keys()], ['a', 'b']);
  t.is(torn.sets.get('a'), storedValue('a'));
  const zeroes = parseAppendOnlyFile(Buffer.concat([bytes.subarray(0, -3), Buffer.alloc(900)]));
  t.deepEqual([...zeroes.sets.keys()], ['a', 'b']);
  t.true(zeroes.zeroTail);
  t.throws(() => parseAppendOnlyFile(Buffer.concat([bytes, Buffer.from('junk\r\n')])));
});

test("diskload's ring: gaps and changed bytes are found, a torn next block is not held against it", (t) => {
  const ring = Buffer.alloc(1024 * 65_536);
  const put = (number: number) => loadBlock(number).copy(ring, (number % 1024) * 65_536);
  t.deepEqual(foundLoad(Buffer.alloc(0)), { highest: 0, bad: 0 });
  for (let number = 1; number <= 40; number++) put(number);
  t.deepEqual(foundLoad(ring), { highest: 40, bad: 0 });
  ring.fill(7, 41 * 65_536, 41 * 65_536 + 4096);
  t.deepEqual(foundLoad(ring), { highest: 40, bad: 0 });
  ring.writeUInt8((ring[10 * 65_536 + 60_000] ?? 0) ^ 1, 10 * 65_536 + 60_000);
  t.deepEqual(foundLoad(ring), { highest: 40, bad: 1 });
});

test("a block's words are the guest's generator's", (t) => {
  const block = loadBlock(5);
  let seed = ((5n * 0x9e3779b97f4a7c15n) % (1n << 64n)) | 1n;
  for (const at of [16, 24, 32]) {
    seed ^= (seed << 13n) % (1n << 64n);
    seed ^= seed >> 7n;
    seed ^= (seed << 17n) % (1n << 64n);
    t.is(block.readBigUInt64LE(at), seed);
  }
});
