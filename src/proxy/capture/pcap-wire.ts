/**
 * The classic pcap file: what tcpdump writes and every analyser reads.
 *
 * File header, 24 bytes, in the byte order of the writer, which the magic tells:
 *
 *     field       offset  size  meaning                                limit
 *     magic       0       4     a1b2c3d4 microseconds, a1b23c4d        one of these, in either
 *                               nanoseconds                            byte order
 *     major       4       2     2                                      2
 *     minor       6       2     4                                      4
 *     reserved    8       8     once time zone and accuracy            not looked at
 *     snaplen     16      4     longest record of the writer           not trusted
 *     link type   20      4     low 16 bits; 1 is Ethernet             -
 *
 * Then records: a header of 16 bytes and the frame.
 *
 *     seconds     0       4     since 1970                             -
 *     fraction    4       4     micro- or nanoseconds                  less than a second
 *     captured    8       4     bytes that follow                      RECORD_BYTES_MAX
 *     length      12      4     bytes that the frame had on the wire   -
 *
 * In: a file's bytes, cut anywhere, untrusted. Out: frames, whose bytes share memory with the chunks,
 * which must not be modified afterwards. Lengths are checked before anything is allocated.
 * Source: draft-ietf-opsawg-pcap-04, sections 4 and 5.
 */
import { assert, ProtocolError } from '../../lib/index.js';
import { ChunkReader } from './chunk-reader.js';
import { RECORD_BYTES_MAX } from './limits.js';

/** One frame of a capture file. */
export interface CapturedFrame {
  /** Since 1970, whole microseconds; nanoseconds are cut off. */
  readonly timeUs: number;
  /** As LINKTYPE_ETHERNET; pcapng files may mix them. */
  readonly linkType: number;
  /** What was captured; shares memory with the chunk it came in. */
  readonly bytes: Buffer;
  /** What the frame had on the wire; more than was captured when it was cut. */
  readonly lengthBytes: number;
}

/** What every decoder of capture files does. After it threw it must not be used again. */
export interface CaptureDecoder {
  /** The frames that `chunk` completes. Throws `ProtocolError`. */
  write(chunk: Buffer): CapturedFrame[];
  /** The file is over. Throws `ProtocolError` in the middle of anything. */
  end(): void;
}

export type ByteOrder = 'little' | 'big';
export type TimeResolution = 'us' | 'ns';

/** How an encoder writes; the decoder takes all. */
export interface PcapForm {
  readonly byteOrder: ByteOrder;
  readonly resolution: TimeResolution;
}

export const LINKTYPE_ETHERNET = 1;
export const PCAP_HEADER_BYTES = 24;
export const PCAP_RECORD_HEADER_BYTES = 16;

const MAGIC_US = 0xa1b2_c3d4;
const MAGIC_NS = 0xa1b2_3c4d;
const VERSION_MAJOR = 2;
const VERSION_MINOR = 4;
const US_PER_SECOND = 1_000_000;
const USUAL_FORM: PcapForm = { byteOrder: 'little', resolution: 'us' };

/** The form that the first four bytes of a file tell; undefined when they are no pcap's. */
export function pcapForm(magic: Buffer): PcapForm | undefined {
  for (const byteOrder of ['little', 'big'] as const) {
    const value = readUInt32(magic, 0, byteOrder);
    if (value === MAGIC_US) return { byteOrder, resolution: 'us' };
    if (value === MAGIC_NS) return { byteOrder, resolution: 'ns' };
  }
  return undefined;
}

/** Reads a pcap file. */
export class PcapDecoder implements CaptureDecoder {
  readonly #reader = new ChunkReader();
  #form: PcapForm | undefined;
  #linkType = 0;
  #record: { timeUs: number; capturedBytes: number; lengthBytes: number } | undefined;
  #records = 0;

  write(chunk: Buffer): CapturedFrame[] {
    this.#reader.put(chunk);
    const frames: CapturedFrame[] = [];
    if (this.#form === undefined) {
      const header = this.#reader.take(PCAP_HEADER_BYTES);
      if (header === undefined) return frames;
      this.#form = this.#decodeHeader(header);
    }
    for (;;) {
      if (this.#record === undefined) {
        const header = this.#reader.take(PCAP_RECORD_HEADER_BYTES);
        if (header === undefined) return frames;
        this.#record = this.#decodeRecord(header, this.#form);
      }
      const { timeUs, capturedBytes, lengthBytes } = this.#record;
      const bytes = this.#reader.take(capturedBytes);
      if (bytes === undefined) return frames;
      this.#record = undefined;
      frames.push({ timeUs, linkType: this.#linkType, bytes, lengthBytes });
    }
  }

  end(): void {
    if (this.#form === undefined) throw new ProtocolError('The file ends inside the pcap header');
    if (this.#record === undefined && this.#reader.empty) return;
    const where = this.#record === undefined ? `behind record ${this.#records}` : 'in its frame';
    const which = this.#record === undefined ? '' : `record ${this.#records}, `;
    throw new ProtocolError(`The file is cut: it ends in ${which}${where}`);
  }

  #decodeHeader(header: Buffer): PcapForm {
    const form = pcapForm(header);
    if (form === undefined) {
      throw new ProtocolError(`Found ${header.toString('hex', 0, 4)}, expected the magic of pcap`);
    }
    const major = readUInt16(header, 4, form.byteOrder);
    const minor = readUInt16(header, 6, form.byteOrder);
    if (major !== VERSION_MAJOR || minor !== VERSION_MINOR) {
      const expected = `expected ${VERSION_MAJOR}.${VERSION_MINOR}`;
      throw new ProtocolError(`Found version ${major}.${minor} of pcap, ${expected}`);
    }
    // The upper bits tell about frame check sequences, which are padding to us.
    this.#linkType = readUInt32(header, 20, form.byteOrder) & 0xffff;
    return form;
  }

  #decodeRecord(header: Buffer, form: PcapForm) {
    this.#records += 1;
    const { byteOrder, resolution } = form;
    const fraction = readUInt32(header, 4, byteOrder);
    const perUs = resolution === 'us' ? 1 : 1000;
    if (fraction >= US_PER_SECOND * perUs) {
      throw new ProtocolError(
        `Record ${this.#records} has a fraction of ${fraction} ${resolution}`,
      );
    }
    const capturedBytes = readUInt32(header, 8, byteOrder);
    if (capturedBytes > RECORD_BYTES_MAX) {
      const limit = `exceeds ${RECORD_BYTES_MAX}`;
      throw new ProtocolError(`Record ${this.#records} of ${capturedBytes} bytes ${limit}`);
    }
    const timeUs = readUInt32(header, 0, byteOrder) * US_PER_SECOND + Math.floor(fraction / perUs);
    return { timeUs, capturedBytes, lengthBytes: readUInt32(header, 12, byteOrder) };
  }
}

/** The header of a file of Ethernet frames. */
export function encodePcapHeader(form: PcapForm = USUAL_FORM): Buffer {
  const { byteOrder, resolution } = form;
  const header = Buffer.alloc(PCAP_HEADER_BYTES);
  writeUInt32(header, 0, resolution === 'us' ? MAGIC_US : MAGIC_NS, byteOrder);
  writeUInt16(header, 4, VERSION_MAJOR, byteOrder);
  writeUInt16(header, 6, VERSION_MINOR, byteOrder);
  writeUInt32(header, 16, RECORD_BYTES_MAX, byteOrder);
  writeUInt32(header, 20, LINKTYPE_ETHERNET, byteOrder);
  return header;
}

/**
 * Writes a record's header into `into` at `at`: a frame of `frameBytes`, captured whole, at `timeUs`
 * since 1970. The frame belongs right behind it.
 */
export function writePcapRecordHeader(
  into: Buffer,
  at: number,
  record: { readonly timeUs: number; readonly frameBytes: number },
  form: PcapForm = USUAL_FORM,
): void {
  const { timeUs, frameBytes } = record;
  assert(frameBytes <= RECORD_BYTES_MAX, `A frame of ${frameBytes} bytes is captured`);
  const { byteOrder, resolution } = form;
  const seconds = Math.floor(timeUs / US_PER_SECOND);
  const fractionUs = timeUs - seconds * US_PER_SECOND;
  writeUInt32(into, at, seconds, byteOrder);
  writeUInt32(into, at + 4, resolution === 'us' ? fractionUs : fractionUs * 1000, byteOrder);
  writeUInt32(into, at + 8, frameBytes, byteOrder);
  writeUInt32(into, at + 12, frameBytes, byteOrder);
}

/** A record with its frame, copied. */
export function encodePcapRecord(timeUs: number, frame: Buffer, form = USUAL_FORM): Buffer {
  const record = Buffer.allocUnsafe(PCAP_RECORD_HEADER_BYTES + frame.length);
  writePcapRecordHeader(record, 0, { timeUs, frameBytes: frame.length }, form);
  record.set(frame, PCAP_RECORD_HEADER_BYTES);
  return record;
}

/** Reads 16 bits in either byte order. */
export function readUInt16(bytes: Buffer, at: number, order: ByteOrder): number {
  return order === 'little' ? bytes.readUInt16LE(at) : bytes.readUInt16BE(at);
}

/** Reads 32 bits in either byte order. */
export function readUInt32(bytes: Buffer, at: number, order: ByteOrder): number {
  return order === 'little' ? bytes.readUInt32LE(at) : bytes.readUInt32BE(at);
}

function writeUInt16(bytes: Buffer, at: number, value: number, order: ByteOrder): void {
  if (order === 'little') bytes.writeUInt16LE(value, at);
  else bytes.writeUInt16BE(value, at);
}

function writeUInt32(bytes: Buffer, at: number, value: number, order: ByteOrder): void {
  if (order === 'little') bytes.writeUInt32LE(value, at);
  else bytes.writeUInt32BE(value, at);
}
