/**
 * The frame of a section: what every byte of a migration's stream is part of, on a link as in a
 * recorded file.
 *
 * | field       | offset | size | order | meaning                                | limit             |
 * | tag         | 0      | 12   |       | name, ASCII a-z 0-9 -, NUL-padded      | 1 to 12 letters   |
 * | major       | 12     | 1    |       | another one is not understood          | the codec's       |
 * | minor       | 13     | 1    |       | a higher one has more fields at the end|                   |
 * | flags       | 14     | 2    | be    | bit 0: required                        | others 0          |
 * | fieldsBytes | 16     | 4    | be    | of the payload, the section's fields   | <= bytes          |
 * | bytes       | 20     | 4    | be    | of the payload                         | by the tag        |
 * | payloadCrc  | 24     | 4    | be    | CRC-32C of the payload                 | exact             |
 * | headerCrc   | 28     | 4    | be    | CRC-32C of bytes 0..27                 | exact             |
 * | payload     | 32     |      |       | fields, then embedded sections         |                   |
 *
 * An embedded section is a section: same header, own checksum, can be skipped. So a reader that
 * does not know a section, or the newer fields of one, finds the next: what is unknown and not
 * required is read over, what is required and unknown is refused by its name.
 *
 * The header has a checksum of its own: a flipped length is seen at once, not after waiting for
 * bytes that never come, and nothing is allocated by a length that was not checked.
 */
import { assert, ByteReader, ByteWriter, crc32c, ProtocolError, restCrc32c } from '../lib/index.js';
import { EMBEDDED_DEPTH, EMBEDDED_SECTIONS, UNKNOWN_SECTION_BYTES } from './limits.js';

export const SECTION_HEADER_BYTES = 32;
const TAG_BYTES = 12;
const HEADER_CRC_AT = 28;
const REQUIRED = 1;
const TAG = /^[a-z0-9-]{1,12}$/;

/** A section whose frame is checked and whose fields are not. Buffers are borrowed. */
export interface RawSection {
  readonly tag: string;
  readonly major: number;
  readonly minor: number;
  readonly required: boolean;
  readonly fields: Buffer;
  readonly embedded: readonly RawSection[];
  /** CRC-32C of the fields, if it came without reading them. */
  readonly fieldsCrc?: number;
}

export interface SectionParts {
  readonly tag: string;
  readonly major: number;
  readonly minor: number;
  readonly required: boolean;
  readonly fields: readonly Buffer[];
  /** Whole sections, as `frameSection` makes them. */
  readonly embedded?: readonly Buffer[];
}

interface Header {
  readonly tag: string;
  readonly major: number;
  readonly minor: number;
  readonly required: boolean;
  readonly fieldsBytes: number;
  readonly bytes: number;
  readonly payloadCrc: number;
}

/**
 * `[header, ...payload]`; the parts are not copied and must not change any more. With `payloadCrc`,
 * the payload's CRC-32C, they are not read either.
 */
export function frameSection(parts: SectionParts, payloadCrc?: number): Buffer[] {
  assert(TAG.test(parts.tag), `${parts.tag} is no tag of a section`);
  const payload = [...parts.fields, ...(parts.embedded ?? [])];
  const fieldsBytes = parts.fields.reduce((sum, part) => sum + part.length, 0);
  const bytes = payload.reduce((sum, part) => sum + part.length, 0);
  const crc = payloadCrc ?? payload.reduce((sum, part) => crc32c(part, sum), 0);
  const tag = Buffer.alloc(TAG_BYTES);
  tag.write(parts.tag, 'latin1');
  const writer = new ByteWriter(SECTION_HEADER_BYTES)
    .bytes(tag)
    .uint8(parts.major)
    .uint8(parts.minor)
    .uint16(parts.required ? REQUIRED : 0)
    .uint32(fieldsBytes)
    .uint32(bytes)
    .uint32(crc);
  const header = writer.uint32(crc32c(writer.finish())).finish();
  return [header, ...payload];
}

/** A section name for a message; what is no name is shown as bytes. */
export function sectionName(tag: string): string {
  return TAG.test(tag) ? `"${tag}"` : `0x${Buffer.from(tag, 'latin1').toString('hex')}`;
}

/** Bytes of payload that a section of this tag may have; undefined for a tag that is not known. */
export type SectionLimit = (tag: string) => number | undefined;

/**
 * Decodes exactly one section. `crc` is the CRC-32C of `bytes` for whoever knows it: the payload is
 * not read for it once more. Throws `ProtocolError` naming the section.
 */
export function unframeSection(bytes: Buffer, limit: SectionLimit, crc?: number): RawSection {
  const header = parseHeader(bytes, limit);
  const end = SECTION_HEADER_BYTES + header.bytes;
  if (bytes.length < end) throw truncated(header, bytes.length - SECTION_HEADER_BYTES);
  if (bytes.length > end) {
    throw new ProtocolError(
      `${bytes.length - end} bytes follow section ${sectionName(header.tag)}`,
    );
  }
  const payload = bytes.subarray(SECTION_HEADER_BYTES);
  if (crc === undefined) return parsePayload(header, payload, 1);
  const headerCrc = crc32c(bytes.subarray(0, SECTION_HEADER_BYTES));
  const known = restCrc32c(crc, headerCrc, payload.length);
  const section = parsePayload(header, payload, 1, known);
  return section.embedded.length === 0 ? { ...section, fieldsCrc: known } : section;
}

/**
 * Cuts a byte stream into sections. `write` throws ProtocolError on the first malformed byte it can
 * tell; sections before it in the same chunk are lost with the stream, and later calls throw too.
 * Holds one section of at most what `limit` says.
 */
export class SectionReader {
  readonly #limit: SectionLimit;
  #header: Header | undefined;
  /** What came of the header or payload that is being waited for, and how much. */
  #parts: Buffer[] = [];
  #filled = 0;
  #failure: ProtocolError | undefined;

  constructor(limit: SectionLimit) {
    this.#limit = limit;
  }

  write(chunk: Buffer): RawSection[] {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      return this.#read(chunk);
    } catch (error) {
      if (error instanceof ProtocolError) this.#failure = error;
      throw error;
    }
  }

  /** The stream has ended: throws ProtocolError inside of a section. */
  end(): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#header !== undefined) throw truncated(this.#header, this.#filled);
    if (this.#filled === 0) return;
    const tag = Buffer.concat(this.#parts).subarray(0, TAG_BYTES).toString('latin1');
    throw new ProtocolError(
      `The stream ended after ${this.#filled} of ${SECTION_HEADER_BYTES} bytes of the header of ` +
        `section ${sectionName(tag.replace(/\0+$/, ''))}`,
    );
  }

  #read(chunk: Buffer): RawSection[] {
    const sections: RawSection[] = [];
    let at = 0;
    for (;;) {
      const wanted = this.#header?.bytes ?? SECTION_HEADER_BYTES;
      const taken = Math.min(wanted - this.#filled, chunk.length - at);
      if (taken > 0) this.#parts.push(chunk.subarray(at, at + taken));
      this.#filled += taken;
      at += taken;
      if (this.#filled < wanted) return sections;
      const bytes = this.#parts.length === 1 ? this.#parts[0] : Buffer.concat(this.#parts);
      this.#parts = [];
      this.#filled = 0;
      if (this.#header === undefined) {
        this.#header = parseHeader(bytes as Buffer, this.#limit);
      } else {
        sections.push(parsePayload(this.#header, bytes ?? Buffer.alloc(0), 1));
        this.#header = undefined;
      }
    }
  }
}

function parseHeader(bytes: Buffer, limit: SectionLimit): Header {
  if (bytes.length < SECTION_HEADER_BYTES) {
    throw new ProtocolError(`A section of ${bytes.length} bytes has no whole header`);
  }
  const reader = new ByteReader(bytes.subarray(0, SECTION_HEADER_BYTES));
  const tag = reader.bytes(TAG_BYTES).toString('latin1').replace(/\0+$/, '');
  const name = sectionName(tag);
  const major = reader.uint8();
  const minor = reader.uint8();
  const flags = reader.uint16();
  const fieldsBytes = reader.uint32();
  const payloadBytes = reader.uint32();
  const payloadCrc = reader.uint32();
  const crc = crc32c(bytes.subarray(0, HEADER_CRC_AT));
  if (reader.uint32() !== crc) {
    throw new ProtocolError(`The header of section ${name} does not have its checksum`);
  }
  if (!TAG.test(tag)) throw new ProtocolError(`Section ${name} has no name`);
  if ((flags & ~REQUIRED) !== 0) {
    throw new ProtocolError(`Section ${name} has flags 0x${flags.toString(16)}, 1 is defined`);
  }
  const known = limit(tag);
  const required = (flags & REQUIRED) !== 0;
  if (known === undefined && required) {
    throw new ProtocolError(`Section ${name} is required by the peer and not known here`);
  }
  const most = known ?? UNKNOWN_SECTION_BYTES;
  if (payloadBytes > most) {
    throw new ProtocolError(`Section ${name} has ${payloadBytes} bytes, at most ${most}`);
  }
  if (fieldsBytes > payloadBytes) {
    throw new ProtocolError(
      `Section ${name} has ${fieldsBytes} bytes of fields in ${payloadBytes} bytes`,
    );
  }
  return { tag, major, minor, required, fieldsBytes, bytes: payloadBytes, payloadCrc };
}

function parsePayload(
  header: Header,
  payload: Buffer,
  depth: number,
  crc = crc32c(payload),
): RawSection {
  const { tag, major, minor, required, fieldsBytes, payloadCrc } = header;
  if (crc !== payloadCrc) {
    throw new ProtocolError(`Section ${sectionName(tag)} does not have its checksum`);
  }
  const embedded: RawSection[] = [];
  let rest = payload.subarray(fieldsBytes);
  while (rest.length > 0) {
    if (embedded.length === EMBEDDED_SECTIONS || depth === EMBEDDED_DEPTH) {
      throw new ProtocolError(`Section ${sectionName(tag)} has too many sections inside`);
    }
    embedded.push(nameParent(tag, () => firstEmbedded(rest, depth + 1)));
    const last = embedded.at(-1) as RawSection;
    rest = rest.subarray(SECTION_HEADER_BYTES + wholeBytes(last));
  }
  return { tag, major, minor, required, fields: payload.subarray(0, fieldsBytes), embedded };
}

/** Whether what is embedded is known is for the codec of the section around it to say. */
function firstEmbedded(bytes: Buffer, depth: number): RawSection {
  const header = parseHeader(bytes, () => bytes.length - SECTION_HEADER_BYTES);
  const end = SECTION_HEADER_BYTES + header.bytes;
  return parsePayload(header, bytes.subarray(SECTION_HEADER_BYTES, end), depth);
}

function wholeBytes(section: RawSection): number {
  return section.embedded.reduce(
    (sum, inner) => sum + SECTION_HEADER_BYTES + wholeBytes(inner),
    section.fields.length,
  );
}

/** Runs `decode`; what it refuses is told with the section that it is inside of. */
export function nameParent<T>(tag: string, decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error;
    throw new ProtocolError(`In section ${sectionName(tag)}: ${error.message}`);
  }
}

function truncated(header: Header, filled: number): ProtocolError {
  return new ProtocolError(
    `Section ${sectionName(header.tag)} ends after ${filled} of ${header.bytes} bytes`,
  );
}
