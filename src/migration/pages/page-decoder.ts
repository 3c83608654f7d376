/**
 * Writes batches of pages into the destination's RAM: all of a batch or nothing. Everything is
 * checked first, the deltas' results too; a delta whose base is not what the source believes gives
 * another result, and is refused by its checksum.
 */
import { crc32c, PAGE_SIZE_BYTES, ProtocolError } from '../../lib/index.js';
import { BATCH_DELTAS, DELTA_BYTES_MAX } from './limits.js';
import { DELTA_HEADER_BYTES, decodeBatch, type PageBatch, type PageRun } from './page-batch.js';
import type { PageBitmap } from './page-bitmap.js';
import { applyDelta } from './page-delta.js';

/** What the decoder needs of the destination's RAM. */
export interface PageTarget {
  /** Only called for pages that come as deltas. */
  copyOut(offset: number, target: Buffer): void;
  writeFile(offset: number, bytes: Buffer): void;
  /** Makes whole pages zero, giving their memory back; without it zeroes are written. */
  discard?(offset: number, length: number): void;
}

export interface AppliedBatch {
  /** The runs of the batch, whether or not they were written. */
  readonly runs: readonly PageRun[];
  readonly pages: number;
  /** Pages that were written; fewer than `pages` only when `only` left some out. */
  readonly written: number;
}

const ZEROES = Buffer.alloc(64 * PAGE_SIZE_BYTES);

export class PageDecoder {
  readonly #ramPages: number;
  readonly #target: PageTarget;
  /** Grows to what the largest batch so far needed: at most 4 MiB. */
  #results = Buffer.alloc(0);

  constructor(ramPages: number, target: PageTarget) {
    this.#ramPages = ramPages;
    this.#target = target;
  }

  /**
   * Checks one whole batch and writes its pages. With `only`, pages that are not in it are left
   * as they are (the guest may have written them since) and their deltas are not looked at.
   * Throws `ProtocolError` before anything is written; what the target throws is passed on.
   */
  apply(bytes: Buffer, only?: PageBitmap): AppliedBatch {
    return this.applyDecoded(decodeBatch(bytes, this.#ramPages), only);
  }

  /** The same for a batch that `decodeBatch` has checked for this RAM. */
  applyDecoded(batch: PageBatch, only?: PageBitmap): AppliedBatch {
    const writes = this.#prepare(batch, only);
    let written = 0;
    for (const { first, count, data } of writes) {
      if (data === undefined) this.#writeZeroes(first, count);
      else this.#target.writeFile(first * PAGE_SIZE_BYTES, data);
      written += count;
    }
    return { runs: batch.runs, pages: batch.pages, written };
  }

  #prepare(batch: PageBatch, only: PageBitmap | undefined): PreparedWrite[] {
    const writes: PreparedWrite[] = [];
    const results = this.#resultsFor(batch);
    let position = 0;
    let deltas = 0;
    for (const run of batch.runs) {
      if (run.kind === 'delta') {
        for (let page = run.first; page < run.first + run.count; page++) {
          const delta = takeDelta(batch.data, position);
          position += DELTA_HEADER_BYTES + delta.tokens.length;
          if (only !== undefined && !only.has(page)) continue;
          const data = results.subarray(deltas * PAGE_SIZE_BYTES, (deltas + 1) * PAGE_SIZE_BYTES);
          deltas += 1;
          this.#apply(page, delta, data);
          writes.push({ first: page, count: 1, data });
        }
        continue;
      }
      const at = position;
      const isRaw = run.kind === 'raw';
      if (isRaw) position += run.count * PAGE_SIZE_BYTES;
      if (position > batch.data.length) throw new ProtocolError('The data of a batch is too short');
      const parts = only === undefined ? [run] : only.runs(run.first, run.first + run.count);
      for (const { first, count } of parts) {
        const from = at + (first - run.first) * PAGE_SIZE_BYTES;
        const data = isRaw ? batch.data.subarray(from, from + count * PAGE_SIZE_BYTES) : undefined;
        writes.push({ first, count, data });
      }
    }
    if (position !== batch.data.length) {
      throw new ProtocolError(`${batch.data.length - position} bytes follow a batch's last page`);
    }
    return writes;
  }

  #resultsFor(batch: PageBatch): Buffer {
    let deltas = 0;
    for (const run of batch.runs) if (run.kind === 'delta') deltas += run.count;
    const needed = Math.min(deltas, BATCH_DELTAS) * PAGE_SIZE_BYTES;
    if (this.#results.length < needed) this.#results = Buffer.allocUnsafeSlow(needed);
    return this.#results;
  }

  #apply(page: number, delta: Delta, result: Buffer): void {
    this.#target.copyOut(page * PAGE_SIZE_BYTES, result);
    applyDelta(delta.tokens, result);
    if (crc32c(result) !== delta.crc) {
      throw new ProtocolError(`The delta of page ${page} belongs to another version of it`);
    }
  }

  #writeZeroes(first: number, count: number): void {
    const offset = first * PAGE_SIZE_BYTES;
    const length = count * PAGE_SIZE_BYTES;
    if (this.#target.discard !== undefined) {
      this.#target.discard(offset, length);
      return;
    }
    for (let at = 0; at < length; at += ZEROES.length) {
      this.#target.writeFile(offset + at, ZEROES.subarray(0, length - at));
    }
  }
}

interface PreparedWrite {
  readonly first: number;
  readonly count: number;
  /** Undefined: zeroes. */
  readonly data: Buffer | undefined;
}

interface Delta {
  readonly crc: number;
  readonly tokens: Buffer;
}

function takeDelta(data: Buffer, position: number): Delta {
  if (data.length - position < DELTA_HEADER_BYTES) throw new ProtocolError('A delta is missing');
  const length = data.readUInt16BE(position);
  const start = position + DELTA_HEADER_BYTES;
  if (length > DELTA_BYTES_MAX || length > data.length - start) {
    throw new ProtocolError(`A delta of ${length} bytes does not fit`);
  }
  if (data.readUInt16BE(position + 2) !== 0) throw new ProtocolError('A delta has reserved bits');
  return { crc: data.readUInt32BE(position + 4), tokens: data.subarray(start, start + length) };
}
