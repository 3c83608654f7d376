/**
 * What every disk layer offers to the one above it. Layers stack: the NBD server talks to the top
 * one, each forwards to the next, the last is an image file. All offsets and lengths are bytes; the
 * caller has checked that they lie inside the disk.
 *
 * Order: a caller never has two overlapping writes in flight (the NBD server's range queue sees to
 * it), so a layer need not order them. A read that overlaps a write in flight may see either.
 */
import type { LentData } from './nbd-references.js';

export interface BlockLayer {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** The caller owns the buffer. */
  read(offset: number, length: number): Promise<Buffer>;
  /** Like `read`, into memory of the caller's, all of it. */
  readInto?(offset: number, target: Buffer): Promise<void>;
  /** `data` must not change afterwards: layers may keep it. `fua`: durable before it resolves. */
  write(offset: number, data: Buffer, fua: boolean): Promise<void>;
  /**
   * Writes all of it at once, from where it is; nobody has it afterwards. False: nothing is known
   * of what the range holds, and the write has to be done as any other.
   */
  writeLent?(offset: number, data: LentData): boolean;
  /** Asked when a write has resolved: false if nobody uses its data any more. */
  readonly keepsData?: boolean;
  /**
   * A file that has all of the range at the same place and in the page cache; undefined: read it.
   * It is the disk's content at any later moment, too, so what is sent of it may be newer.
   */
  cachedFile?(offset: number, length: number): CachedFile | undefined;
  writeZeroes(offset: number, length: number, options: ZeroOptions): Promise<void>;
  /**
   * Gives the space back. The range reads as zeroes afterwards: both guests of a pair must see the
   * same bytes after a trim, so "undefined" is not good enough here.
   */
  trim(offset: number, length: number): Promise<void>;
  /** Everything answered before the call is durable when it resolves. */
  flush(): Promise<void>;
  close(): Promise<void>;
  /**
   * Ranges that may hold something else than zeroes, ascending; without it, everything may. With a
   * query only those in its range, cut to it, and at most the first `countMax`.
   */
  dataRanges?(query?: RangeQuery): ByteRange[];
}

export interface CachedFile {
  readonly fd: number;
  /**
   * Another one for each file that this thread ever opened, unlike the descriptor; 32 bits,
   * unsigned. Undefined: no other process is to open it.
   */
  readonly serial: number | undefined;
  /** What is said of the range is true of the whole disk, until the layer is closed. */
  readonly isWhole: boolean;
}

export interface RangeQuery extends ByteRange {
  readonly countMax?: number;
}

/** Fills `target` from `offset`, without a copy where the layer can. */
export async function readInto(layer: BlockLayer, offset: number, target: Buffer): Promise<void> {
  if (layer.readInto !== undefined) return layer.readInto(offset, target);
  (await layer.read(offset, target.length)).copy(target);
}

export interface ZeroOptions {
  /** The space may be given back (NBD without NO_HOLE). */
  readonly mayTrim: boolean;
  /** Durable before it resolves. */
  readonly fua: boolean;
}

export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}
