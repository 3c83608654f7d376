/**
 * The inputs of the golden vectors of src/migration, and their text form: the length in bytes, then
 * the rows of 16 bytes that are not zero, with their offset.
 */
import { createHash } from 'node:crypto';
import { PAGE_SIZE_BYTES, Prng } from '../../src/lib/index.js';
import { digestPages, PageEncoder } from '../../src/migration/index.js';
import { encodeBatch, type PageBatch } from '../../src/migration/pages/page-batch.js';
import {
  dataOffset,
  encodeImageHeader,
  imageFileBytes,
  TABLE_AT,
} from '../../src/migration/store/ram-image-format.js';
import { fillRandom, PageRam } from './page-ram.js';

const ROW_BYTES = 16;

export function toRows(bytes: Buffer): string {
  const rows = [`length ${bytes.length}`];
  for (let at = 0; at < bytes.length; at += ROW_BYTES) {
    const row = bytes.subarray(at, at + ROW_BYTES);
    if (row.every((byte) => byte === 0)) continue;
    rows.push(`${at.toString(16).padStart(6, '0')} ${row.toString('hex')}`);
  }
  return `${rows.join('\n')}\n`;
}

export function fromRows(text: string): Buffer {
  const [head, ...rows] = text.trimEnd().split('\n') as [string, ...string[]];
  const bytes = Buffer.alloc(Number(head.replace('length ', '')));
  for (const row of rows) {
    const [at, hex] = row.split(' ') as [string, string];
    Buffer.from(hex, 'hex').copy(bytes, Number.parseInt(at, 16));
  }
  return bytes;
}

/** 16 pages: 2 and 3 with a word at their ends, 9 with a pattern, 12 random, else zero. */
export function goldenRam(): PageRam {
  const ram = new PageRam(16);
  ram.page(2).writeUInt32BE(0xc0104e57, 0);
  ram.page(3).writeUInt32BE(0xc0104e57, 4092);
  for (let at = 0; at < PAGE_SIZE_BYTES; at += 64) ram.page(9).writeUInt16BE(at, at);
  fillRandom(ram.page(12), new Prng(2026));
  return ram;
}

/** Pages 0, 1, 4 to 8 zero; 2 and 3 as they are; 9 with words 0, 2 and 100 changed. */
export function goldenBatch(): PageBatch {
  const ram = goldenRam();
  const encoder = new PageEncoder({ ramPages: 16, cacheBytes: 65536, destinationIsZero: false });
  const ninth = [{ offset: 9 * PAGE_SIZE_BYTES, length: PAGE_SIZE_BYTES }];
  // What is sent twice is remembered.
  for (let round = 0; round < 2; round++)
    for (const batch of encoder.encode(ninth, ram)) void batch;
  for (const word of [0, 2, 100]) ram.page(9).writeUInt32BE(0xdada0000 + word, word * 4);
  return [...encoder.encode([{ offset: 0, length: 10 * PAGE_SIZE_BYTES }], ram)][0] as PageBatch;
}

export const GOLDEN_ID = Buffer.from('000102030405060708090a0b0c0d0e0f', 'hex');
const GOLDEN_SALT = Buffer.from('f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff', 'hex');

/** Of the golden RAM, 16 bytes per page. */
export function goldenDigests(): Buffer {
  const digests = Buffer.alloc(16 * 16);
  digestPages(GOLDEN_SALT, goldenRam().bytes, digests);
  return digests;
}

/** The golden RAM as an image of the guest "web", epoch 42. */
export function goldenImage(): Buffer {
  const ram = goldenRam();
  const table = goldenDigests();
  const bytes = Buffer.alloc(imageFileBytes(16));
  encodeImageHeader({
    vm: 'web',
    imageId: GOLDEN_ID,
    salt: GOLDEN_SALT,
    ramPages: 16,
    dataPages: 4,
    epoch: 42,
    savedAtMs: 1_700_000_000_000,
    digests: createHash('sha256').update(table).digest(),
  }).copy(bytes);
  table.copy(bytes, TABLE_AT);
  ram.bytes.copy(bytes, dataOffset(16));
  return bytes;
}

export function encodedBatch(batch: PageBatch, compressed?: Buffer): Buffer {
  return Buffer.concat(encodeBatch(batch, compressed));
}
