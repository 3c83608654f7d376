import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import test from 'ava';
import { ConsoleLog } from '../../../src/emulator/console-log-shell.js';
import { makeTestDirectory, silentLog, until } from '../../support/emulator-subjects.js';

test('the console goes to the file, which moves aside at its bound', async (t) => {
  const directory = makeTestDirectory();
  t.teardown(directory.remove);
  const path = join(directory.path, 'console.log');
  const source = new PassThrough();
  const log = new ConsoleLog({ path, source, log: silentLog, bytesMax: 10 });
  for (const text of ['12345678', 'abcdefgh', 'xyz']) source.write(text);
  source.end();
  await once(source, 'close');
  await until('The last write', () => readFileSync(path, 'utf8') === 'xyz');
  t.is(readFileSync(`${path}.1`, 'utf8'), 'abcdefgh');
  t.is(log.discardedBytes, 8);
});

test('a file that can not be opened only costs the log', async (t) => {
  const source = new PassThrough();
  const warned: string[] = [];
  const log = { ...silentLog, warn: (message: string) => warned.push(message) };
  new ConsoleLog({ path: '/nonexistent/console.log', source, log });
  await until('The warning', () => warned.length > 0);
  // More than any buffer holds: it must flow off.
  for (let i = 0; i < 100; i++) source.write(Buffer.alloc(65536));
  await until('Draining', () => source.writableLength === 0);
  t.deepEqual(warned, ['The console log can not be written']);
});
