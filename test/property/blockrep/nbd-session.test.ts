/** The NBD session under any split, any mutation and random bytes. */
import test from 'ava';
import fc from 'fast-check';
import {
  NBD_OPTION_BYTES_MAX,
  NBD_PART_ALIGNMENT,
  NBD_PART_BYTES_MIN,
  NBD_PAYLOAD_BYTES_MAX,
} from '../../../src/blockrep/limits.js';
import {
  type NbdInstruction,
  type NbdRequest,
  NbdSession,
} from '../../../src/blockrep/nbd-session.js';
import { ProtocolError } from '../../../src/lib/index.js';
import { clientFlags, infoData, metaData, option, request } from '../../unit/blockrep/support.js';

const SIZE = 1 << 20;
const EXPORTS = new Map([
  ['disk0', { sizeBytes: SIZE, readOnly: false }],
  ['frozen', { sizeBytes: SIZE, readOnly: true }],
]);

/** Feeds the chunks as a shell does; a ProtocolError is the last entry. */
function feed(chunks: readonly Buffer[]): (NbdInstruction | 'protocol error')[] {
  const session = new NbdSession(EXPORTS);
  const all: (NbdInstruction | 'protocol error')[] = [];
  try {
    for (const chunk of [Buffer.alloc(0), ...chunks]) {
      session.receive(Buffer.from(chunk));
      for (let each = session.next(); each !== undefined; each = session.next()) all.push(each);
      // What is kept of a client that sends and sends is one option at most.
      if (session.unreadBytes > NBD_OPTION_BYTES_MAX) throw new Error('keeps too much');
    }
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error;
    all.push('protocol error');
    if (session.next() !== undefined) throw new Error('goes on after a protocol error');
  }
  return all;
}

/** What a layer would do out of range, or to a read-only disk. */
function check(instructions: readonly (NbdInstruction | 'protocol error')[]): void {
  let readOnly: boolean | undefined;
  for (const each of instructions) {
    if (each === 'protocol error') continue;
    if (each.kind === 'attach') readOnly = EXPORTS.get(each.name)?.readOnly;
    if (each.kind !== 'request') continue;
    const found = each.request;
    if (readOnly === undefined) throw new Error('a request before an export');
    if (found.kind === 'flush') continue;
    const { offset, length } = found;
    if (!Number.isSafeInteger(offset) || offset < 0 || offset + length > SIZE) {
      throw new Error(`out of range: ${offset} ${length}`);
    }
    const asks = found.kind === 'read' || found.kind === 'blockStatus';
    if (readOnly && !asks) throw new Error('a change of a read-only export');
    if (found.kind === 'write' && found.data.length !== length) throw new Error('short payload');
  }
}

const bytes = (maxLength: number) => fc.uint8Array({ maxLength }).map((each) => Buffer.from(each));
const optionBytes = fc.oneof(
  fc.tuple(fc.nat(12), bytes(20)).map(([number, data]) => option(number, data)),
  fc
    .tuple(fc.constantFrom(6, 7), fc.constantFrom('disk0', 'frozen', 'x'), fc.array(fc.nat(5)))
    .map(([number, name, wanted]) => option(number, infoData(name, wanted))),
  fc.constant(option(8)),
  fc
    .tuple(fc.constantFrom(9, 10), fc.constantFrom('disk0', 'frozen', ''), fc.nat(3))
    .map(([number, name, count]) =>
      option(number, metaData(name, ['base:allocation', 'base:', 'x:y'].slice(0, count))),
    ),
);
const offsets = fc.oneof(fc.nat(SIZE + 1000), fc.bigInt(0n, 2n ** 64n - 1n));
const lengths = fc.oneof(fc.nat(5000), fc.constantFrom(SIZE, NBD_PAYLOAD_BYTES_MAX, 0xffff_ffff));
const requestBytes = fc.oneof(
  fc
    .record({ flags: fc.nat(3), offset: offsets, data: bytes(300) })
    .map((fields) => request('write', fields)),
  fc
    .tuple(fc.constantFrom(0, 3, 4, 5, 6, 7), fc.nat(31), offsets, lengths)
    .map(([command, flags, offset, length]) => request(command, { flags, offset, length })),
);
const stream = fc
  .tuple(
    fc.array(optionBytes, { maxLength: 6 }),
    fc.constantFrom(option(7, infoData('disk0')), option(1, Buffer.from('frozen'))),
    fc.array(requestBytes, { maxLength: 12 }),
  )
  .map(([options, choice, requests]) =>
    Buffer.concat([clientFlags(), ...options, choice, ...requests]),
  );

function split(whole: Buffer, cuts: readonly number[]): Buffer[] {
  const places = [...new Set(cuts.map((cut) => cut % (whole.length + 1)))].sort((a, b) => a - b);
  return [...places, whole.length].map((end, i) => whole.subarray(places[i - 1] ?? 0, end));
}

test('a stream means the same however it is split', (t) => {
  fc.assert(
    fc.property(stream, fc.array(fc.nat(2000), { maxLength: 40 }), (whole, cuts) => {
      const expected = feed([whole]);
      check(expected);
      t.deepEqual(feed(split(whole, cuts)), expected);
    }),
    { numRuns: 300 },
  );
});

test('a stream in single bytes means the same', (t) => {
  fc.assert(
    fc.property(stream, (whole) => {
      const single = Array.from(whole, (byte) => Buffer.from([byte]));
      t.deepEqual(feed(single), feed([whole]));
    }),
    { numRuns: 30 },
  );
});

test('a mutated stream yields checked requests or a protocol error', (t) => {
  const mutation = fc.tuple(fc.nat(2000), fc.nat(255));
  fc.assert(
    fc.property(stream, fc.array(mutation, { minLength: 1, maxLength: 8 }), (whole, changes) => {
      const mutated = Buffer.from(whole);
      for (const [place, byte] of changes) mutated[place % mutated.length] = byte;
      t.notThrows(() => check(feed([mutated])));
    }),
    { numRuns: 2000 },
  );
});

test('random bytes, bare or after the greeting, yield checked requests or a protocol error', (t) => {
  const start = fc.constantFrom(
    Buffer.alloc(0),
    clientFlags(),
    Buffer.concat([clientFlags(), option(7, infoData('disk0'))]),
  );
  fc.assert(
    fc.property(start, bytes(400), (head, tail) => {
      t.notThrows(() => check(feed([head, tail])));
    }),
    { numRuns: 2000 },
  );
});

test('a large write comes out whole and in order, in parts as they come', (t) => {
  const size = 8 * NBD_PART_BYTES_MIN;
  const exports = new Map([['disk0', { sizeBytes: 2 * size, readOnly: false }]]);
  const cuts = fc.array(fc.nat(size), { maxLength: 20 });
  fc.assert(
    fc.property(fc.nat(size), fc.integer({ min: 1, max: size }), cuts, (offset, length, places) => {
      const data = Buffer.alloc(length);
      for (let at = 0; at + 4 <= length; at += 4) data.writeUInt32BE(at, at);
      const session = new NbdSession(exports);
      const found: NbdRequest[] = [];
      const opening = Buffer.concat([clientFlags(), option(7, infoData('disk0'))]);
      const write = request('write', { flags: 1, offset, data });
      for (const chunk of [Buffer.alloc(0), opening, ...split(write, places)]) {
        session.receive(chunk);
        for (let each = session.next(); each !== undefined; each = session.next()) {
          if (each.kind === 'request') found.push(each.request);
        }
      }
      let at = offset;
      for (const [index, each] of found.entries()) {
        if (each.kind !== 'write') throw new Error(`a ${each.kind}`);
        const last = index === found.length - 1;
        t.is(each.offset, at);
        at += each.length;
        t.is(each.fua, last);
        t.true(last || (each.length >= NBD_PART_BYTES_MIN && at % NBD_PART_ALIGNMENT === 0));
        t.is(each.part?.first ?? true, index === 0);
        t.is(each.part?.last ?? true, last);
      }
      t.is(at, offset + length);
      t.deepEqual(Buffer.concat(found.map((each) => (each as { data: Buffer }).data)), data);
    }),
    { numRuns: 200 },
  );
});
