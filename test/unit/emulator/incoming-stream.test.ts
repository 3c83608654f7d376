import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import test from 'ava';
import {
  encodeIncomingBegin,
  encodeIncomingDevices,
  IncomingAnswers,
  parseBios,
} from '../../../src/emulator/incoming-stream.js';
import {
  DEVICE_STATE_BYTES_MAX,
  FIRMWARE_BYTES_MAX,
  INCOMING_ANSWER_BYTES_MAX,
} from '../../../src/emulator/limits.js';
import { ProtocolError } from '../../../src/lib/index.js';
import { goldenPath } from '../../support/golden.js';

const BEGIN = '5145564d00000003 07 0000000d 70632d6934343066782d372e32';
const RETURN_PATH_AND_PING = '08 0001 0000 08 0002 0004 00c0ffee';
const PAGE = 4096;

const saved = gunzipSync(readFileSync(goldenPath('device-state-7.2.bin.gz')));

function bytes(hex: string): Buffer {
  return Buffer.from(hex.replaceAll(' ', ''), 'hex');
}

test('what goes in at launch is header, configuration, return path and ping', (t) => {
  const begin = encodeIncomingBegin('pc-i440fx-7.2', undefined, 0xc0_ffee);
  t.is(begin.toString('hex'), bytes(`${BEGIN} ${RETURN_PATH_AND_PING}`).toString('hex'));
});

test('a BIOS goes along as a section ram with its block alone, page by page', (t) => {
  const bios = Buffer.concat([Buffer.alloc(PAGE, 0xaa), Buffer.alloc(PAGE, 0xbb)]);
  const block = '07 70632e62696f73';
  const end = '0000000000000010 7e 434f4c4f';
  const expected = Buffer.concat([
    bytes(BEGIN),
    bytes('01 434f4c4f 03 72616d 00000000 00000004'),
    bytes(`0000000000002004 ${block} 0000000000002000 ${end}`),
    bytes(`03 434f4c4f 0000000000000008 ${block}`),
    bios.subarray(0, PAGE),
    bytes('0000000000001028'),
    bios.subarray(PAGE),
    bytes(`${end} ${RETURN_PATH_AND_PING}`),
  ]);
  t.deepEqual(encodeIncomingBegin('pc-i440fx-7.2', bios, 0xc0_ffee), expected);
});

test('a BIOS of no page, or of a part of one, is not sent', (t) => {
  for (const size of [0, 1, PAGE - 1, PAGE + 1]) {
    t.throws(() => encodeIncomingBegin('pc', Buffer.alloc(size), 1), { message: /whole pages/ });
  }
});

test('the load is the saved state without its header', (t) => {
  t.deepEqual(encodeIncomingDevices(saved), saved.subarray(8));
});

test('a state that is none, too short or too long is refused', (t) => {
  const noEnd = Buffer.from(saved);
  noEnd[saved.length - 1] = 1;
  const tooLong = Buffer.concat([saved, Buffer.alloc(DEVICE_STATE_BYTES_MAX)]);
  for (const state of [Buffer.alloc(0), saved.subarray(0, 22), noEnd, tooLong]) {
    t.throws(() => encodeIncomingDevices(state), { instanceOf: ProtocolError });
  }
});

const OTHERS = [
  'fw=genroms/kvmvapic.bin size=0x002400 name="kvmvapic.bin"',
  '/rom@etc/acpi/tables size=0x200000 name="etc/acpi/tables"',
  'addr=0000000000100000 size=0x001000 mem=ram name="loaded.bin"',
];
const BIOS = 'addr=00000000fffc0000 size=0x040000 mem=rom name="bios-256k.bin"';

test('the BIOS is the ROM that ends at 4 GiB', (t) => {
  const text = [...OTHERS, BIOS, ''].join('\r\n');
  t.deepEqual(parseBios(text), { file: 'bios-256k.bin', sizeBytes: 256 * 1024 });
  t.is(parseBios(OTHERS.join('\n')), undefined);
  t.is(parseBios(''), undefined);
});

test('a ROM elsewhere, a second one, and one of an odd or an unlikely size are refused', (t) => {
  const max = FIRMWARE_BYTES_MAX;
  const rom = (sizeBytes: number): string => {
    const address = (2 ** 32 - sizeBytes).toString(16).padStart(16, '0');
    return `addr=${address} size=0x${sizeBytes.toString(16)} mem=rom name="b"`;
  };
  t.is(parseBios(rom(max))?.sizeBytes, max);
  for (const text of [
    BIOS.replace('fffc0000', 'fffb0000'),
    `${BIOS}\n${BIOS}`,
    BIOS.replace('bios', 'bi"os'),
    BIOS.replace('size=0x040000', 'size=none'),
    rom(max + PAGE),
    rom(PAGE + 1),
  ]) {
    t.throws(() => parseBios(text), { instanceOf: ProtocolError }, text);
  }
});

test('pong and shut are read, however they come in pieces', (t) => {
  const answers = bytes('0002 0004 00000001 0001 0004 00000000');
  const expected = [
    { kind: 'pong', value: 1 },
    { kind: 'shut', error: 0 },
  ] as const;
  for (let at = 0; at <= answers.length; at += 1) {
    const reader = new IncomingAnswers();
    const found = [answers.subarray(0, at), answers.subarray(at)].flatMap((piece) =>
      reader.write(piece),
    );
    t.deepEqual(found, [...expected]);
  }
});

test('another message, another length and too much at once are refused', (t) => {
  for (const hex of ['0003 0004 00000000', '0002 0005 0000000000', '0000 0000', '0001 ffff']) {
    t.throws(() => new IncomingAnswers().write(bytes(hex)), { instanceOf: ProtocolError }, hex);
  }
  const much = Buffer.alloc(INCOMING_ANSWER_BYTES_MAX + 1);
  t.throws(() => new IncomingAnswers().write(much), { message: /at once/ });
});
