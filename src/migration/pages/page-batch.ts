/**
 * The bytes of a batch of guest pages, big-endian: a header, a table of runs, the runs' data.
 *
 * | field     | offset | size | meaning                                          | limit          |
 * | --------- | ------ | ---- | ------------------------------------------------ | -------------- |
 * | magic     | 0      | 4    | 0x43504742, ASCII "CPGB"                         | exact          |
 * | version   | 4      | 1    | of this layout                                   | 1              |
 * | flags     | 5      | 1    | 1: the data is compressed (lz4)                  | 0, 1           |
 * | reserved  | 6      | 2    |                                                  | 0              |
 * | runs      | 8      | 4    | entries of the table                             | 0 to 4096      |
 * | pages     | 12     | 4    | pages of all runs                                | 0 to 65,536    |
 * | dataBytes | 16     | 4    | bytes of the data, uncompressed                  | 512 KiB        |
 * | length    | 20     | 4    | bytes of the data as it follows here             | see below      |
 * | checksum  | 24     | 4    | CRC-32C of bytes 0 to 23, then of all that follows | exact        |
 *
 * An entry of the table, 9 bytes; runs ascend and do not overlap:
 *
 * | field | offset | size | meaning                  | limit                         |
 * | ----- | ------ | ---- | ------------------------ | ----------------------------- |
 * | first | 0      | 4    | index of the first page  | behind the run before         |
 * | count | 4      | 4    | pages                    | 1 and more, within RAM        |
 * | kind  | 8      | 1    | 0 zero, 1 raw, 2 delta   | at most 1024 deltas in all    |
 *
 * Data, in the order of the runs: a zero run has none; a raw run 4096 bytes per page; a delta run
 * for each page: length u16 of the tokens (at most 2048), reserved u16 (0), CRC-32C u32 of the page
 * that results, tokens (page-delta.ts). The base is what the destination has of that page.
 *
 * Not compressed, `length` is `dataBytes`. Compressed, it is shorter; the data is then the size u32
 * little-endian, equal to `dataBytes`, and one block of lz4 ("LZ4 Block Format Description", 2022).
 */
import { uncompressSync } from 'lz4-napi';
import {
  assert,
  crc32c,
  joinCrc32c,
  PAGE_SIZE_BYTES,
  ProtocolError,
  restCrc32c,
} from '../../lib/index.js';
import { BATCH_DATA_BYTES, BATCH_DELTAS, BATCH_PAGES, BATCH_RUNS } from './limits.js';

const MAGIC = 0x4350_4742;
const VERSION = 1;
const FLAG_COMPRESSED = 1;
const HEADER_BYTES = 28;
const CHECKSUM_AT = 24;
const RUN_BYTES = 9;
const KINDS = ['zero', 'raw', 'delta'] as const;
export const DELTA_HEADER_BYTES = 8;
/** lz4's own shortest: a size and one token. */
const COMPRESSED_BYTES_MIN = 5;

/** The longest batch that there can be; what a receiver needs to allow for. */
export const BATCH_BYTES_MAX = HEADER_BYTES + BATCH_RUNS * RUN_BYTES + BATCH_DATA_BYTES;

export interface PageRun {
  /** Index of the first page. */
  readonly first: number;
  readonly count: number;
  readonly kind: (typeof KINDS)[number];
}

/** A batch before its bytes are made, or after they were checked. */
export interface PageBatch {
  readonly runs: readonly PageRun[];
  readonly pages: number;
  /** Uncompressed. */
  readonly data: Buffer;
}

/** The bytes of a batch, back to back, and the CRC-32C of all of them. */
export interface CheckedBatch {
  readonly parts: readonly Buffer[];
  readonly crc: number;
}

/** The parts to be sent, back to back; the last one is the data itself, not a copy. */
export function encodeBatch(batch: PageBatch, compressed?: Buffer): Buffer[] {
  return [...encodeChecked(batch, compressed).parts];
}

/** The same with the CRC-32C of all of it; the data is read once. */
export function encodeChecked(batch: PageBatch, compressed?: Buffer): CheckedBatch {
  const { runs, data } = batch;
  assert(runs.length <= BATCH_RUNS, `A batch of ${runs.length} runs`);
  assert(data.length <= BATCH_DATA_BYTES, `A batch of ${data.length} bytes`);
  assert(compressed === undefined || compressed.length < data.length, 'Compressing did not pay');
  const stored = compressed ?? data;
  const head = Buffer.alloc(HEADER_BYTES + runs.length * RUN_BYTES);
  head.writeUInt32BE(MAGIC, 0);
  head[4] = VERSION;
  head[5] = compressed === undefined ? 0 : FLAG_COMPRESSED;
  head.writeUInt32BE(runs.length, 8);
  head.writeUInt32BE(batch.pages, 12);
  head.writeUInt32BE(data.length, 16);
  head.writeUInt32BE(stored.length, 20);
  for (const [index, run] of runs.entries()) {
    const at = HEADER_BYTES + index * RUN_BYTES;
    head.writeUInt32BE(run.first, at);
    head.writeUInt32BE(run.count, at + 4);
    head[at + 8] = KINDS.indexOf(run.kind);
  }
  const storedCrc = crc32c(stored);
  head.writeUInt32BE(joinCrc32c(headChecksum(head), storedCrc, stored.length), CHECKSUM_AT);
  return { parts: [head, stored], crc: joinCrc32c(crc32c(head), storedCrc, stored.length) };
}

/**
 * Checks and takes apart one whole batch for a RAM of `ramPages` pages. Nothing is allocated before
 * its bound is checked. The data is borrowed from `bytes` unless it was compressed. What is inside
 * the deltas is not looked at. `crc` is the CRC-32C of `bytes` for whoever knows it: the data is not
 * read for it once more. Throws `ProtocolError`.
 */
export function decodeBatch(bytes: Buffer, ramPages: number, crc?: number): PageBatch {
  if (bytes.length < HEADER_BYTES) throw new ProtocolError(`A batch of ${bytes.length} bytes`);
  if (bytes.readUInt32BE(0) !== MAGIC) throw new ProtocolError('A batch does not begin as one');
  if (bytes[4] !== VERSION) throw new ProtocolError(`A batch has version ${bytes[4]}, not 1`);
  const flags = bytes[5] as number;
  const runCount = bytes.readUInt32BE(8);
  const pages = bytes.readUInt32BE(12);
  const dataBytes = bytes.readUInt32BE(16);
  const length = bytes.readUInt32BE(20);
  const compressed = flags === FLAG_COMPRESSED;
  if (flags > FLAG_COMPRESSED || bytes.readUInt16BE(6) !== 0) {
    throw new ProtocolError(`A batch has flags ${flags} or reserved bits`);
  }
  if (runCount > BATCH_RUNS || pages > BATCH_PAGES) {
    throw new ProtocolError(`A batch of ${runCount} runs with ${pages} pages`);
  }
  const plausible = compressed
    ? length >= COMPRESSED_BYTES_MIN && length < dataBytes
    : length === dataBytes;
  if (dataBytes > BATCH_DATA_BYTES || !plausible) {
    throw new ProtocolError(`A batch of ${dataBytes} bytes has ${length}`);
  }
  const dataAt = HEADER_BYTES + runCount * RUN_BYTES;
  if (bytes.length !== dataAt + length) {
    throw new ProtocolError(`A batch has ${bytes.length} bytes instead of ${dataAt + length}`);
  }
  const head = bytes.subarray(0, dataAt);
  const stored = bytes.subarray(dataAt);
  const storedCrc =
    crc === undefined ? crc32c(stored) : restCrc32c(crc, crc32c(head), stored.length);
  const checksum = joinCrc32c(headChecksum(head), storedCrc, stored.length);
  if (bytes.readUInt32BE(CHECKSUM_AT) !== checksum) {
    throw new ProtocolError('The checksum of a batch is wrong');
  }
  const runs = decodeRuns(head, ramPages, pages, dataBytes);
  return { runs, pages, data: compressed ? uncompress(stored, dataBytes) : stored };
}

/** Of what is checked before the data. */
function headChecksum(head: Buffer): number {
  return crc32c(head.subarray(HEADER_BYTES), crc32c(head.subarray(0, CHECKSUM_AT)));
}

function decodeRuns(head: Buffer, ramPages: number, pages: number, dataBytes: number): PageRun[] {
  const runs: PageRun[] = [];
  let end = 0;
  let counted = 0;
  let deltas = 0;
  let rawBytes = 0;
  for (let at = HEADER_BYTES; at < head.length; at += RUN_BYTES) {
    const first = head.readUInt32BE(at);
    const count = head.readUInt32BE(at + 4);
    const kind = KINDS[head[at + 8] as number];
    if (kind === undefined) throw new ProtocolError(`A run is of kind ${head[at + 8]}`);
    if (first < end || count === 0 || first + count > ramPages) {
      throw new ProtocolError(
        `A run of pages ${first}+${count} overlaps or exceeds ${ramPages} pages`,
      );
    }
    if (kind === 'delta') deltas += count;
    if (kind === 'raw') rawBytes += count * PAGE_SIZE_BYTES;
    counted += count;
    end = first + count;
    runs.push({ first, count, kind });
  }
  if (counted !== pages || deltas > BATCH_DELTAS) {
    throw new ProtocolError(`A batch of ${pages} pages has ${counted}, ${deltas} as deltas`);
  }
  if (rawBytes > dataBytes || (deltas === 0 && rawBytes !== dataBytes)) {
    throw new ProtocolError(`A batch of ${dataBytes} bytes has ${rawBytes} of raw pages`);
  }
  return runs;
}

/** lz4's own size is looked at first: the package allocates by it. */
function uncompress(stored: Buffer, dataBytes: number): Buffer {
  if (stored.readUInt32LE(0) !== dataBytes) {
    throw new ProtocolError(`Compressed data claims ${stored.readUInt32LE(0)} of ${dataBytes}`);
  }
  let data: Buffer;
  try {
    data = uncompressSync(stored);
  } catch (error) {
    throw new ProtocolError('The compressed data of a batch is broken', { cause: error });
  }
  if (data.length !== dataBytes) {
    throw new ProtocolError(`Compressed data has ${data.length} of ${dataBytes} bytes`);
  }
  return data;
}
