/** Writes that refer to the client's memory: any pieces, any split, anything made up. */
import test from 'ava';
import fc from 'fast-check';
import { NBD_REFERENCES_MAX } from '../../../src/blockrep/limits.js';
import type { ClientMemory } from '../../../src/blockrep/nbd-references.js';
import { type NbdRequest, NbdSession } from '../../../src/blockrep/nbd-session.js';
import { NBD_COMMAND_FLAG } from '../../../src/blockrep/nbd-wire.js';
import { ProtocolError } from '../../../src/lib/index.js';
import {
  clientFlags,
  drain,
  infoData,
  option,
  references,
  request,
} from '../../unit/blockrep/support.js';

const MEMORY = Buffer.alloc(1 << 20);
for (let at = 0; at < MEMORY.length; at += 4) MEMORY.writeUInt32LE((at * 2654435761) >>> 0, at);

/** Fails the test when it is asked for anything else than what it has. */
const memory: ClientMemory = {
  sizeBytes: MEMORY.length,
  copyOut(offset, target, at, length) {
    const inside = offset >= 0 && length >= 0 && offset + length <= MEMORY.length;
    if (!inside || at < 0 || at + length > target.length) throw new Error('out of range');
    MEMORY.copy(target, at, offset, offset + length);
  },
  writeOut: () => 0,
};

interface Piece {
  readonly offset: number | bigint;
  readonly length: number;
}

function attached(name: string): NbdSession {
  const exports = new Map([
    ['disk0', { sizeBytes: 1 << 30, readOnly: false }],
    ['frozen', { sizeBytes: 1 << 30, readOnly: true }],
  ]);
  const session = new NbdSession(exports, { memory: () => memory });
  session.receive(Buffer.concat([clientFlags(3), option(7, infoData(name))]));
  drain(session);
  return session;
}

function write(
  pieces: readonly Piece[],
  fields: { cookie: bigint; length?: number; fua?: boolean },
) {
  const length = fields.length ?? pieces.reduce((sum, each) => sum + each.length, 0);
  const flags = NBD_COMMAND_FLAG.reference | (fields.fua === true ? 1 : 0);
  const head = request('write', { cookie: fields.cookie, flags, offset: 4096, length });
  return Buffer.concat([head, references(pieces)]);
}

/** What comes out, with the bytes fed in such portions. */
function feed(session: NbdSession, bytes: Buffer, sizes: readonly number[]): NbdRequest[] {
  const requests: NbdRequest[] = [];
  for (let at = 0, turn = 0; at < bytes.length; turn += 1) {
    const size = sizes[turn % sizes.length] ?? 1;
    session.receive(Buffer.from(bytes.subarray(at, at + size)));
    for (const each of drain(session)) if (each.kind === 'request') requests.push(each.request);
    at += size;
  }
  return requests;
}

const piece = fc
  .record({ offset: fc.nat(MEMORY.length - 1), length: fc.nat(9000) })
  .map(({ offset, length }) => ({ offset, length: Math.min(length, MEMORY.length - offset) }));
const writes = fc.array(fc.array(piece, { minLength: 1, maxLength: 40 }), {
  minLength: 1,
  maxLength: 5,
});
const sizes = fc.array(fc.integer({ min: 1, max: 700 }), { minLength: 1, maxLength: 20 });

test('a write has the bytes that it refers to, in their order, however it is split', (t) => {
  const property = fc.property(writes, sizes, fc.boolean(), (list, portions, fua) => {
    const bytes = list.map((pieces, index) => write(pieces, { cookie: BigInt(index), fua }));
    const flush = request('flush', { cookie: 99n });
    const requests = feed(attached('disk0'), Buffer.concat([...bytes, flush]), portions);
    t.is(requests.length, list.length + 1);
    for (const [index, pieces] of list.entries()) {
      const found = requests[index];
      if (found?.kind !== 'lentWrite') return false;
      const expected = pieces.map(({ offset, length }) => MEMORY.subarray(offset, offset + length));
      const data = Buffer.alloc(found.length);
      found.data.copyTo(data);
      t.true(data.equals(Buffer.concat(expected)));
      t.deepEqual([found.cookie, found.offset, found.fua], [BigInt(index), 4096, fua]);
    }
    return true;
  });
  fc.assert(property, { numRuns: 200 });
});

test('what is made up is refused before anything is copied', (t) => {
  const any: fc.Arbitrary<Piece> = fc.record({
    offset: fc.oneof(fc.nat(MEMORY.length + 5000), fc.bigInt(0n, 2n ** 64n - 1n)),
    length: fc.oneof(fc.nat(9000), fc.nat(0xffff_ffff)),
  });
  const property = fc.property(
    fc.array(any, { minLength: 1, maxLength: 10 }),
    fc.option(fc.nat(100_000), { nil: undefined }),
    (pieces, length) => {
      const whole = pieces.reduce((sum, each) => sum + each.length, 0);
      const told = length ?? Math.min(whole, 0xffff_ffff);
      const good =
        told === whole &&
        told <= 32 << 20 &&
        pieces.every((each) => Number(each.offset) + each.length <= MEMORY.length);
      const session = attached('disk0');
      const bytes = write(pieces, { cookie: 1n, length: told });
      if (good) return feed(session, bytes, [bytes.length]).length === 1;
      t.throws(() => feed(session, bytes, [bytes.length]), { instanceOf: ProtocolError });
      return session.next() === undefined;
    },
  );
  fc.assert(property, { numRuns: 500 });
});

test('no pieces and more than the bound end the connection, at once', (t) => {
  for (const count of [0, NBD_REFERENCES_MAX + 1, 0xffff_ffff]) {
    const head = write([], { cookie: 1n, length: 4096 });
    head.writeUInt32BE(count, head.length - 4);
    t.throws(() => feed(attached('disk0'), head, [head.length]), { instanceOf: ProtocolError });
  }
});

test('a write that is refused is skipped with all it refers to', (t) => {
  const session = attached('frozen');
  const read = request('read', { cookie: 2n, length: 512 });
  const bytes = Buffer.concat([write([{ offset: 0, length: 70_000 }], { cookie: 1n }), read]);
  session.receive(bytes);
  const [refusal, next] = drain(session);
  t.is(refusal?.kind === 'send' ? refusal.bytes.readUInt32BE(4) : 0, 1, 'EPERM');
  t.is(next?.kind === 'request' ? next.request.kind : '', 'read');
});

test('without memory to refer to the flag is an unknown one', (t) => {
  const session = new NbdSession(new Map([['disk0', { sizeBytes: 1 << 30, readOnly: false }]]));
  session.receive(Buffer.concat([clientFlags(3), option(7, infoData('disk0'))]));
  drain(session);
  const data = Buffer.alloc(512);
  session.receive(request('write', { cookie: 1n, flags: NBD_COMMAND_FLAG.reference, data }));
  const [refusal] = drain(session);
  t.is(refusal?.kind === 'send' ? refusal.bytes.readUInt32BE(4) : 0, 22, 'EINVAL');
});
