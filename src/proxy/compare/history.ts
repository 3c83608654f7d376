/**
 * What clients have already been sent: the last bytes of all TCP streams together, so that a
 * retransmission can be compared with what it repeats.
 *
 * One arena for all flows, written round and round. A *record* says which bytes of which stream lie
 * where; records are numbered, lie in a ring of their own, and know the flow's record before them.
 * A flow holds the number of its newest record. A record is valid until its place in the ring or
 * its first byte in the arena is overwritten; then all older ones of the flow are invalid too, so
 * that nothing needs to be cleaned up, and a forgotten flow just forgets its number.
 *
 *     arena    positions count up for ever; byte `position % bytes` is valid for one round
 *     record   stream position `seq`, `length` bytes at arena position `position`
 *
 * The arena is allocated at the first byte.
 */
import { seqAdd, seqDistance } from '../../lib/index.js';
import { copyBytes } from './bytes.js';
import { HISTORY_RECORD_BYTES_MAX, HISTORY_RECORDS, HISTORY_WALK_MAX } from './limits.js';

/** The newest record of a flow that has none. */
export const NO_RECORD = -1;

export class History {
  readonly #bytes: number;
  #arena: Buffer | undefined;
  /** Arena position of the next byte. */
  #written = 0;
  #nextRecord = 0;
  #seqs = new Uint32Array(0);
  #lengths = new Uint32Array(0);
  #positions = new Float64Array(0);
  #olders = new Float64Array(0);

  /** Of the last `locate`: how many bytes the answer is about. */
  runBytes = 0;

  /** `bytes`: size of the arena; less than one IP packet remembers nothing. */
  constructor(bytes: number) {
    this.#bytes = bytes < 2 * HISTORY_RECORD_BYTES_MAX ? 0 : bytes;
  }

  get arena(): Buffer {
    return this.#arena ?? NO_ARENA;
  }

  /** Remembers `from[at..end)` as the stream's bytes from `seq` on; gives the flow's newest record. */
  add(newest: number, seq: number, from: Buffer, at: number, end: number): number {
    const length = end - at;
    if (length === 0 || length > HISTORY_RECORD_BYTES_MAX || this.#bytes === 0) return newest;
    if (this.#arena === undefined) this.#allocate();
    let offset = this.#written % this.#bytes;
    if (offset + length > this.#bytes) {
      this.#written += this.#bytes - offset;
      offset = 0;
    }
    copyBytes(from, at, this.arena, offset, length);
    const position = this.#written;
    this.#written += length;
    if (this.#extend(newest, seq, position, length)) return newest;
    const record = this.#nextRecord++;
    const slot = record % HISTORY_RECORDS;
    this.#seqs[slot] = seq;
    this.#lengths[slot] = length;
    this.#positions[slot] = position;
    this.#olders[slot] = newest;
    return record;
  }

  /**
   * Looks for the stream's byte at `seq`: gives its offset in `arena`, or -1 if it is not
   * remembered. `runBytes`, at most `length`, says for how many bytes from there that holds.
   */
  locate(newest: number, seq: number, length: number): number {
    let run = length;
    let record = newest;
    for (let steps = 0; steps < HISTORY_WALK_MAX && this.#isValid(record); steps++) {
      const slot = record % HISTORY_RECORDS;
      const distance = seqDistance(seq, this.#seqs[slot] as number);
      const recordBytes = this.#lengths[slot] as number;
      if (distance >= 0 && distance < recordBytes) {
        this.runBytes = Math.min(run, recordBytes - distance);
        return ((this.#positions[slot] as number) % this.#bytes) + distance;
      }
      if (distance < 0 && -distance < run) run = -distance;
      record = this.#olders[slot] as number;
    }
    this.runBytes = run;
    return -1;
  }

  #isValid(record: number): boolean {
    if (record < 0 || record < this.#nextRecord - HISTORY_RECORDS) return false;
    return (this.#positions[record % HISTORY_RECORDS] as number) + this.#bytes >= this.#written;
  }

  /** Joins bytes that follow the flow's newest record in the stream and in the arena to it. */
  #extend(newest: number, seq: number, position: number, length: number): boolean {
    if (newest < 0 || newest < this.#nextRecord - HISTORY_RECORDS) return false;
    const slot = newest % HISTORY_RECORDS;
    const recordBytes = this.#lengths[slot] as number;
    if (recordBytes + length > HISTORY_RECORD_BYTES_MAX) return false;
    const start = this.#positions[slot] as number;
    if (start + recordBytes !== position || position % this.#bytes === 0) return false;
    if (seqAdd(this.#seqs[slot] as number, recordBytes) !== seq) return false;
    this.#lengths[slot] = recordBytes + length;
    return true;
  }

  #allocate(): void {
    this.#arena = Buffer.allocUnsafeSlow(this.#bytes);
    this.#seqs = new Uint32Array(HISTORY_RECORDS);
    this.#lengths = new Uint32Array(HISTORY_RECORDS);
    this.#positions = new Float64Array(HISTORY_RECORDS);
    this.#olders = new Float64Array(HISTORY_RECORDS);
  }
}

const NO_ARENA = Buffer.alloc(0);
