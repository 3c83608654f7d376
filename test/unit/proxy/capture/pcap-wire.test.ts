import test from 'ava';
import { ProtocolError } from '../../../../src/lib/index.js';
import { CaptureFileDecoder } from '../../../../src/proxy/capture/capture-decoder.js';
import { RECORD_BYTES_MAX } from '../../../../src/proxy/capture/limits.js';
import {
  encodePcapHeader,
  encodePcapRecord,
  PcapDecoder,
  type PcapForm,
} from '../../../../src/proxy/capture/pcap-wire.js';
import { cutAt, decodeAll, golden, keep, pcapFile, tcpdumpText } from './support.js';

const MALFORMED = { instanceOf: ProtocolError };
const FORMS: readonly PcapForm[] = [
  { byteOrder: 'little', resolution: 'us' },
  { byteOrder: 'little', resolution: 'ns' },
  { byteOrder: 'big', resolution: 'us' },
  { byteOrder: 'big', resolution: 'ns' },
];
const FRAMES = [
  { timeUs: 1_700_000_000_123_456, bytes: Buffer.from('00112233445566778899aabb0800', 'hex') },
  { timeUs: 1_700_000_000_999_999, bytes: Buffer.alloc(0) },
  { timeUs: 1_700_000_001_000_000, bytes: Buffer.alloc(1514, 7) },
];
const KEPT = FRAMES.map(({ timeUs, bytes }) =>
  keep({ timeUs, bytes, lengthBytes: bytes.length, linkType: 1 }),
);

for (const resolution of ['us', 'ns'] as const) {
  test(`a file of tcpdump in ${resolution} says what tcpdump reads in it`, (t) => {
    const frames = decodeAll(new PcapDecoder(), [golden(`capture-${resolution}.pcap`)]);
    const expected = tcpdumpText(`capture-${resolution}.txt`);
    t.is(expected.length, 12);
    t.deepEqual(
      frames.map(({ hex }) => hex),
      expected.map(({ hex }) => hex),
    );
    const times = frames.map(({ timeUs }) => (timeUs / 1e6).toFixed(6));
    t.deepEqual(
      times,
      expected.map(({ seconds }) => seconds.slice(0, -(resolution === 'ns' ? 3 : 0) || undefined)),
    );
  });

  test(`a file of tcpdump in ${resolution} is the same split at every offset`, (t) => {
    const bytes = golden(`capture-${resolution}.pcap`);
    const whole = decodeAll(new PcapDecoder(), [bytes]);
    for (let at = 0; at <= bytes.length; at++) {
      t.deepEqual(decodeAll(new CaptureFileDecoder(), cutAt(bytes, [at])), whole);
    }
    const single = cutAt(
      bytes,
      Array.from(bytes, (_, at) => at),
    );
    t.deepEqual(decodeAll(new CaptureFileDecoder(), single), whole);
  });

  test(`a file of tcpdump in ${resolution} that is cut is whole only between records`, (t) => {
    const bytes = golden(`capture-${resolution}.pcap`);
    const ends = new Set([24]);
    for (let at = 24; at < bytes.length; ends.add(at)) at += 16 + bytes.readUInt32LE(at + 8);
    for (let length = 0; length < bytes.length; length++) {
      const decoder = new CaptureFileDecoder();
      decoder.write(bytes.subarray(0, length));
      if (ends.has(length)) t.notThrows(() => decoder.end());
      else t.throws(() => decoder.end(), MALFORMED, `${length} bytes`);
    }
  });
}

test('what tcpdump wrote is encoded to the same bytes', (t) => {
  const bytes = golden('capture-us.pcap');
  const parts = [encodePcapHeader()];
  for (const { timeUs, bytes: frame } of new PcapDecoder().write(bytes)) {
    parts.push(encodePcapRecord(timeUs, frame));
  }
  t.deepEqual(Buffer.concat(parts), bytes);
});

for (const form of FORMS) {
  test(`frames survive a file, ${form.byteOrder}-endian, ${form.resolution}`, (t) => {
    const bytes = pcapFile(FRAMES, form);
    t.deepEqual(decodeAll(new PcapDecoder(), [bytes]), KEPT);
    t.deepEqual(decodeAll(new CaptureFileDecoder(), [bytes]), KEPT);
  });

  test(`every length that is no frame's is refused, ${form.byteOrder}-endian ${form.resolution}`, (t) => {
    const file = pcapFile(FRAMES, form);
    const write = (length: number): Buffer => {
      const bytes = Buffer.from(file);
      if (form.byteOrder === 'little') bytes.writeUInt32LE(length, 32);
      else bytes.writeUInt32BE(length, 32);
      return bytes;
    };
    for (const length of [RECORD_BYTES_MAX + 1, 0x7fff_ffff, 0xffff_ffff]) {
      const error = t.throws(() => new PcapDecoder().write(write(length)), MALFORMED);
      t.is(error?.message, `Record 1 of ${length} bytes exceeds ${RECORD_BYTES_MAX}`);
    }
    // Allowed, but there are not so many bytes: the file is cut.
    const decoder = new PcapDecoder();
    t.deepEqual(decoder.write(write(RECORD_BYTES_MAX)), []);
    t.throws(() => decoder.end(), { message: /ends in record 1, in its frame/ });
  });

  test(`a fraction of a second or more is refused, ${form.byteOrder}-endian ${form.resolution}`, (t) => {
    const bytes = pcapFile(FRAMES, form);
    const limit = form.resolution === 'us' ? 1e6 : 1e9;
    if (form.byteOrder === 'little') bytes.writeUInt32LE(limit, 28);
    else bytes.writeUInt32BE(limit, 28);
    t.throws(() => new PcapDecoder().write(bytes), { ...MALFORMED, message: /fraction/ });
  });
}

test('a frame that was cut says how long it was', (t) => {
  const bytes = pcapFile(FRAMES);
  bytes.writeUInt32LE(1500, 36);
  const [first] = decodeAll(new PcapDecoder(), [bytes]);
  t.is(first?.lengthBytes, 1500);
  t.is(first?.hex.length, 28);
});

test('the link type is told, without what may stand above it', (t) => {
  const bytes = pcapFile(FRAMES);
  bytes.writeUInt32LE(0x2400_0071, 20);
  t.is(decodeAll(new PcapDecoder(), [bytes])[0]?.linkType, 113);
});

test('other versions are refused by name', (t) => {
  const bytes = pcapFile([]);
  bytes.writeUInt16LE(3, 4);
  t.throws(() => new PcapDecoder().write(bytes), { message: /^Found version 3\.4 of pcap/ });
});

test('what is no capture is told by its first bytes', (t) => {
  const refusal = (bytes: Buffer): string => {
    try {
      const decoder = new CaptureFileDecoder();
      decoder.write(bytes);
      decoder.end();
    } catch (error) {
      if (error instanceof ProtocolError) return error.message;
      throw error;
    }
    return 'none';
  };
  t.is(refusal(Buffer.alloc(0)), 'The file is empty');
  t.is(refusal(Buffer.from('abc')), 'The file is too short for a capture');
  t.regex(refusal(Buffer.from('#!/bin/sh')), /^The file begins with 23212f62, expected the magic/);
  t.regex(refusal(Buffer.from('1f8b0800', 'hex')), /compressed with gzip/);
  t.regex(refusal(Buffer.from('28b52ffd', 'hex')), /compressed with zstd/);
});
