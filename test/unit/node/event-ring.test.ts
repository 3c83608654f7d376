import test from 'ava';
import type { EventBody } from '../../../src/config/index.js';
import { EventRing } from '../../../src/node/index.js';
import { EVENTS_ANSWER_LENGTH_MAX, EVENTS_KEPT_MAX } from '../../../src/node/limits.js';

const PLACE = { timeUs: 1_000_000, role: 'primary' } as const;
const DISK: EventBody = { kind: 'disk', reason: 'A disk failed' };

function ringOf(count: number): EventRing {
  const ring = new EventRing();
  for (let i = 0; i < count; i += 1) ring.add(DISK, PLACE);
  return ring;
}

/** Everything behind `after`, as a reader gets it who asks until there is no more. */
function readAll(ring: EventRing, after: number | null): number[] {
  const numbers: number[] = [];
  let seen = after;
  for (;;) {
    const { events, next } = ring.since(seen);
    if (events.length === 0) return numbers;
    numbers.push(...events.map(({ sequence }) => sequence));
    seen = next;
  }
}

test('events are numbered from 1 and read in order, by any number of readers', (t) => {
  const ring = ringOf(3);
  t.deepEqual(readAll(ring, null), [1, 2, 3]);
  t.deepEqual(readAll(ring, 2), [3]);
  t.deepEqual(readAll(ring, 3), []);
  ring.add(DISK, PLACE);
  t.deepEqual(readAll(ring, 3), [4]);
});

test('a reader that is behind is told how many events it has lost', (t) => {
  const ring = ringOf(EVENTS_KEPT_MAX + 25);
  const [first, second] = ring.since(5).events;
  t.like(first, { kind: 'lost', count: 20, reason: 'lost 20 events', sequence: 25 });
  t.is(second?.sequence, 26);
  t.is(readAll(ring, 5).length, EVENTS_KEPT_MAX + 1);
});

test('who asks for all that is kept has lost nothing', (t) => {
  const ring = ringOf(3 * EVENTS_KEPT_MAX);
  const numbers = readAll(ring, null);
  t.is(numbers.length, EVENTS_KEPT_MAX);
  t.is(numbers[0], 2 * EVENTS_KEPT_MAX + 1);
});

test('a number that no event has had is of an agent that has ended', (t) => {
  t.deepEqual(readAll(ringOf(2), 900), [1, 2]);
});

test('an answer is bounded however long the reasons are', (t) => {
  const ring = new EventRing();
  const reason = 'x'.repeat(100_000);
  for (let i = 0; i < 200; i += 1) ring.add({ kind: 'disk', reason }, PLACE);
  const { events } = ring.since(0);
  t.true(JSON.stringify(events).length <= EVENTS_ANSWER_LENGTH_MAX + events.length + 2);
  t.true(events.every((event) => event.reason.endsWith('...')));
  t.is(readAll(ring, 0).length, 200);
});
