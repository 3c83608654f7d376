/**
 * What the workload writes and what is found of it: every value, file and block tells by itself
 * what it must be, so that whoever finds one can check all of its bytes. Pure.
 *
 * - redis: a key's value follows from the key.
 * - files: a slot's text follows from slot and version; a new version replaces the old one by a
 *   rename.
 * - the guest's `diskload`: numbered blocks in a ring (scripts/guest/workers.c).
 */
import { createHash } from 'node:crypto';
import { RespParser, type RespValue } from '../clients/resp.js';

/** Bytes of one `RespParser.write`; below its bound for what is not complete. */
const AOF_CHUNK_BYTES = 1 << 20;

const VALUE_FILLER_MAX = 900;
const FILE_LINES_MIN = 100;
const FILE_LINES_SPREAD = 900;

/** Of scripts/guest/workers.c. */
const LOAD_BLOCK_BYTES = 65_536;
const LOAD_BLOCKS = 1024;
const LOAD_MAGIC = 0x434f_4c4f_4c4f_4144n;
const LOAD_SEED_FACTOR = 0x9e37_79b9_7f4a_7c15n;
const WORD = 1n << 64n;

/** A file as it was found. */
export interface FoundFile {
  /** 0: its first line does not tell. */
  readonly version: number;
  /** All of its bytes are those of this version. */
  readonly whole: boolean;
}

/** The ring of `diskload` as it was found. */
export interface FoundLoad {
  /** Of the blocks; 0 for none. */
  readonly highest: number;
  /** Blocks that must be there, given the highest, and are not. */
  readonly bad: number;
}

/** All that the workload has left on a disk, or in a running guest. */
export interface Contents {
  readonly sets: ReadonlyMap<string, string>;
  /** By `directory/slot`. */
  readonly files: ReadonlyMap<string, FoundFile>;
  readonly load: FoundLoad;
}

/** The value that belongs to a key of redis. */
export function storedValue(key: string): string {
  const digest = createHash('sha256').update(key).digest();
  const length = digest.readUInt16LE(0) % VALUE_FILLER_MAX;
  const hex = digest.toString('hex');
  return `${key} ${hex.repeat(Math.ceil(length / hex.length)).slice(0, length)}`;
}

/** How many lines a version of a file has. */
export function fileLines(version: number): number {
  return FILE_LINES_MIN + ((version * 97) % FILE_LINES_SPREAD);
}

/** The text that belongs to a version of a slot. */
export function fileText(slot: string, version: number): string {
  const lines = Array.from({ length: fileLines(version) }, (_, line) => {
    return `${slot} ${version} ${line + 1}\n`;
  });
  return lines.join('');
}

/**
 * The guest's shell command that writes it and returns once it is durable under its final name.
 * `seq` makes the same lines as `fileText`.
 */
export function fileCommand(directory: string, slot: string, version: number): string {
  const steps = [
    `cd ${directory}`,
    `seq -f '${slot} ${version} %.0f' ${fileLines(version)} >new-${slot}`,
    `sync new-${slot}`,
    `mv new-${slot} ${slot}`,
    'sync .',
  ];
  return steps.join(' && ');
}

/** Judges a slot by its first line and the SHA-256 of all, in hex. */
export function foundFile(slot: string, firstLine: string, sha256: string): FoundFile {
  const [name, version = ''] = firstLine.split(' ');
  if (name !== slot || !/^[1-9]\d{0,8}$/.test(version)) return { version: 0, whole: false };
  const text = fileText(slot, Number(version));
  return { version: Number(version), whole: sha256Hex(Buffer.from(text)) === sha256 };
}

export function sha256Hex(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** What an append-only file of redis holds. */
export interface AppendOnlyFile {
  readonly sets: ReadonlyMap<string, string>;
  /**
   * It ends in zeroes: ext4 gives a file its new length before its new blocks' bytes, and shows
   * zeroes for those that no sync has waited for. Redis does not start from such a file by itself.
   */
  readonly zeroTail: boolean;
}

/**
 * Keys and values of an append-only file: RESP commands one after the other. A torn tail is
 * ignored. Throws ProtocolError for anything else that is broken.
 */
export function parseAppendOnlyFile(bytes: Buffer): AppendOnlyFile {
  const parser = new RespParser();
  const sets = new Map<string, string>();
  let end = bytes.length;
  while (end > 0 && bytes[end - 1] === 0) end -= 1;
  for (let at = 0; at < end; at += AOF_CHUNK_BYTES) {
    const chunk = bytes.subarray(at, Math.min(end, at + AOF_CHUNK_BYTES));
    for (const command of parser.write(chunk)) {
      const [name = '', key = '', value = ''] = wordsOf(command);
      if (name.toUpperCase() === 'SET') sets.set(key, value);
      else if (name.toUpperCase() !== 'SELECT') throw new Error(`Unexpected command ${name}`);
    }
  }
  return { sets, zeroTail: end < bytes.length };
}

function wordsOf(command: RespValue): string[] {
  if (command.kind !== 'array') throw new Error(`Found a ${command.kind} instead of a command`);
  return command.items.map((item) => (item.kind === 'bulk' ? item.bytes.toString('latin1') : ''));
}

/** Judges the ring as `diskload verify` does; only the slot after the highest may be torn. */
export function foundLoad(bytes: Buffer): FoundLoad {
  const numbers = Array.from({ length: LOAD_BLOCKS }, (_, slot) => {
    return blockNumber(
      bytes.subarray(slot * LOAD_BLOCK_BYTES, (slot + 1) * LOAD_BLOCK_BYTES),
      slot,
    );
  });
  const highest = numbers.reduce((max, number) => Math.max(max, number), 0);
  const torn = (highest + 1) % LOAD_BLOCKS;
  let bad = 0;
  for (let number = Math.max(1, highest - LOAD_BLOCKS + 1); number <= highest; number++) {
    const slot = number % LOAD_BLOCKS;
    if (numbers[slot] !== number && slot !== torn) bad += 1;
  }
  return { highest, bad };
}

/** A block of the ring as `diskload` writes it. */
export function loadBlock(number: number): Buffer {
  const block = Buffer.alloc(LOAD_BLOCK_BYTES);
  block.writeBigUInt64LE(LOAD_MAGIC, 0);
  block.writeBigUInt64LE(BigInt(number), 8);
  const seed = ((BigInt(number) * LOAD_SEED_FACTOR) % WORD) | 1n;
  // Xorshift of 64 bits (13, 7, 17) in halves: BigInt would take seconds for a ring.
  let low = Number(seed & 0xffff_ffffn);
  let high = Number(seed >> 32n);
  for (let at = 16; at < LOAD_BLOCK_BYTES; at += 8) {
    high ^= (high << 13) | (low >>> 19);
    low ^= low << 13;
    low ^= (low >>> 7) | (high << 25);
    high ^= high >>> 7;
    high ^= (high << 17) | (low >>> 15);
    low ^= low << 17;
    block.writeInt32LE(low | 0, at);
    block.writeInt32LE(high | 0, at + 4);
  }
  return block;
}

/** 0 when the content is not what the number in it demands. */
function blockNumber(block: Buffer, slot: number): number {
  if (block.length < LOAD_BLOCK_BYTES || block.readBigUInt64LE(0) !== LOAD_MAGIC) return 0;
  const number = Number(block.readBigUInt64LE(8));
  const sound = Number.isSafeInteger(number) && number > 0 && number % LOAD_BLOCKS === slot;
  return sound && block.equals(loadBlock(number)) ? number : 0;
}
