import test from 'ava';
import fc from 'fast-check';
import { SequenceCheck } from '../../../scripts/clients/sequence.js';

const NONE = { missing: 0, repeats: 0, malformed: 0 };

function check(text: string): SequenceCheck {
  const sequence = new SequenceCheck();
  sequence.write(Buffer.from(text));
  return sequence;
}

test('successors count as good, whatever number comes first', (t) => {
  const sequence = new SequenceCheck();
  t.is(sequence.write(Buffer.from('41 100\n42 120\n43 140\n')), 3);
  t.deepEqual(sequence.counts, { ...NONE, lines: 3 });
});

test('numbers jumped over are missing, and the next one is checked against the last seen', (t) => {
  t.deepEqual(check('1 0\n4 60\n5 80\n').counts, { ...NONE, lines: 3, missing: 2 });
});

test('a number that is not larger is a repeat and does not move the check back', (t) => {
  t.deepEqual(check('5 0\n5 0\n4 0\n6 20\n').counts, { ...NONE, lines: 4, repeats: 2 });
});

test('a line of another shape is malformed', (t) => {
  t.deepEqual(check('1 0\nhello\n-2 0\n2 20\n').counts, { ...NONE, lines: 2, malformed: 2 });
});

test('an endless line is one malformed line and takes no memory', (t) => {
  const sequence = new SequenceCheck();
  for (let i = 0; i < 100; i++) sequence.write(Buffer.alloc(1000, 0x31));
  sequence.write(Buffer.from('\n7 0\n8 20\n'));
  t.deepEqual(sequence.counts, { ...NONE, lines: 2, malformed: 1 });
});

test('where the bytes are split makes no difference', (t) => {
  const text = '1 0\n2 20\n2 20\nx\n9 40\n10 60\n';
  const whole = check(text).counts;
  fc.assert(
    fc.property(fc.array(fc.nat(text.length)), (cuts) => {
      const sequence = new SequenceCheck();
      let at = 0;
      for (const cut of [...cuts.sort((a, b) => a - b), text.length]) {
        sequence.write(Buffer.from(text.slice(at, cut)));
        at = cut;
      }
      return JSON.stringify(sequence.counts) === JSON.stringify(whole);
    }),
  );
  t.pass();
});
