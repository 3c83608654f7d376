/** The pure bookkeeping against naive models, and the disk channel's messages. */
import test from 'ava';
import fc from 'fast-check';
import { DirtyBitmap } from '../../../src/blockrep/dirty-bitmap.js';
import { decodeDiskMessage, encodeDiskMessage } from '../../../src/blockrep/disk-wire.js';
import { DISK_MESSAGE_TYPE, type DiskMessage } from '../../../src/blockrep/index.js';
import { DIRTY_CLUSTER_BYTES, OVERLAY_BLOCK_BYTES } from '../../../src/blockrep/limits.js';
import { encodeExtents } from '../../../src/blockrep/nbd-extents.js';
import { OverlayMap } from '../../../src/blockrep/overlay-map.js';
import { RangeQueue, type RangeTicket } from '../../../src/blockrep/range-queue.js';
import { ProtocolError } from '../../../src/lib/index.js';

const u53 = fc.maxSafeNat();
const disk = fc.nat(63);
const data = fc.uint8Array({ minLength: 1, maxLength: 64 }).map((bytes) => Buffer.from(bytes));
const at = { offset: fc.nat(2 ** 31), length: fc.integer({ min: 1, max: 2 ** 31 }) };

const message: fc.Arbitrary<DiskMessage> = fc.oneof(
  fc.record({ kind: fc.constant('write' as const), epoch: u53, disk, offset: at.offset, data }),
  fc.record({ kind: fc.constantFrom('zero' as const, 'trim' as const), epoch: u53, disk, ...at }),
  fc.record({ kind: fc.constant('sync' as const), disk, offset: at.offset, data }),
  fc.record({ kind: fc.constant('syncZero' as const), disk, ...at }),
  fc.record({
    kind: fc.constant('epochEnd' as const),
    epoch: u53,
    disk,
    operations: u53,
    bytes: u53,
  }),
);

test('a disk message is decoded as it was encoded', (t) => {
  fc.assert(
    fc.property(message, (original) => {
      const { type, parts } = encodeDiskMessage(original);
      const decoded = decodeDiskMessage(type, Buffer.concat(parts));
      t.deepEqual(decoded, original);
    }),
  );
});

test('a disk message cut at any length is refused or shorter, never a crash', (t) => {
  fc.assert(
    fc.property(message, (original) => {
      const { type, parts } = encodeDiskMessage(original);
      const payload = Buffer.concat(parts);
      const head = parts[0]?.length ?? 0;
      for (let length = 0; length < payload.length; length++) {
        const cut = payload.subarray(0, length);
        if (parts.length === 2 && length > head) {
          const decoded = decodeDiskMessage(type, cut);
          t.is('data' in decoded ? decoded.data.length : -1, length - head);
        } else {
          t.throws(() => decodeDiskMessage(type, cut), { instanceOf: ProtocolError });
        }
      }
    }),
    { numRuns: 30 },
  );
});

test('random bytes decode to a bounded message or throw ProtocolError', (t) => {
  const types = fc.oneof(fc.constantFrom(...Object.values(DISK_MESSAGE_TYPE)), fc.nat(255));
  fc.assert(
    fc.property(types, fc.uint8Array({ maxLength: 80 }), (type, bytes) => {
      try {
        const decoded = decodeDiskMessage(type, Buffer.from(bytes));
        t.true(decoded.disk < 64);
        if ('offset' in decoded) {
          const length = 'data' in decoded ? decoded.data.length : decoded.length;
          t.true(length > 0 && Number.isSafeInteger(decoded.offset + length));
        }
      } catch (error) {
        t.true(error instanceof ProtocolError, String(error));
      }
    }),
    { numRuns: 2000 },
  );
});

const CLUSTERS = 200;

test('the dirty bitmap marks and takes what a set would', (t) => {
  const size = CLUSTERS * DIRTY_CLUSTER_BYTES - 512;
  const mark = fc.record({ offset: fc.nat(size - 1), length: fc.nat(40 * DIRTY_CLUSTER_BYTES) });
  const steps = fc.array(fc.oneof(mark, fc.nat(50)), { maxLength: 40 });
  fc.assert(
    fc.property(steps, (all) => {
      const bitmap = new DirtyBitmap(size);
      const model = new Set<number>();
      for (const step of all) {
        if (typeof step !== 'number') {
          const length = Math.min(step.length, size - step.offset);
          bitmap.mark(step.offset, length);
          const first = Math.floor(step.offset / DIRTY_CLUSTER_BYTES);
          for (let c = first; c * DIRTY_CLUSTER_BYTES < step.offset + length; c++) {
            if (length > 0) model.add(c);
          }
        } else {
          const ranges = bitmap.take(step);
          let taken = 0;
          for (const { offset, length } of ranges) {
            t.true(offset + length <= size);
            for (
              let c = offset / DIRTY_CLUSTER_BYTES;
              c * DIRTY_CLUSTER_BYTES < offset + length;
              c++
            ) {
              t.true(model.delete(c), `cluster ${c} was not dirty`);
              taken += 1;
            }
          }
          t.is(taken, Math.min(step, taken + model.size));
        }
        t.is(bitmap.dirtyClusters, model.size);
      }
    }),
  );
});

const BLOCKS = 3 * OverlayMap.groupBlocks;

test('the overlay map finds what a plain map would, and no slot twice', (t) => {
  const blocks = fc.record({
    kind: fc.constantFrom('assign' as const, 'zeroes' as const, 'remove' as const),
    first: fc.oneof(fc.nat(BLOCKS - 1), fc.constantFrom(0, 1024, 2048)),
    count: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constantFrom(1024, 2048, 1500)),
  });
  fc.assert(
    fc.property(fc.array(blocks, { maxLength: 25 }), (steps) => {
      const map = new OverlayMap();
      const model = new Map<number, number | 'zeroes'>();
      for (const { kind, first, count } of steps) {
        const end = Math.min(first + count, BLOCKS);
        if (kind === 'zeroes') map.setZeroes(first, end - first);
        if (kind === 'remove') map.remove(first, end - first);
        for (let block = first; block < end; block++) {
          if (kind === 'assign') model.set(block, map.assign(block));
          else if (kind === 'zeroes') model.set(block, 'zeroes');
          else model.delete(block);
        }
      }
      const positions = new Set<number>();
      let stored = 0;
      for (let block = 0; block < BLOCKS; block++) {
        const found = map.find(block);
        if (found !== (model.get(block) ?? 'image')) t.fail(`block ${block} is ${found}`);
        if (typeof found !== 'number') continue;
        stored += 1;
        positions.add(found);
      }
      t.is(positions.size, stored);
      t.is(map.storedBytes, stored * OVERLAY_BLOCK_BYTES);
      checkSegments(map);
    }),
    { numRuns: 100 },
  );

  function checkSegments(map: OverlayMap): void {
    const size = BLOCKS * OVERLAY_BLOCK_BYTES;
    let next = 100;
    for (const segment of map.segments(100, size - 200)) {
      if (segment.offset !== next) t.fail(`a segment starts at ${segment.offset}, not ${next}`);
      next += segment.length;
      for (const inside of [segment.offset, next - 1]) {
        const block = Math.floor(inside / OVERLAY_BLOCK_BYTES);
        const found = map.find(block);
        const expected =
          segment.kind === 'overlay'
            ? segment.position + (block * OVERLAY_BLOCK_BYTES - segment.offset)
            : segment.kind;
        if (found !== expected) t.fail(`block ${block}: ${found}, in a segment of ${expected}`);
      }
    }
    t.is(next, size - 100);
  }
});

test('the range queue lets conflicting requests run one at a time and in order', (t) => {
  const entry = fc.record({
    offset: fc.nat(30),
    length: fc.integer({ min: 1, max: 10 }),
    exclusive: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(fc.oneof(entry, fc.nat(100)), { maxLength: 60 }), (steps) => {
      const queue = new RangeQueue();
      const waiting: RangeTicket[] = [];
      const running: RangeTicket[] = [];
      const conflicts = (a: RangeTicket, b: RangeTicket) =>
        a.start < b.end && b.start < a.end && (a.exclusive || b.exclusive);
      const start = (ticket: RangeTicket) => {
        if (running.some((other) => conflicts(other, ticket))) t.fail('two conflicting run');
        running.push(ticket);
      };
      const finish = (index: number) => {
        const [ticket] = running.splice(index, 1);
        if (ticket === undefined) return;
        for (const free of queue.leave(ticket)) {
          const place = waiting.indexOf(free);
          if (waiting.slice(0, place).some((earlier) => conflicts(earlier, free))) {
            t.fail('overtaken');
          }
          waiting.splice(place, 1);
          start(free);
        }
      };
      for (const step of steps) {
        if (typeof step === 'number') {
          if (running.length > 0) finish(step % running.length);
          continue;
        }
        const ticket = queue.enter(step.offset, step.length, step.exclusive);
        if (ticket.blockers === 0) start(ticket);
        else waiting.push(ticket);
      }
      while (running.length > 0) finish(0);
      t.is(waiting.length, 0, 'somebody waits for ever');
      t.is(queue.size, 0);
    }),
  );
});

test('a block status covers its range from the start, data where data is', (t) => {
  // Lengths of holes and data in turn; the first hole may be missing.
  const parts = fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1, maxLength: 12 });
  const shape = fc.record({ parts, dataFirst: fc.boolean(), offset: fc.nat(1000) });
  fc.assert(
    fc.property(
      shape,
      fc.nat(8),
      fc.boolean(),
      ({ parts: lengths, dataFirst, offset }, max, one) => {
        const countMax = max + 1;
        const ranges: { offset: number; length: number }[] = [];
        const model: number[] = [];
        for (const [index, length] of lengths.entries()) {
          const isData = (index % 2 === 0) === dataFirst;
          if (isData) ranges.push({ offset: offset + model.length, length });
          for (let i = 0; i < length; i++) model.push(isData ? 0 : 3);
        }
        const range = { offset, length: model.length };
        const bytes = encodeExtents(range, ranges.slice(0, countMax), { countMax, one });
        const found: number[] = [];
        for (let place = 4; place < bytes.length; place += 8) {
          for (let i = bytes.readUInt32BE(place); i > 0; i--)
            found.push(bytes.readUInt32BE(place + 4));
        }
        t.true(found.length > 0);
        t.deepEqual(found, model.slice(0, found.length));
        if (!one && ranges.length < countMax) t.is(found.length, model.length);
      },
    ),
  );
});
