/**
 * The bytes of a backup file: the pages of a postcopy that the destination does not have, written
 * by the source when the network does not come back. Big-endian. The header:
 *
 * | field       | offset | size | meaning                                    | limit               |
 * | ----------- | ------ | ---- | ------------------------------------------ | ------------------- |
 * | magic       | 0      | 8    | ASCII "COLOBKUP"                           | exact               |
 * | version     | 8      | 4    | of this layout                             | 1                   |
 * | flags       | 12     | 4    | reserved                                   | 0                   |
 * | migrationId | 16     | 16   | drawn at random when the migration began   |                     |
 * | ramBytes    | 32     | 8    | size of the guest's RAM                    | whole pages, 8 TiB  |
 * | pages       | 40     | 8    | pages in this file                         | those of the RAM    |
 * | batches     | 48     | 8    |                                            | `pages`             |
 * | bodyBytes   | 56     | 8    | all behind the header                      | the file's size     |
 * | digest      | 64     | 32   | SHA-256 of the body                        | exact               |
 * | reserved    | 96     | 28   |                                            | 0                   |
 * | checksum    | 124    | 4    | CRC-32C of bytes 0 to 123                  | exact               |
 *
 * The body: for each batch its length u32, then the batch (../pages/page-batch.ts). Batches have no
 * deltas, and no page comes twice. Zero pages have no bytes of their own, so the file is as small
 * as what is missing. The header is written last: a file that was not finished has none.
 */
import { assert, ByteReader, ByteWriter, crc32c, PAGE_SIZE_BYTES } from '../../lib/index.js';
import { RAM_PAGES_MAX } from '../pages/limits.js';
import { BackupError } from './errors.js';
import { ID_BYTES } from './limits.js';

const MAGIC = 'COLOBKUP';
const VERSION = 1;
const CHECKSUM_AT = 124;
const SHA256_BYTES = 32;
const RESERVED_BYTES = 28;

export const BACKUP_HEADER_BYTES = 128;
/** The length in front of each batch. */
export const BATCH_LENGTH_BYTES = 4;

export interface BackupHeader {
  readonly migrationId: Buffer;
  readonly ramPages: number;
  readonly pages: number;
  readonly batches: number;
  readonly bodyBytes: number;
  readonly digest: Buffer;
}

export function encodeBackupHeader(header: BackupHeader): Buffer {
  assert(header.migrationId.length === ID_BYTES, 'A migration id has another length');
  assert(header.digest.length === SHA256_BYTES, 'A digest has another length');
  const bytes = new ByteWriter(BACKUP_HEADER_BYTES)
    .bytes(Buffer.from(MAGIC, 'latin1'))
    .uint32(VERSION)
    .uint32(0)
    .bytes(header.migrationId)
    .uint53(header.ramPages * PAGE_SIZE_BYTES)
    .uint53(header.pages)
    .uint53(header.batches)
    .uint53(header.bodyBytes)
    .bytes(header.digest)
    .bytes(Buffer.alloc(RESERVED_BYTES));
  return bytes.uint32(crc32c(bytes.finish())).finish();
}

/** Throws `BackupError` for any header that is not whole and plausible for a file of that size. */
export function decodeBackupHeader(bytes: Buffer, fileBytes: number): BackupHeader {
  if (bytes.length < BACKUP_HEADER_BYTES) {
    throw new BackupError(
      `The file has ${bytes.length} bytes, a header has ${BACKUP_HEADER_BYTES}`,
    );
  }
  if (bytes.toString('latin1', 0, MAGIC.length) !== MAGIC) {
    throw new BackupError('The file does not begin as a backup file; it may not be finished');
  }
  if (bytes.readUInt32BE(CHECKSUM_AT) !== crc32c(bytes.subarray(0, CHECKSUM_AT))) {
    throw new BackupError('The checksum of the header is wrong');
  }
  const version = bytes.readUInt32BE(8);
  if (version !== VERSION) throw new BackupError(`The version is ${version}, only 1 is known`);
  const reader = new ByteReader(bytes.subarray(12, CHECKSUM_AT));
  const flags = reader.uint32();
  const migrationId = Buffer.from(reader.bytes(ID_BYTES));
  const ramBytes = reader.uint53();
  const pages = reader.uint53();
  const batches = reader.uint53();
  const bodyBytes = reader.uint53();
  const digest = Buffer.from(reader.bytes(SHA256_BYTES));
  const ramPages = ramBytes / PAGE_SIZE_BYTES;
  if (flags !== 0 || reader.rest().some((byte) => byte !== 0)) {
    throw new BackupError('The header has reserved bits set');
  }
  if (!Number.isInteger(ramPages) || ramPages > RAM_PAGES_MAX || pages > ramPages) {
    throw new BackupError(`The header has ${pages} pages of a RAM of ${ramBytes} bytes`);
  }
  if (batches > pages) throw new BackupError(`The header has ${batches} batches of ${pages} pages`);
  if (fileBytes !== BACKUP_HEADER_BYTES + bodyBytes) {
    throw new BackupError(
      `The file has ${fileBytes} bytes instead of ${BACKUP_HEADER_BYTES + bodyBytes}`,
    );
  }
  return { migrationId, ramPages, pages, batches, bodyBytes, digest };
}
