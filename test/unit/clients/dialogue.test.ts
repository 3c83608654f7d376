import test from 'ava';
import { Answerer, Asker, formatLine } from '../../../scripts/clients/dialogue.js';

/** Three lines of connection 7 as the asker sends them. */
const LINES = [formatLine(7, 0, 'abc'), formatLine(7, 1, ''), formatLine(7, 2, 'x'.repeat(3000))];

test('a line ends in the CRC-32C of all before the sum', (t) => {
  t.is(formatLine(7, 0, 'abc'), '7 0 abc c04200af\n');
});

test('an answerer echoes right lines, however they are cut', (t) => {
  const bytes = Buffer.from(LINES.join(''));
  for (let at = 0; at <= bytes.length; at++) {
    const answerer = new Answerer();
    const echo = answerer.write(bytes.subarray(0, at)) + answerer.write(bytes.subarray(at));
    answerer.end();
    t.deepEqual([echo, answerer.right, answerer.wrong], [LINES.join(''), 3, 0]);
  }
});

test('an asker takes exactly what it asked for an answer, however it is cut', (t) => {
  const bytes = Buffer.from(LINES.join(''));
  for (let at = 0; at <= bytes.length; at++) {
    const asker = new Asker(7);
    t.deepEqual([asker.ask('abc'), asker.ask(''), asker.ask('x'.repeat(3000))], LINES);
    const right = asker.write(bytes.subarray(0, at)) + asker.write(bytes.subarray(at));
    asker.end();
    t.deepEqual([right, asker.waiting, asker.wrong], [3, 0, 0]);
  }
});

/** Every way of changing, losing or repeating one byte of the first two lines. */
function* damages(): Generator<Buffer> {
  const bytes = Buffer.from(`${LINES[0]}${LINES[1]}`);
  for (let at = 0; at < bytes.length; at++) {
    const changed = Buffer.from(bytes);
    changed[at] = (changed[at] ?? 0) ^ 1;
    yield changed;
    yield Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1)]);
    yield Buffer.concat([bytes.subarray(0, at + 1), bytes.subarray(at)]);
  }
}

test('an answerer notices any byte that is changed, lost or repeated', (t) => {
  for (const bytes of damages()) {
    const answerer = new Answerer();
    answerer.write(bytes);
    answerer.end();
    t.true(answerer.wrong > 0, bytes.toString('latin1'));
  }
});

test('an asker notices any byte that is changed, lost or repeated', (t) => {
  for (const bytes of damages()) {
    const asker = new Asker(7);
    asker.ask('abc');
    asker.ask('');
    asker.write(bytes);
    asker.end();
    t.true(asker.wrong > 0, bytes.toString('latin1'));
  }
});

test('a line that is lost, repeated or of another connection is wrong', (t) => {
  const [first = '', second = '', third = ''] = LINES;
  for (const text of [first + third, first + first, second, first + formatLine(8, 1, '')]) {
    const answerer = new Answerer();
    answerer.write(Buffer.from(text));
    t.is(answerer.wrong, 1);
  }
});

test('a line without an end does not grow without bound', (t) => {
  const answerer = new Answerer();
  for (let i = 0; i < 100; i++) answerer.write(Buffer.alloc(1000, 'x'));
  t.true(answerer.wrong >= 19);
});
