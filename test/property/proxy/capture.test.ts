/** Capture files of any content and any split, and any bytes at all. */
import test from 'ava';
import fc from 'fast-check';
import { ProtocolError } from '../../../src/lib/index.js';
import { CaptureFileDecoder } from '../../../src/proxy/capture/capture-decoder.js';
import type { PcapForm } from '../../../src/proxy/capture/pcap-wire.js';
import {
  cutAt,
  decodeAll,
  interfaceBlock,
  packetBlock,
  pcapFile,
  section,
} from '../../unit/proxy/capture/support.js';

const form: fc.Arbitrary<PcapForm> = fc.record({
  byteOrder: fc.constantFrom('little', 'big'),
  resolution: fc.constantFrom('us', 'ns'),
});
const frames = fc.array(
  fc.record({
    timeUs: fc.nat({ max: 0xffff_ffff }).map((seconds) => seconds * 1_000_000 + (seconds % 977)),
    bytes: fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
  }),
  { maxLength: 12 },
);
const cuts = fc.array(fc.nat({ max: 3000 }), { maxLength: 20 });

function pcapngFile(
  content: readonly { timeUs: number; bytes: Buffer }[],
  { byteOrder }: PcapForm,
) {
  const packets = content.map(({ timeUs, bytes }) =>
    packetBlock(byteOrder, { units: BigInt(timeUs), bytes }),
  );
  return Buffer.concat([section(byteOrder), interfaceBlock(byteOrder), ...packets]);
}

for (const [name, encode] of [
  ['pcap', pcapFile],
  ['pcapng', pcapngFile],
] as const) {
  test(`a ${name} file of any frames says the same however it is split`, (t) => {
    fc.assert(
      fc.property(frames, form, cuts, (content, how, at) => {
        const found = decodeAll(new CaptureFileDecoder(), cutAt(encode(content, how), at));
        t.deepEqual(
          found.map(({ timeUs, hex }) => ({ timeUs, hex })),
          content.map(({ timeUs, bytes }) => ({ timeUs, hex: bytes.toString('hex') })),
        );
      }),
    );
  });

  test(`a ${name} file with any bytes changed is read or refused, in bounded memory`, (t) => {
    const changes = fc.array(
      fc.tuple(fc.nat({ max: 2000 }), fc.constantFrom(0, 1, 0x7f, 0x80, 0xff)),
      { minLength: 1, maxLength: 6 },
    );
    fc.assert(
      fc.property(frames, form, cuts, changes, (content, how, at, edits) => {
        const bytes = encode(content, how);
        for (const [offset, value] of edits) bytes[offset % bytes.length] = value;
        try {
          const total = decodeAll(new CaptureFileDecoder(), cutAt(bytes, at));
          const captured = total.reduce((sum, { hex }) => sum + hex.length / 2, 0);
          t.true(captured <= bytes.length);
        } catch (error) {
          if (!(error instanceof ProtocolError)) throw error;
          t.true(error.message.length < 300);
        }
      }),
      { numRuns: 2000 },
    );
  });
}
