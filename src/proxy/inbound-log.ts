/**
 * What the LAN sent to the primary guest, kept on the secondary until a checkpoint makes it part of
 * the guest's state.
 *
 * Epoch N is what runs between checkpoint N and N+1, so checkpoint N+1 is the state at the end of
 * epoch N. Once checkpoint N+1 is committed and applied, the secondary guest has everything the
 * primary guest consumed before that point, and needs only what came after it: inbound of epoch
 * N+1 and later. An *exact* epoch mark says that the primary guest had consumed all that came
 * before it. Where the primary could not make sure, a frame that reached its agent just before the
 * stop may still have been waiting in QEMU, and the checkpoint does not know it: then frames that
 * arrived within an overlap before the mark are kept too. Delivering a frame twice is harmless
 * (networks do it); losing one that the client has sent only once costs a retransmission time-out.
 *
 * A guest that executes in between gets each frame once: the log remembers how far it has been
 * delivered, and `rewind` goes back when a checkpoint has replaced the guest's state.
 *
 * In: batches and epoch marks in the order of the stream, and the time of arrival. Out: what is to
 * be delivered next. Forgetting happens only by `committed` and the bound.
 */
import { assert, ProtocolError } from '../lib/index.js';
import { checkBatch, countFrames } from './batch-wire.js';
import {
  EPOCH_MARKS_MAX,
  INBOUND_LOG_BATCHES_MAX,
  INBOUND_LOG_BYTES_MAX,
  INBOUND_OVERLAP_US,
} from './limits.js';

/** Bounds and overlap of a log; the defaults stand in limits.ts. */
export interface InboundLogOptions {
  readonly overlapUs?: number;
  readonly bytesMax?: number;
  readonly batchesMax?: number;
}

/** `dropped*`: lost to the bound since the log was made. */
export interface InboundLogCounters {
  readonly batches: number;
  readonly bytes: number;
  readonly droppedFrames: number;
}

interface LoggedBatch {
  readonly epoch: number;
  readonly arrivedUs: number;
  readonly batch: Buffer;
}

export class InboundLog {
  readonly #overlapUs: number;
  readonly #bytesMax: number;
  readonly #batchesMax: number;
  /** Oldest first; what is in front of `#first` is forgotten. */
  #entries: (LoggedBatch | undefined)[] = [];
  #first = 0;
  /** The next to be delivered; never before `#first`. */
  #next = 0;
  #bytes = 0;
  #droppedFrames = 0;
  #epoch = 0;
  /** The newest committed checkpoint; what it contains is forgotten once its mark is here. */
  #committed = 0;
  /** From when on inbound belongs to each epoch that is not committed yet, overlap included. */
  readonly #marks = new Map<number, number>();

  constructor(options: InboundLogOptions = {}) {
    this.#overlapUs = options.overlapUs ?? INBOUND_OVERLAP_US;
    this.#bytesMax = options.bytesMax ?? INBOUND_LOG_BYTES_MAX;
    this.#batchesMax = options.batchesMax ?? INBOUND_LOG_BATCHES_MAX;
  }

  get counters(): InboundLogCounters {
    return {
      batches: this.#entries.length - this.#first,
      bytes: this.#bytes,
      droppedFrames: this.#droppedFrames,
    };
  }

  /**
   * A batch from the peer, mirrored in `epoch`. Kept by reference.
   * Throws `ProtocolError` for a malformed batch or an epoch that went backwards.
   */
  push(epoch: number, batch: Buffer, nowUs: number): void {
    checkBatch(batch);
    this.#advance(epoch);
    this.#entries.push({ epoch, arrivedUs: nowUs, batch });
    this.#bytes += batch.length;
    while (this.#bytes > this.#bytesMax || this.#entries.length - this.#first > this.#batchesMax) {
      this.#droppedFrames += countFrames(this.#forgetOldest().batch);
    }
  }

  /** The stream's epoch mark: `epoch` begins. Throws `ProtocolError` unless it is a new one. */
  mark(epoch: number, nowUs: number, exact = false): void {
    if (this.#marks.has(epoch)) throw new ProtocolError(`Epoch ${epoch} is marked twice`);
    if (this.#marks.size >= EPOCH_MARKS_MAX) {
      throw new ProtocolError(`More than ${EPOCH_MARKS_MAX} epochs are marked but not committed`);
    }
    this.#advance(epoch);
    this.#marks.set(epoch, exact ? Number.POSITIVE_INFINITY : nowUs - this.#overlapUs);
    if (epoch === this.#committed) this.committed(epoch);
  }

  /**
   * Checkpoint `epoch` is committed: forgets the inbound it contains, if need be when its mark
   * comes. Without the mark nobody knows what the guest had consumed, and everything is kept.
   */
  committed(epoch: number): void {
    this.#committed = epoch;
    const keepFromUs = this.#marks.get(epoch);
    if (keepFromUs === undefined) return;
    for (;;) {
      const oldest = this.#entries[this.#first];
      if (oldest === undefined) break;
      if (oldest.epoch >= epoch || oldest.arrivedUs >= keepFromUs) break;
      this.#forgetOldest();
    }
    for (const marked of this.#marks.keys()) {
      if (marked <= epoch) this.#marks.delete(marked);
    }
  }

  /**
   * The oldest batch not delivered yet, unless it is of a later epoch than `epochMax`, or of an
   * older one than the committed checkpoint, whose mark will tell whether it is contained. Without
   * `epochMax`, after a failover, no mark will come, and everything is given.
   */
  peek(epochMax = Number.POSITIVE_INFINITY): Buffer | undefined {
    if (this.#epoch < this.#committed && epochMax !== Number.POSITIVE_INFINITY) return undefined;
    const next = this.#entries[this.#next];
    return next !== undefined && next.epoch <= epochMax ? next.batch : undefined;
  }

  /** What `peek` gave is delivered; it stays logged until a checkpoint contains it. */
  delivered(): void {
    assert(this.#next < this.#entries.length, 'Nothing is left to be delivered');
    this.#next++;
  }

  /** A checkpoint has replaced the guest's state: everything logged is to be delivered (again). */
  rewind(): void {
    this.#next = this.#first;
  }

  /** Everything that the state of the last committed checkpoint may not contain, in order. */
  remaining(): Buffer[] {
    return this.#entries.slice(this.#first).flatMap((entry) => entry?.batch ?? []);
  }

  /** After a promotion: nothing will be applied any more. */
  clear(): void {
    this.#entries = [];
    this.#first = 0;
    this.#next = 0;
    this.#bytes = 0;
    this.#marks.clear();
  }

  #advance(epoch: number): void {
    if (epoch < this.#epoch) {
      throw new ProtocolError(`Inbound of epoch ${epoch} follows epoch ${this.#epoch}`);
    }
    this.#epoch = epoch;
  }

  #forgetOldest(): LoggedBatch {
    const entry = this.#entries[this.#first];
    assert(entry !== undefined, 'An empty log is over its bound');
    this.#entries[this.#first] = undefined;
    this.#first++;
    this.#next = Math.max(this.#next, this.#first);
    this.#bytes -= entry.batch.length;
    // Cut off what is forgotten once it is the larger part: constant cost per batch.
    if (this.#first * 2 >= this.#entries.length) {
      this.#entries = this.#entries.slice(this.#first);
      this.#next -= this.#first;
      this.#first = 0;
    }
    return entry;
  }
}
