import { closeSync } from 'node:fs';
import test, { type ExecutionContext } from 'ava';
import { GuestPort, PacketDevice } from '../../../src/linux/index.js';

/** More than `net.unix.max_dgram_qlen` is anywhere. */
const MANY = 2000;

interface Ends {
  readonly ours: GuestPort;
  /** What QEMU has. */
  readonly theirs: PacketDevice;
  /** The driver's end of the offload socket. */
  readonly driver: PacketDevice;
}

function open(t: ExecutionContext): Ends {
  const ours = new GuestPort('the test');
  const theirs = new PacketDevice('the other end', ours.qemuFds.frames);
  const driver = new PacketDevice('the driver', ours.qemuFds.offload);
  t.teardown(() => {
    // The same descriptors as the port's: closed here first, while nobody can have reused them.
    theirs.close();
    driver.close();
    ours.close();
  });
  return { ours, theirs, driver };
}

function batchOf(...packets: readonly Buffer[]): Buffer {
  return Buffer.concat(
    packets.flatMap((packet) => {
      const length = Buffer.alloc(4);
      length.writeUInt32BE(packet.length, 0);
      return [length, packet];
    }),
  );
}

function numbered(count: number, bytes: number): Buffer {
  const packets = Array.from({ length: count }, (_, index) => {
    const packet = Buffer.alloc(bytes);
    packet.writeUInt32BE(index, 0);
    return packet;
  });
  return batchOf(...packets);
}

/** Everything that waits; `readBatch` lends, so it is copied. */
function readAll(device: PacketDevice): Buffer {
  const batches: Buffer[] = [];
  for (let batch = device.readBatch(); batch !== undefined; batch = device.readBatch()) {
    batches.push(Buffer.from(batch));
  }
  return Buffer.concat(batches);
}

test('packets keep their borders and their order, however many wait', (t) => {
  const { ours, theirs } = open(t);
  const sent = numbered(MANY, 60);
  t.deepEqual(ours.writeBatch(sent, 0), { end: sent.length, packets: MANY, result: 'ok' });
  t.deepEqual(readAll(theirs), sent);
  t.is(theirs.writeBatch(sent, 0).result, 'ok');
  t.deepEqual(readAll(ours), sent);
});

test('a batch can be written from any packet on, and only a few of it', (t) => {
  const { ours, theirs } = open(t);
  const sent = numbered(5, 60);
  t.deepEqual(ours.writeBatch(sent, 64, 3), { end: 4 * 64, packets: 3, result: 'ok' });
  t.deepEqual(readAll(theirs), sent.subarray(64, 4 * 64));
});

test('unread bytes are 0 when all is read, and not before', (t) => {
  const { ours, theirs } = open(t);
  t.is(ours.unreadBytes(), 0);
  ours.writeBatch(numbered(300, 60), 0);
  theirs.readBatch();
  t.true(ours.unreadBytes() > 0);
  theirs.readBatch();
  t.is(ours.unreadBytes(), 0);
});

test('a full socket takes the rest once there is room, and nothing is lost', async (t) => {
  const { ours, theirs } = open(t);
  const sent = numbered(400, 60_000);
  let at = 0;
  let waits = 0;
  const received: Buffer[] = [];
  await new Promise<void>((resolve) => {
    const write = (): void => {
      const written = ours.writeBatch(sent, at);
      at = written.end;
      if (written.result === 'ok') {
        resolve();
        return;
      }
      t.is(written.result, 'full');
      waits++;
      ours.onceWritable(write);
    };
    write();
    theirs.onReadable(() => received.push(Buffer.from(theirs.readBatch() ?? [])));
  });
  received.push(readAll(theirs));
  t.true(waits > 0);
  t.true(Buffer.concat(received).equals(sent));
});

test('a packet longer than any frame is left out and counted', (t) => {
  const { ours, theirs } = open(t);
  const longest = Buffer.alloc(65_567, 1);
  theirs.writeBatch(batchOf(Buffer.alloc(65_568), longest, Buffer.alloc(90_000)), 0);
  t.true(readAll(ours).equals(batchOf(longest)));
  t.is(ours.truncatedPackets, 2);
});

test('paused, nothing is read; resumed, what waited is', async (t) => {
  const { ours, theirs } = open(t);
  const sent = numbered(1, 60);
  let received: Buffer | undefined;
  const arrived = new Promise<void>((resolve) => {
    ours.onReadable(() => {
      received = Buffer.from(ours.readBatch() ?? []);
      resolve();
    });
  });
  ours.pauseReading();
  theirs.writeBatch(sent, 0);
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
  t.is(received, undefined);
  ours.resumeReading();
  await arrived;
  t.deepEqual(received, sent);
});

test('the end of the other side comes after its last packet, and writing to it is down', async (t) => {
  const { ours, theirs } = open(t);
  const sent = numbered(1, 60);
  theirs.writeBatch(sent, 0);
  const received: Buffer[] = [];
  const ended = new Promise<void>((resolve) => {
    ours.onReadable(() => {
      received.push(Buffer.from(ours.readBatch() ?? []));
      if (ours.ended) resolve();
    });
  });
  theirs.close();
  await ended;
  t.deepEqual(Buffer.concat(received), sent);
  t.is(ours.writeBatch(sent, 0).result, 'down');
  t.is(ours.failure, undefined);
});

test('the flags that QEMU sets are told, the latest of several', async (t) => {
  const { ours, driver } = open(t);
  driver.writeBatch(batchOf(Buffer.of(0, 0, 0, 0), Buffer.of(15, 0, 0, 0)), 0);
  t.is(await new Promise((resolve) => ours.onOffload(resolve)), 15);
});

test('closing gives all descriptors back', (t) => {
  const ours = new GuestPort('the test');
  const { frames, offload } = ours.qemuFds;
  ours.close();
  ours.close();
  for (const fd of [ours.fd, frames, offload]) t.throws(() => closeSync(fd), { code: 'EBADF' });
});
