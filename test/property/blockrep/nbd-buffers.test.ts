/** The memory a socket is read to, with requests that are under way for any time. */
import test from 'ava';
import fc from 'fast-check';
import { NBD_RECEIVE_BYTES } from '../../../src/blockrep/limits.js';
import { ReceiveBuffer } from '../../../src/blockrep/nbd-buffers.js';
import { NbdSession } from '../../../src/blockrep/nbd-session.js';
import { clientFlags, drain, infoData, option, request } from '../../unit/blockrep/support.js';

const SIZE = 1 << 30;

/** A session that has chosen an export, and the memory it is fed from. */
class Client {
  readonly receive = new ReceiveBuffer();
  readonly session = new NbdSession(new Map([['disk0', { sizeBytes: SIZE, readOnly: false }]]));
  /** Of the pieces that small things were read to. */
  readonly pieces = new Set<ArrayBufferLike>();

  constructor() {
    this.receive.session = this.session;
    for (const bytes of [clientFlags(3), option(7, infoData('disk0'))]) {
      this.feed(bytes, bytes.length);
      drain(this.session);
    }
  }

  /** One read of the socket, of at most `most` bytes; the rest. */
  feed(bytes: Buffer, most: number): Buffer {
    const direct = this.session.payloadRest !== undefined;
    const room = this.receive.next();
    if (!direct) this.pieces.add(room.buffer);
    const count = Math.min(room.length, most, bytes.length);
    room.set(bytes.subarray(0, count));
    this.receive.received(count);
    return bytes.subarray(count);
  }
}

function pattern(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; at += 1) bytes[at] = (seed * 31 + at * 7 + (at >> 8)) & 255;
  return bytes;
}

test('what a write was lent stays as it came until it is given back', (t) => {
  const writes = fc.array(
    fc.record({
      length: fc.oneof(fc.integer({ min: 1, max: 6000 }), fc.integer({ min: 1, max: 300_000 })),
      /** How many reads of the socket later it is done. */
      lasts: fc.integer({ min: 0, max: 6 }),
      /** As of a layer that keeps what it was given. */
      kept: fc.boolean(),
    }),
    { minLength: 1, maxLength: 60 },
  );
  const property = fc.property(
    writes,
    fc.array(fc.integer({ min: 1, max: 70_000 }), { minLength: 1, maxLength: 40 }),
    (list, sizes) => {
      const client = new Client();
      const expected = list.map(({ length }, index) => pattern(length, index));
      let rest: Buffer = Buffer.concat(
        expected.map((data, index) => request('write', { cookie: BigInt(index), data })),
      );
      const underWay: { data: Buffer; from: number; index: number; until: number }[] = [];
      const seen = expected.map(() => 0);
      for (let round = 0; rest.length > 0 || underWay.length > 0; round += 1) {
        if (rest.length > 0) rest = client.feed(rest, sizes[round % sizes.length] ?? 1);
        for (const each of drain(client.session)) {
          if (each.kind !== 'request' || each.request.kind !== 'write') continue;
          const { cookie, data } = each.request;
          const index = Number(cookie);
          const until = round + (list[index]?.lasts ?? 0);
          underWay.push({ data, from: seen[index] ?? 0, index, until });
          seen[index] = (seen[index] ?? 0) + data.length;
        }
        for (const each of underWay.filter(({ until }) => until <= round)) {
          underWay.splice(underWay.indexOf(each), 1);
          const { data, from, index } = each;
          const right = expected[index]?.subarray(from, from + data.length) ?? Buffer.alloc(0);
          if (!data.equals(right)) throw new Error(`write ${index} was changed under way`);
          if (list[index]?.kept !== true) client.receive.giveBack(data);
        }
      }
      return seen.every((bytes, index) => bytes === list[index]?.length);
    },
  );
  fc.assert(property, { numRuns: 300 });
  t.pass();
});

test('requests that are done before the next is read take no new memory', (t) => {
  const client = new Client();
  const small = request('write', { data: pattern(4096, 1) });
  const large = request('write', { data: pattern(1 << 20, 2) });
  for (let round = 0; round < (10 * NBD_RECEIVE_BYTES) / small.length; round += 1) {
    for (let rest: Buffer = round % 50 === 0 ? large : small; rest.length > 0; ) {
      rest = client.feed(rest, rest.length);
      for (const each of drain(client.session)) {
        if (each.kind === 'request' && each.request.kind === 'write')
          client.receive.giveBack(each.request.data);
      }
    }
  }
  t.is(client.pieces.size, 1);
});
