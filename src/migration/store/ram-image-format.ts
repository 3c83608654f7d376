/**
 * The bytes of a kept RAM image: the RAM of a guest that left this host, for the day it returns.
 * Big-endian. A header of one page, the digest of each page, the pages at their places:
 *
 * | field     | offset | size | meaning                                           | limit         |
 * | --------- | ------ | ---- | ------------------------------------------------- | ------------- |
 * | magic     | 0      | 8    | ASCII "COLORAMI"                                  | exact         |
 * | version   | 8      | 4    | of this layout                                    | 1             |
 * | flags     | 12     | 4    | reserved                                          | 0             |
 * | imageId   | 16     | 16   | of this state of the guest, drawn at its departure |              |
 * | salt      | 32     | 16   | hashed in front of each page                      |               |
 * | ramBytes  | 48     | 8    | size of the guest's RAM                           | whole pages, 8 TiB |
 * | dataPages | 56     | 8    | pages that are not zero                           | those of the RAM |
 * | epoch     | 64     | 8    | that ended with this state                        | 2^53 - 1      |
 * | savedAt   | 72     | 8    | milliseconds since 1970                           | 2^53 - 1      |
 * | digests   | 80     | 32   | SHA-256 of the table of digests                   | exact         |
 * | vm        | 112    | 2 + n | length u16 and name of the guest, UTF-8          | 255 bytes     |
 * | reserved  |        |      | up to 4092                                        | 0             |
 * | checksum  | 4092   | 4    | CRC-32C of bytes 0 to 4091                        | exact         |
 *
 * From 4096 on the table: 16 bytes per page, the first half of SHA-256 of salt and page, or zeroes
 * for a page of zeroes; padded with zeroes to a whole page. Behind it page n at n * 4096; pages of
 * zeroes are holes. The file is exactly as long as that. The header is written last.
 */
import { assert, ByteReader, ByteWriter, crc32c, PAGE_SIZE_BYTES } from '../../lib/index.js';
import { RAM_PAGES_MAX } from '../pages/limits.js';
import { RamImageError } from './errors.js';
import { DIGEST_BYTES, ID_BYTES, SALT_BYTES, VM_BYTES_MAX } from './limits.js';

const MAGIC = 'COLORAMI';
const VERSION = 1;
const CHECKSUM_AT = 4092;
const SHA256_BYTES = 32;

export const IMAGE_HEADER_BYTES = 4096;
/** Where the table of digests begins. */
export const TABLE_AT = IMAGE_HEADER_BYTES;

export interface ImageHeader {
  readonly vm: string;
  readonly imageId: Buffer;
  readonly salt: Buffer;
  readonly ramPages: number;
  readonly dataPages: number;
  readonly epoch: number;
  readonly savedAtMs: number;
  /** SHA-256 of the table. */
  readonly digests: Buffer;
}

/** Where the pages begin in the image of a RAM of so many pages. */
export function dataOffset(ramPages: number): number {
  return TABLE_AT + Math.ceil((ramPages * DIGEST_BYTES) / PAGE_SIZE_BYTES) * PAGE_SIZE_BYTES;
}

/** Length of the file, holes included. */
export function imageFileBytes(ramPages: number): number {
  return dataOffset(ramPages) + ramPages * PAGE_SIZE_BYTES;
}

export function encodeImageHeader(header: ImageHeader): Buffer {
  const vm = Buffer.from(header.vm, 'utf8');
  assert(vm.length > 0 && vm.length <= VM_BYTES_MAX, `A name of ${vm.length} bytes`);
  assert(header.imageId.length === ID_BYTES, 'An image id has another length');
  assert(header.salt.length === SALT_BYTES, 'A salt has another length');
  assert(header.digests.length === SHA256_BYTES, 'A digest has another length');
  const fields = new ByteWriter(256)
    .bytes(Buffer.from(MAGIC, 'latin1'))
    .uint32(VERSION)
    .uint32(0)
    .bytes(header.imageId)
    .bytes(header.salt)
    .uint53(header.ramPages * PAGE_SIZE_BYTES)
    .uint53(header.dataPages)
    .uint53(header.epoch)
    .uint53(header.savedAtMs)
    .bytes(header.digests)
    .uint16(vm.length)
    .bytes(vm);
  const bytes = Buffer.alloc(IMAGE_HEADER_BYTES);
  fields.finish().copy(bytes);
  bytes.writeUInt32BE(crc32c(bytes.subarray(0, CHECKSUM_AT)), CHECKSUM_AT);
  return bytes;
}

/** Throws `RamImageError` for a header that is not whole, or not plausible for the file's size. */
export function decodeImageHeader(bytes: Buffer, fileBytes: number): ImageHeader {
  if (bytes.length !== IMAGE_HEADER_BYTES) {
    throw new RamImageError(`The image has ${bytes.length} bytes, not even a header`);
  }
  if (bytes.toString('latin1', 0, MAGIC.length) !== MAGIC) {
    throw new RamImageError('The file does not begin as a RAM image');
  }
  if (bytes.readUInt32BE(CHECKSUM_AT) !== crc32c(bytes.subarray(0, CHECKSUM_AT))) {
    throw new RamImageError('The checksum of the header is wrong');
  }
  const version = bytes.readUInt32BE(8);
  if (version !== VERSION) throw new RamImageError(`The version is ${version}, only 1 is known`);
  const reader = new ByteReader(bytes.subarray(12, CHECKSUM_AT));
  const flags = reader.uint32();
  const imageId = Buffer.from(reader.bytes(ID_BYTES));
  const salt = Buffer.from(reader.bytes(SALT_BYTES));
  const ramBytes = reader.uint53();
  const dataPages = reader.uint53();
  const epoch = reader.uint53();
  const savedAtMs = reader.uint53();
  const digests = Buffer.from(reader.bytes(SHA256_BYTES));
  const vmBytes = reader.uint16();
  if (vmBytes === 0 || vmBytes > VM_BYTES_MAX)
    throw new RamImageError(`A name of ${vmBytes} bytes`);
  const vm = reader.bytes(vmBytes).toString('utf8');
  const ramPages = ramBytes / PAGE_SIZE_BYTES;
  if (flags !== 0 || reader.rest().some((byte) => byte !== 0)) {
    throw new RamImageError('The header has reserved bits set');
  }
  if (!Number.isInteger(ramPages) || ramPages > RAM_PAGES_MAX || dataPages > ramPages) {
    throw new RamImageError(`The header has ${dataPages} pages of a RAM of ${ramBytes} bytes`);
  }
  if (fileBytes !== imageFileBytes(ramPages)) {
    throw new RamImageError(
      `The image has ${fileBytes} bytes instead of ${imageFileBytes(ramPages)}`,
    );
  }
  return { vm, imageId, salt, ramPages, dataPages, epoch, savedAtMs, digests };
}
