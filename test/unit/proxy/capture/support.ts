/** Capture files made by hand, and golden ones with what tcpdump says of them. */
import { readFileSync } from 'node:fs';
import {
  type ByteOrder,
  type CaptureDecoder,
  type CapturedFrame,
  encodePcapHeader,
  encodePcapRecord,
  type PcapForm,
} from '../../../../src/proxy/capture/pcap-wire.js';
import { goldenPath } from '../../../support/golden.js';

/** A frame in a form that can be compared and kept. */
export interface KeptFrame {
  readonly timeUs: number;
  readonly hex: string;
  readonly lengthBytes: number;
  readonly linkType: number;
}

/** Copies what is only borrowed. */
export function keep({ timeUs, bytes, lengthBytes, linkType }: CapturedFrame): KeptFrame {
  return { timeUs, hex: bytes.toString('hex'), lengthBytes, linkType };
}

/** Decodes pieces of a file to its end. */
export function decodeAll(decoder: CaptureDecoder, pieces: readonly Buffer[]): KeptFrame[] {
  const frames = pieces.flatMap((piece) => decoder.write(piece).map(keep));
  decoder.end();
  return frames;
}

/** A file, cut at the given offsets. */
export function cutAt(bytes: Buffer, offsets: readonly number[]): Buffer[] {
  const cuts = [0, ...offsets.map((at) => Math.min(at, bytes.length)), bytes.length];
  const sorted = cuts.sort((a, b) => a - b);
  return sorted.slice(1).map((end, index) => bytes.subarray(sorted[index], end));
}

/** A whole pcap file. */
export function pcapFile(
  frames: readonly { timeUs: number; bytes: Buffer }[],
  form?: PcapForm,
): Buffer {
  const records = frames.map(({ timeUs, bytes }) => encodePcapRecord(timeUs, bytes, form));
  return Buffer.concat([encodePcapHeader(form), ...records]);
}

/** The bytes of a golden capture. */
export function golden(name: string): Buffer {
  return readFileSync(goldenPath(name));
}

/** What `tcpdump -ttnxx` said: seconds with their fraction, and hex. */
export function tcpdumpText(name: string): { seconds: string; hex: string }[] {
  const frames: { seconds: string; hex: string }[] = [];
  for (const line of readFileSync(goldenPath(name), 'utf8').split('\n')) {
    const seconds = /^(\d+\.\d+) /.exec(line)?.[1];
    if (seconds !== undefined) frames.push({ seconds, hex: '' });
    const row = /^\s+0x[0-9a-f]{4}: {2}([0-9a-f ]+)$/.exec(line)?.[1];
    const last = frames.at(-1);
    if (row !== undefined && last !== undefined) last.hex += row.replaceAll(' ', '');
  }
  return frames;
}

/** A pcapng block of any type and body; `lengthBytes` and `again` override what is true. */
export function block(
  type: number,
  body: Buffer,
  order: ByteOrder,
  lie: { lengthBytes?: number; again?: number } = {},
): Buffer {
  const padded = Buffer.concat([body, Buffer.alloc(-body.length & 3)]);
  const length = lie.lengthBytes ?? padded.length + 12;
  return Buffer.concat(
    [uint32(type, order), uint32(length, order), padded].concat(uint32(lie.again ?? length, order)),
  );
}

/** The section header. */
export function section(order: ByteOrder, major = 1): Buffer {
  const body = Buffer.concat([
    uint32(0x1a2b_3c4d, order),
    uint16(major, order),
    uint16(0, order),
    Buffer.alloc(8, 0xff),
  ]);
  return block(0x0a0d_0d0a, body, order);
}

/** An interface with options: code and value. */
export function interfaceBlock(
  order: ByteOrder,
  linkType = 1,
  options: readonly (readonly [number, Buffer])[] = [],
): Buffer {
  const parts = [uint16(linkType, order), uint16(0, order), uint32(0, order)];
  for (const [code, value] of options) {
    parts.push(uint16(code, order), uint16(value.length, order), value);
    parts.push(Buffer.alloc(-value.length & 3));
  }
  return block(1, Buffer.concat([...parts, Buffer.alloc(options.length > 0 ? 4 : 0)]), order);
}

/** An enhanced packet block; `capturedBytes` overrides what is true. */
export function packetBlock(
  order: ByteOrder,
  packet: { face?: number; units: bigint; bytes: Buffer; capturedBytes?: number },
): Buffer {
  const { face = 0, units, bytes, capturedBytes = bytes.length } = packet;
  const fields = [face, Number(units >> 32n), Number(units & 0xffff_ffffn), capturedBytes];
  const head = [...fields, bytes.length].map((field) => uint32(field, order));
  return block(6, Buffer.concat([...head, bytes]), order);
}

/** 16 bits in either byte order. */
export function uint16(value: number, order: ByteOrder): Buffer {
  const bytes = Buffer.alloc(2);
  if (order === 'little') bytes.writeUInt16LE(value);
  else bytes.writeUInt16BE(value);
  return bytes;
}

/** 32 bits in either byte order. */
export function uint32(value: number, order: ByteOrder): Buffer {
  const bytes = Buffer.alloc(4);
  if (order === 'little') bytes.writeUInt32LE(value);
  else bytes.writeUInt32BE(value);
  return bytes;
}
