/**
 * Where the SVM's own writes are: for each 4 KiB block of the disk either nothing (the image is
 * right), zeroes (no storage) or a slot of the overlay's storage.
 *
 * Blocks are looked up in groups of 1024, so a block costs 4 bytes and a group written with zeroes
 * as a whole costs nothing: a guest that trims its whole disk does not fill the memory. Slots are
 * numbered from 0; freed ones are used again first.
 */
import { OVERLAY_BLOCK_BYTES } from './limits.js';

const GROUP_BLOCKS = 1024;
const GROUP_BYTES = GROUP_BLOCKS * 4;

/** In a group: 0 nothing, -1 zeroes, n > 0 slot n - 1. */
const NOTHING = 0;
const ZEROES = -1;

type Group = Int32Array | 'zeroes';

/** A part of a disk range and where its bytes are. */
export type OverlaySegment =
  | { readonly kind: 'image' | 'zeroes'; readonly offset: number; length: number }
  | {
      readonly kind: 'overlay';
      readonly offset: number;
      length: number;
      readonly position: number;
    };

export class OverlayMap {
  readonly #groups = new Map<number, Group>();
  #freeSlots: number[] = [];
  #nextSlot = 0;
  #wholeGroups = 0;

  /** Bytes of storage in use. */
  get storedBytes(): number {
    return (this.#nextSlot - this.#freeSlots.length) * OVERLAY_BLOCK_BYTES;
  }

  /** Bytes of memory that the map itself takes, roughly. */
  get mapBytes(): number {
    const tables = this.#groups.size - this.#wholeGroups;
    return tables * GROUP_BYTES + this.#groups.size * 64 + this.#freeSlots.length * 8;
  }

  get isEmpty(): boolean {
    return this.#groups.size === 0;
  }

  /** Position of the block's bytes in the storage; 'image' or 'zeroes' where it has none. */
  find(block: number): number | 'image' | 'zeroes' {
    const entry = this.#entry(block);
    if (entry === NOTHING) return 'image';
    return entry === ZEROES ? 'zeroes' : (entry - 1) * OVERLAY_BLOCK_BYTES;
  }

  /** Gives the block storage, the one it has or new; the caller fills all of it if it is new. */
  assign(block: number): number {
    const group = this.#table(Math.floor(block / GROUP_BLOCKS));
    const at = block % GROUP_BLOCKS;
    const entry = group[at] as number;
    if (entry > 0) return (entry - 1) * OVERLAY_BLOCK_BYTES;
    const slot = this.#freeSlots.pop() ?? this.#nextSlot++;
    group[at] = slot + 1;
    return slot * OVERLAY_BLOCK_BYTES;
  }

  /** The blocks read as zeroes; their storage is free again. */
  setZeroes(first: number, count: number): void {
    this.#setAll(first, count, ZEROES);
  }

  /** The image is right for these blocks; their storage is free again. */
  remove(first: number, count: number): void {
    this.#setAll(first, count, NOTHING);
  }

  clear(): void {
    this.#groups.clear();
    this.#freeSlots = [];
    this.#nextSlot = 0;
    this.#wholeGroups = 0;
  }

  /** The byte range in parts by where the bytes are; neighbours of one kind are joined. */
  segments(offset: number, length: number): OverlaySegment[] {
    const segments: OverlaySegment[] = [];
    const end = offset + length;
    let at = offset;
    while (at < end) {
      const block = Math.floor(at / OVERLAY_BLOCK_BYTES);
      const partEnd = Math.min(end, this.#sameUntil(block) * OVERLAY_BLOCK_BYTES);
      this.#append(segments, at, partEnd - at);
      at = partEnd;
    }
    return segments;
  }

  /** Numbers of the first blocks of the groups that hold anything, ascending, and their size. */
  groupStarts(): number[] {
    return [...this.#groups.keys()].sort((a, b) => a - b).map((group) => group * GROUP_BLOCKS);
  }

  static readonly groupBlocks = GROUP_BLOCKS;

  #entry(block: number): number {
    const group = this.#groups.get(Math.floor(block / GROUP_BLOCKS));
    if (group === undefined) return NOTHING;
    return group === 'zeroes' ? ZEROES : (group[block % GROUP_BLOCKS] as number);
  }

  /** First block after `block` that may be different; skips groups without a table. */
  #sameUntil(block: number): number {
    const group = this.#groups.get(Math.floor(block / GROUP_BLOCKS));
    if (group instanceof Int32Array) return block + 1;
    return (Math.floor(block / GROUP_BLOCKS) + 1) * GROUP_BLOCKS;
  }

  #append(segments: OverlaySegment[], offset: number, length: number): void {
    const block = Math.floor(offset / OVERLAY_BLOCK_BYTES);
    const found = this.find(block);
    const previous = segments.at(-1);
    if (typeof found !== 'number') {
      if (previous?.kind === found) previous.length += length;
      else segments.push({ kind: found, offset, length });
      return;
    }
    const position = found + (offset - block * OVERLAY_BLOCK_BYTES);
    if (previous?.kind === 'overlay' && previous.position + previous.length === position) {
      previous.length += length;
    } else {
      segments.push({ kind: 'overlay', offset, length, position });
    }
  }

  /** The group as a table that can be changed. */
  #table(index: number): Int32Array {
    const group = this.#groups.get(index);
    if (group instanceof Int32Array) return group;
    const table = new Int32Array(GROUP_BLOCKS);
    if (group === 'zeroes') {
      table.fill(ZEROES);
      this.#wholeGroups -= 1;
    }
    this.#groups.set(index, table);
    return table;
  }

  #setAll(first: number, count: number, value: typeof NOTHING | typeof ZEROES): void {
    const end = first + count;
    let block = first;
    while (block < end) {
      const index = Math.floor(block / GROUP_BLOCKS);
      const groupEnd = (index + 1) * GROUP_BLOCKS;
      const partEnd = Math.min(end, groupEnd);
      if (partEnd - block === GROUP_BLOCKS) this.#setGroup(index, value);
      else this.#setPart(index, { from: block % GROUP_BLOCKS, count: partEnd - block }, value);
      block = partEnd;
    }
  }

  #setGroup(index: number, value: typeof NOTHING | typeof ZEROES): void {
    const group = this.#groups.get(index);
    if (group instanceof Int32Array) this.#free(group);
    if (group === 'zeroes') this.#wholeGroups -= 1;
    if (value === NOTHING) {
      this.#groups.delete(index);
    } else {
      this.#groups.set(index, 'zeroes');
      this.#wholeGroups += 1;
    }
  }

  #setPart(
    index: number,
    part: { from: number; count: number },
    value: typeof NOTHING | typeof ZEROES,
  ): void {
    if (value === NOTHING && !this.#groups.has(index)) return;
    const entries = this.#table(index).subarray(part.from, part.from + part.count);
    this.#free(entries);
    entries.fill(value);
  }

  #free(entries: Int32Array): void {
    for (const entry of entries) if (entry > 0) this.#freeSlots.push(entry - 1);
  }
}
