/**
 * Reading of pcapng, which Wireshark and dumpcap write unless told otherwise. Only reading: our own
 * files are classic pcap.
 *
 * A file is sections, a section is blocks, each in the byte order of its section:
 *
 *     field       offset  size  meaning                              limit
 *     type        0       4     below                                -
 *     length      4       4     of the whole block                   12 on, a multiple of 4;
 *                                                                    BLOCK_BYTES_MAX if read
 *     body        8       -     by type                              -
 *     length      -       4     again                                the same
 *
 *     0a0d0d0a    section header: byte-order magic (4) 1a2b3c4d, major (2) 1, minor (2),
 *                 length (8)
 *     1           interface: link type (2), reserved (2), snaplen (4), options
 *     6           packet: interface (4), time high (4), low (4), captured (4), length (4), frame,
 *                 padded to 4, options
 *     2           the same, older: interface (2), drops (2), then as 6
 *     3           packet without a time: refused, since nothing can be merged by it
 *     other       skipped, whatever its length
 *
 * Options are code (2), length (2), value padded to 4; code 0 ends them. Two count: 9, units of
 * time a second (a power of 10, or of 2 with the top bit set), and 14, seconds to add.
 * Source: draft-ietf-opsawg-pcapng-02, sections 3 and 4.
 */
import { ProtocolError } from '../../lib/index.js';
import { ChunkReader } from './chunk-reader.js';
import { BLOCK_BYTES_MAX, INTERFACES_MAX, RECORD_BYTES_MAX } from './limits.js';
import {
  type ByteOrder,
  type CaptureDecoder,
  type CapturedFrame,
  readUInt16,
  readUInt32,
} from './pcap-wire.js';

/** Type of the section header, the same in both byte orders. */
export const PCAPNG_SECTION = 0x0a0d_0d0a;

const INTERFACE = 1;
const OLD_PACKET = 2;
const SIMPLE_PACKET = 3;
const PACKET = 6;

const BYTE_ORDER_MAGIC = 0x1a2b_3c4d;
const VERSION_MAJOR = 1;
/** Type, length, and the length again. */
const BLOCK_BYTES_MIN = 12;
const HEAD_BYTES = 8;
const SECTION_BODY_BYTES_MIN = 16;
const PACKET_BODY_BYTES_MIN = 20;
const INTERFACE_BODY_BYTES_MIN = 8;

const OPTION_END = 0;
const OPTION_TIME_RESOLUTION = 9;
const OPTION_TIME_OFFSET = 14;

const US_PER_SECOND = 1_000_000n;

interface Interface {
  readonly linkType: number;
  readonly unitsPerSecond: bigint;
  readonly offsetUs: bigint;
}

/** Reads a pcapng file. */
export class PcapngDecoder implements CaptureDecoder {
  readonly #reader = new ChunkReader();
  #order: ByteOrder = 'little';
  #interfaces: Interface[] = [];
  /** The block whose head was read; its body is waited for. */
  #block: { type: number; bodyBytes: number } | undefined;
  /** A section header's first 12 bytes are needed to know its length. */
  #sectionLength: Buffer | undefined;
  #started = false;
  #packets = 0;

  write(chunk: Buffer): CapturedFrame[] {
    this.#reader.put(chunk);
    const frames: CapturedFrame[] = [];
    while (this.#readHead()) {
      const block = this.#block;
      if (block === undefined) continue;
      const body = this.#reader.take(block.bodyBytes + 4);
      if (body === undefined) return frames;
      this.#block = undefined;
      this.#checkEnd(block, body);
      const frame = this.#decodeBody(block.type, body.subarray(0, block.bodyBytes));
      if (frame !== undefined) frames.push(frame);
    }
    return frames;
  }

  end(): void {
    if (!this.#started) throw new ProtocolError('The file ends inside the pcapng section header');
    if (this.#block === undefined && this.#sectionLength === undefined && this.#reader.empty)
      return;
    throw new ProtocolError(`The file is cut: it ends in a block behind packet ${this.#packets}`);
  }

  /** Reads the head of the next block, unless it was read; false while it has not arrived. */
  #readHead(): boolean {
    if (this.#block !== undefined) return true;
    if (this.#sectionLength === undefined) {
      const head = this.#reader.take(HEAD_BYTES);
      if (head === undefined) return false;
      if (head.readUInt32BE(0) !== PCAPNG_SECTION) {
        this.#begin(readUInt32(head, 0, this.#order), readUInt32(head, 4, this.#order));
        return true;
      }
      this.#sectionLength = Buffer.from(head.subarray(4, 8));
    }
    const magic = this.#reader.take(4);
    if (magic === undefined) return false;
    this.#beginSection(magic, this.#sectionLength);
    this.#sectionLength = undefined;
    return true;
  }

  #beginSection(magic: Buffer, length: Buffer): void {
    if (magic.readUInt32LE(0) === BYTE_ORDER_MAGIC) this.#order = 'little';
    else if (magic.readUInt32BE(0) === BYTE_ORDER_MAGIC) this.#order = 'big';
    else throw new ProtocolError(`Found ${magic.toString('hex')}, expected pcapng's byte order`);
    const lengthBytes = checkedLength(readUInt32(length, 0, this.#order));
    if (lengthBytes < SECTION_BODY_BYTES_MIN + BLOCK_BYTES_MIN || lengthBytes > BLOCK_BYTES_MAX) {
      throw new ProtocolError(`A section header has ${lengthBytes} bytes`);
    }
    this.#block = { type: PCAPNG_SECTION, bodyBytes: lengthBytes - BLOCK_BYTES_MIN - 4 };
    this.#interfaces = [];
  }

  #begin(type: number, length: number): void {
    if (!this.#started) throw new ProtocolError('The file does not begin with a pcapng section');
    const bodyBytes = checkedLength(length) - BLOCK_BYTES_MIN;
    if (type !== INTERFACE && type !== PACKET && type !== OLD_PACKET && type !== SIMPLE_PACKET) {
      this.#reader.skip(bodyBytes + 4);
      return;
    }
    if (length > BLOCK_BYTES_MAX) {
      throw new ProtocolError(`A block of ${length} bytes exceeds ${BLOCK_BYTES_MAX}`);
    }
    this.#block = { type, bodyBytes };
  }

  #checkEnd(block: { type: number; bodyBytes: number }, body: Buffer): void {
    const magicBytes = block.type === PCAPNG_SECTION ? 4 : 0;
    const length = block.bodyBytes + BLOCK_BYTES_MIN + magicBytes;
    const again = readUInt32(body, block.bodyBytes, this.#order);
    if (again !== length) {
      throw new ProtocolError(`A block of ${length} bytes ends with a length of ${again}`);
    }
  }

  #decodeBody(type: number, body: Buffer): CapturedFrame | undefined {
    switch (type) {
      case PCAPNG_SECTION:
        this.#decodeSection(body);
        return undefined;
      case INTERFACE:
        this.#decodeInterface(body);
        return undefined;
      case SIMPLE_PACKET:
        throw new ProtocolError(`Packet ${this.#packets + 1} has no time, expected one`);
      default:
        return this.#decodePacket(type, body);
    }
  }

  #decodeSection(body: Buffer): void {
    const major = readUInt16(body, 0, this.#order);
    if (major !== VERSION_MAJOR) {
      throw new ProtocolError(`Found version ${major} of pcapng, expected ${VERSION_MAJOR}`);
    }
    this.#started = true;
  }

  #decodeInterface(body: Buffer): void {
    if (body.length < INTERFACE_BODY_BYTES_MIN) throw new ProtocolError('An interface is cut');
    if (this.#interfaces.length >= INTERFACES_MAX) {
      throw new ProtocolError(`More than ${INTERFACES_MAX} interfaces in one section`);
    }
    let unitsPerSecond = US_PER_SECOND;
    let offsetUs = 0n;
    for (const { code, value } of this.#options(body, INTERFACE_BODY_BYTES_MIN)) {
      if (code === OPTION_TIME_RESOLUTION && value.length >= 1) {
        const exponent = value.readUInt8(0);
        unitsPerSecond = (exponent & 0x80) === 0 ? 10n ** BigInt(exponent) : powerOfTwo(exponent);
      } else if (code === OPTION_TIME_OFFSET && value.length >= 8) {
        const little = this.#order === 'little';
        const seconds = little ? value.readBigInt64LE(0) : value.readBigInt64BE(0);
        offsetUs = seconds * US_PER_SECOND;
      }
    }
    const linkType = readUInt16(body, 0, this.#order);
    this.#interfaces.push({ linkType, unitsPerSecond, offsetUs });
  }

  #decodePacket(type: number, body: Buffer): CapturedFrame {
    this.#packets += 1;
    const which = `Packet ${this.#packets}`;
    if (body.length < PACKET_BODY_BYTES_MIN) throw new ProtocolError(`${which} has no header`);
    const order = this.#order;
    const index = type === PACKET ? readUInt32(body, 0, order) : readUInt16(body, 0, order);
    const face = this.#interfaces[index];
    if (face === undefined) throw new ProtocolError(`${which} is of interface ${index}, unknown`);
    const capturedBytes = readUInt32(body, 12, order);
    if (capturedBytes > RECORD_BYTES_MAX) {
      throw new ProtocolError(`${which} of ${capturedBytes} bytes exceeds ${RECORD_BYTES_MAX}`);
    }
    if (capturedBytes > body.length - PACKET_BODY_BYTES_MIN) {
      throw new ProtocolError(`${which} of ${capturedBytes} bytes does not fit into its block`);
    }
    const high = BigInt(readUInt32(body, 4, order));
    const units = (high << 32n) | BigInt(readUInt32(body, 8, order));
    const timeUs = Number((units * US_PER_SECOND) / face.unitsPerSecond + face.offsetUs);
    if (!Number.isSafeInteger(timeUs)) throw new ProtocolError(`${which} has no possible time`);
    return {
      timeUs,
      linkType: face.linkType,
      bytes: body.subarray(PACKET_BODY_BYTES_MIN, PACKET_BODY_BYTES_MIN + capturedBytes),
      lengthBytes: readUInt32(body, 16, order),
    };
  }

  *#options(body: Buffer, from: number): Generator<{ code: number; value: Buffer }> {
    let at = from;
    while (body.length - at >= 4) {
      const code = readUInt16(body, at, this.#order);
      const length = readUInt16(body, at + 2, this.#order);
      if (code === OPTION_END) return;
      if (length > body.length - at - 4) throw new ProtocolError('An option ends behind its block');
      yield { code, value: body.subarray(at + 4, at + 4 + length) };
      at += 4 + Math.ceil(length / 4) * 4;
    }
  }
}

function powerOfTwo(exponent: number): bigint {
  return 1n << BigInt(exponent & 0x7f);
}

function checkedLength(length: number): number {
  if (length >= BLOCK_BYTES_MIN && length % 4 === 0) return length;
  throw new ProtocolError(`A block has a length of ${length}, expected a multiple of 4 from 12 on`);
}
