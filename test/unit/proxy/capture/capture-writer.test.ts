import test from 'ava';
import { encodeBatch } from '../../../../src/proxy/batch-wire.js';
import {
  CAPTURE_FILES,
  type CaptureFile,
  CaptureWriter,
} from '../../../../src/proxy/capture/capture-writer.js';
import { PcapDecoder } from '../../../../src/proxy/capture/pcap-wire.js';
import { decodeVerdictLine, type VerdictLine } from '../../../../src/proxy/capture/verdict-wire.js';
import { decodeAll } from './support.js';

const OPTIONS = {
  vnetBytes: 0,
  nic: 0,
  epoch: 41,
  nowUs: 1_000,
  wallOffsetUs: 1_700_000_000_000_000,
  bytesMax: 1 << 20,
};
const A = Buffer.from('00112233445566778899aabb0800aa', 'hex');
const B = Buffer.from('00112233445566778899aabb0800bbbb', 'hex');

/** Everything written so far, as if the disk were infinitely fast. */
class Disk {
  readonly files: Record<CaptureFile, Buffer[]> = {
    primary: [],
    secondary: [],
    inbound: [],
    verdicts: [],
  };

  drain(writer: CaptureWriter): void {
    for (const file of CAPTURE_FILES) {
      for (const piece of writer.take(file)) {
        this.files[file].push(piece);
        writer.written(piece.length);
      }
    }
  }

  frames(file: 'primary' | 'secondary' | 'inbound') {
    return decodeAll(new PcapDecoder(), this.files[file]);
  }

  lines(): VerdictLine[] {
    const text = Buffer.concat(this.files.verdicts).toString();
    checkEnd(text);
    return text.trimEnd().split('\n').map(decodeVerdictLine);
  }
}

function checkEnd(text: string): void {
  if (!text.endsWith('\n')) throw new Error('The last line has no end');
}

test('frames of each side come into their file with their time', (t) => {
  const writer = new CaptureWriter(OPTIONS);
  const disk = new Disk();
  writer.frame('primary', encodeBatch([A, B]), 1_001);
  disk.drain(writer);
  writer.frame('secondary', encodeBatch([B]), 1_002);
  writer.frame('primary', encodeBatch([A]), 1_003);
  disk.drain(writer);
  t.deepEqual(
    disk.frames('primary').map(({ timeUs, hex }) => [timeUs, hex]),
    [
      [1_700_000_000_001_001, A.toString('hex')],
      [1_700_000_000_001_001, B.toString('hex')],
      [1_700_000_000_001_003, A.toString('hex')],
    ],
  );
  t.is(disk.frames('secondary').length, 1);
  t.deepEqual(disk.frames('inbound'), []);
  t.deepEqual(writer.frames, { primary: 3, secondary: 1, inbound: 0 });
});

test('what stands in front of the Ethernet header is left out', (t) => {
  const writer = new CaptureWriter({ ...OPTIONS, vnetBytes: 10 });
  const disk = new Disk();
  const withHeader = (frame: Buffer): Buffer => Buffer.concat([Buffer.alloc(10, 1), frame]);
  // The last is shorter than a header: an odd guest, not an error.
  const short = Buffer.alloc(4);
  writer.frame('primary', encodeBatch([withHeader(A), withHeader(B), short]), 1_001);
  disk.drain(writer);
  t.deepEqual(
    disk.frames('primary').map(({ hex }) => hex),
    [A.toString('hex'), B.toString('hex'), ''],
  );
});

test('verdicts name frames by their number, and edges their place', (t) => {
  const writer = new CaptureWriter(OPTIONS);
  const disk = new Disk();
  const first = encodeBatch([A, B, A]);
  const second = encodeBatch([B]);
  const own = encodeBatch([A]);
  writer.frame('primary', first, 1_001);
  writer.frame('primary', second, 1_002);
  writer.verdict('primary', second, 0, 'hold');
  writer.verdict('primary', first, 4 + A.length, 'release');
  writer.verdict('primary', first, 8 + A.length + B.length, 'mismatch');
  writer.verdict('primary', first, 0, 'release');
  writer.verdict('primary', own, 0, 'made');
  writer.edge('close', 41, 1_003);
  writer.edge('start', 42, 1_004);
  writer.frame('secondary', own, 1_005);
  writer.verdict('secondary', own, 0, 'mismatch');
  writer.end('duration', 1_006);
  disk.drain(writer);
  const at = (us: number): number => 1_700_000_000_000_000 + us;
  const frame = (us: number, number: number | null, verdict: string, epoch = 41) => ({
    ...{ kind: 'frame', timeUs: at(us), side: 'primary', frame: number, verdict, epoch },
  });
  const frames = { primary: 4, secondary: 0, inbound: 0 };
  t.deepEqual(disk.lines() as unknown, [
    { kind: 'capture', version: 1, nic: 0, epoch: 41, timeUs: at(1_000) },
    frame(1_002, 4, 'held'),
    frame(1_002, 2, 'released'),
    frame(1_002, 3, 'mismatch'),
    frame(1_002, 1, 'released'),
    frame(1_002, null, 'made'),
    { kind: 'edge', timeUs: at(1_003), edge: 'close', epoch: 41, frames },
    { kind: 'edge', timeUs: at(1_004), edge: 'start', epoch: 42, frames },
    { ...frame(1_005, 1, 'mismatch', 42), side: 'secondary' },
    {
      ...{ kind: 'end', timeUs: at(1_006), reason: 'duration' },
      frames: { ...frames, secondary: 1 },
      dropped: { primary: 0, secondary: 0, inbound: 0, verdicts: 0 },
    },
  ]);
});

test('a batch that is used again is another batch', (t) => {
  const writer = new CaptureWriter(OPTIONS);
  const disk = new Disk();
  const batch = encodeBatch([A]);
  writer.frame('primary', batch, 1_001);
  writer.verdict('primary', batch, 0, 'release');
  batch.fill(0xee, 4);
  writer.frame('primary', batch, 1_002);
  writer.verdict('primary', batch, 0, 'release');
  disk.drain(writer);
  const [, one, two] = disk.lines();
  t.like(one, { frame: 1 });
  t.like(two, { frame: 2 });
  t.is(disk.frames('primary')[0]?.hex, A.toString('hex'));
});

test('a disk that does not keep up costs whole batches, counted, and memory stays bounded', (t) => {
  const queueBytesMax = 4_000;
  const writer = new CaptureWriter({ ...OPTIONS, queueBytesMax });
  const disk = new Disk();
  const batch = encodeBatch(Array.from({ length: 10 }, () => Buffer.alloc(100, 5)));
  const kept = encodeBatch([A]);
  for (let round = 0; round < 100; round++) writer.frame('primary', batch, 1_001 + round);
  // What was left out has no number.
  writer.verdict('primary', batch, 0, 'release');
  disk.drain(writer);
  const waiting = Buffer.concat(Object.values(disk.files).flat()).length;
  t.true(waiting <= queueBytesMax + 200, `${waiting} bytes waited`);
  writer.frame('primary', kept, 2_000);
  writer.verdict('primary', kept, 0, 'release');
  writer.end('duration', 2_001);
  disk.drain(writer);
  const taken = disk.frames('primary').length;
  t.is(taken, writer.frames.primary);
  t.is(writer.frames.primary + writer.dropped.primary, 1001);
  t.true(writer.dropped.primary >= 900);
  const frames = disk.lines().filter((line) => line.kind === 'frame');
  t.deepEqual(
    frames.map(({ frame }) => frame),
    [null, taken],
  );
  t.like(disk.lines().at(-1), { kind: 'end', dropped: { primary: writer.dropped.primary } });
});

test('verdicts are left out and counted, too, while nothing is written', (t) => {
  const writer = new CaptureWriter({ ...OPTIONS, queueBytesMax: 1_000 });
  const batch = encodeBatch([A]);
  writer.frame('primary', batch, 1_001);
  for (let round = 0; round < 100; round++) writer.verdict('primary', batch, 0, 'hold');
  t.true(writer.dropped.verdicts > 80);
  const before = writer.dropped.verdicts;
  new Disk().drain(writer);
  writer.verdict('primary', batch, 0, 'hold');
  t.is(writer.dropped.verdicts, before);
});

test('the size limit ends the capture between two batches', (t) => {
  const writer = new CaptureWriter({ ...OPTIONS, bytesMax: 1_000 });
  const disk = new Disk();
  const batch = encodeBatch([Buffer.alloc(300, 5)]);
  for (let round = 0; round < 10; round++) writer.frame('primary', batch, 1_001 + round);
  t.true(writer.full);
  t.is(writer.frames.primary, 2);
  writer.end('max-bytes', 2_000);
  disk.drain(writer);
  t.is(disk.frames('primary').length, 2);
  t.like(disk.lines().at(-1), { kind: 'end', reason: 'max-bytes', dropped: { primary: 0 } });
});

test('large frames and many of them keep their bytes and order', (t) => {
  const writer = new CaptureWriter({ ...OPTIONS, bytesMax: 1 << 30 });
  const disk = new Disk();
  const expected: string[] = [];
  for (let round = 0; round < 200; round++) {
    const frame = Buffer.alloc(1 + ((round * 7919) % 65_550), round);
    expected.push(frame.toString('hex'));
    writer.frame('inbound', encodeBatch([frame]), 1_001 + round);
    if (round % 3 === 0) disk.drain(writer);
  }
  disk.drain(writer);
  t.deepEqual(
    disk.frames('inbound').map(({ hex }) => hex),
    expected,
  );
});
