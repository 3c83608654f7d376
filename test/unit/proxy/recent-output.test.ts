/** What an SVM has said last, and is worth saying again. */
import test from 'ava';
import { encodeBatch, forEachFrame, RecentOutput } from '../../../src/proxy/index.js';
import { RECENT_OUTPUT_BYTES_MAX, VNET_HEADER_BYTES } from '../../../src/proxy/limits.js';
import {
  ACK,
  FIN,
  FLOW_V4,
  type Flow,
  icmpError,
  numbersOf,
  PSH,
  type Segment,
  SYN,
  tcpFrame,
} from '../../support/packets.js';

const FLOW: Flow = { ...FLOW_V4, vnetBytes: VNET_HEADER_BYTES };

function batchOf(...segments: readonly Segment[]): Buffer {
  return encodeBatch(segments.map((segment) => tcpFrame(FLOW, true, segment)));
}

function numbersIn(batch: Buffer): number[] {
  const numbers: number[] = [];
  forEachFrame(batch, (frame) => {
    numbers.push(numbersOf(FLOW, frame, true).seq);
  });
  return numbers;
}

test('what carries something is said again, in its order, and what was said is not touched', (t) => {
  const payload = Buffer.from('something');
  const output = new RecentOutput();
  const first = batchOf({ seq: 1, ack: 1, flags: SYN | ACK }, { seq: 2, ack: 1, flags: ACK });
  const second = batchOf(
    { seq: 3, ack: 1, flags: ACK | PSH, payload },
    { seq: 4, ack: 1, flags: FIN | ACK },
  );
  const before = Buffer.concat([first, second]);
  for (const batch of [first, encodeBatch([icmpError(FLOW, { seq: 1, flags: ACK })]), second]) {
    output.note(batch);
  }
  const again = output.segments();
  t.deepEqual(numbersIn(again), [1, 3, 4]);
  again.fill(0);
  t.deepEqual(Buffer.concat([first, second]), before);
});

test('what another state of the guest said is forgotten', (t) => {
  const output = new RecentOutput();
  output.note(batchOf({ seq: 1, flags: SYN }));
  output.clear();
  t.is(output.segments().length, 0);
});

test('the newest of it is kept, up to a bound', (t) => {
  const payload = Buffer.alloc(1000);
  const output = new RecentOutput();
  const count = 2 * Math.ceil(RECENT_OUTPUT_BYTES_MAX / payload.length);
  for (let seq = 0; seq < count; seq++) output.note(batchOf({ seq, flags: ACK, payload }));
  const kept = output.segments();
  t.true(kept.length <= RECENT_OUTPUT_BYTES_MAX && kept.length > RECENT_OUTPUT_BYTES_MAX / 2);
  t.is(numbersIn(kept).at(-1), count - 1);
  output.note(Buffer.alloc(RECENT_OUTPUT_BYTES_MAX + 1));
  t.is(output.segments().length, 0);
});
