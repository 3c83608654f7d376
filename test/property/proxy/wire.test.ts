import test from 'ava';
import fc from 'fast-check';
import { ProtocolError } from '../../../src/lib/index.js';
import { FrameQueue } from '../../../src/proxy/frame-queue.js';
import {
  AddressLearner,
  checkBatch,
  countFrames,
  decodeAddresses,
  encodeAddresses,
  encodeAnnouncement,
} from '../../../src/proxy/index.js';
import { batchArbitrary, frameArbitrary, framesOf, hostileBytesArbitrary } from './arbitraries.js';

/** Frames that a learner understands often: real types and versions over random content. */
const speakingFrameArbitrary = fc
  .tuple(
    fc.uint8Array({ minLength: 100, maxLength: 100 }),
    fc.constantFrom('0800', '0806', '86dd', '810000070800', '8100000786dd', '88b5'),
    fc.constantFrom('45', '60', '0001080006040001'),
    fc.integer({ min: 14, max: 100 }),
  )
  .map(([random, type, start, length]) => {
    const frame = Buffer.from(random);
    frame.writeUInt8(frame.readUInt8(6) & 0xfe, 6);
    frame.write(type, 12, 'hex');
    frame.write(start, 12 + (type.length >> 1), 'hex');
    return frame.subarray(0, length);
  });

test('a checked batch is exactly its frames, and anything else is a ProtocolError', (t) => {
  fc.assert(
    fc.property(fc.oneof(hostileBytesArbitrary, batchArbitrary), (bytes) => {
      const frames = orProtocolError(() => checkBatch(bytes));
      if (frames === undefined) return;
      t.is(countFrames(bytes), frames);
      t.is(framesOf([bytes]).length, frames);
    }),
  );
  t.pass();
});

test('a learner takes any bytes, stays bounded, and the peer reads back what it learned', (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.oneof(fc.uint8Array().map(Buffer.from), frameArbitrary, speakingFrameArbitrary), {
        maxLength: 80,
      }),
      (frames) => {
        const learner = new AddressLearner();
        for (const frame of frames) learner.learn(frame);
        const addresses = learner.addresses();
        t.true(addresses.length <= 32);
        t.deepEqual(decodeAddresses(encodeAddresses(addresses)), addresses);
        t.notThrows(() => checkBatch(encodeAnnouncement(learner.announceable())));
      },
    ),
  );
});

test('random bytes as an address list throw nothing but ProtocolError', (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
      orProtocolError(() => decodeAddresses(Buffer.from(bytes)));
      orProtocolError(() => decodeAddresses(Buffer.concat([Buffer.from([0, 1]), bytes])));
    }),
  );
  t.pass();
});

test('a queue keeps every frame in order, however it is filled and emptied', (t) => {
  fc.assert(
    fc.property(fc.array(fc.oneof(batchArbitrary, fc.nat({ max: 5 }))), (steps) => {
      const queue = new FrameQueue(1000);
      const expected: string[] = [];
      const taken: string[] = [];
      for (const step of steps) {
        if (typeof step !== 'number') {
          queue.push(step);
          expected.push(...framesOf([step]));
          continue;
        }
        for (let count = 0; count < step; count++) {
          const { front, offset } = queue;
          if (front === undefined) break;
          const end = offset + 4 + front.readUInt32BE(offset);
          taken.push(...framesOf([front.subarray(offset, end)]));
          queue.advance(end);
        }
      }
      t.deepEqual(taken, expected.slice(0, taken.length));
      t.is(queue.clear(), expected.length - taken.length);
    }),
  );
  t.pass();
});

/** The result, or undefined after a `ProtocolError`; any other error goes through. */
function orProtocolError<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch (error) {
    if (error instanceof ProtocolError) return undefined;
    throw error;
  }
}
