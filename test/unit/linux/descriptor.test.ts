import { closeSync, fstatSync, openSync, readFileSync } from 'node:fs';
import test from 'ava';
import { duplicateDescriptor, SystemCallError } from '../../../src/linux/index.js';

test('a duplicate stands for the same file and is not inherited by children', (t) => {
  const fd = openSync('/proc/self/status', 'r');
  const second = duplicateDescriptor(fd);
  t.not(second, fd);
  t.is(fstatSync(second).ino, fstatSync(fd).ino);
  closeSync(fd);
  const flags = /^flags:\s+([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${second}`, 'utf8'));
  t.is(Number.parseInt(flags?.[1] ?? '0', 8) & 0o2000000, 0o2000000);
  t.true(fstatSync(second).isFile());
  closeSync(second);
  t.throws(() => fstatSync(second), { code: 'EBADF' });
});

test('what is not open can not be duplicated', (t) => {
  const error = t.throws(() => duplicateDescriptor(1 << 20), { instanceOf: SystemCallError });
  t.is(error?.errno, 9);
});
