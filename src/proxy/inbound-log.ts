/**
 * What the LAN sent to the primary guest, kept on the secondary until a checkpoint makes it part of
 * the guest's state.
 *
 * Epoch N is what runs between checkpoint N and N+1, so checkpoint N+1 is the state at the end of
 * epoch N. Once checkpoint N+1 is committed and applied, the secondary guest has everything the
 * primary guest consumed before that point, and needs only what came after it: inbound of epoch
 * N+1 and later.
 *
 * Almost: a frame that reached the primary's agent just before the stop may still have been waiting
 * in QEMU, so that the checkpoint does not know it. Hence frames that arrived within an overlap
 * before the epoch mark are kept too. Delivering a frame twice is harmless (networks do it);
 * losing one that the client has sent only once costs a retransmission time-out.
 *
 * In: batches and epoch marks in the order of the stream, and the time of arrival. Out: what is to
 * be delivered after an apply or a promotion. Forgetting happens only by `committed` and the bound.
 */
import { ProtocolError } from '../lib/index.js';
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
  /** Oldest first: a Set keeps insertion order and forgets its front in constant time. */
  readonly #entries = new Set<LoggedBatch>();
  #bytes = 0;
  #droppedFrames = 0;
  #epoch = 0;
  /** When each epoch that is not committed yet began. */
  readonly #marks = new Map<number, number>();

  constructor(options: InboundLogOptions = {}) {
    this.#overlapUs = options.overlapUs ?? INBOUND_OVERLAP_US;
    this.#bytesMax = options.bytesMax ?? INBOUND_LOG_BYTES_MAX;
    this.#batchesMax = options.batchesMax ?? INBOUND_LOG_BATCHES_MAX;
  }

  get counters(): InboundLogCounters {
    return {
      batches: this.#entries.size,
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
    this.#entries.add({ epoch, arrivedUs: nowUs, batch });
    this.#bytes += batch.length;
    for (const oldest of this.#entries) {
      if (this.#bytes <= this.#bytesMax && this.#entries.size <= this.#batchesMax) break;
      this.#forget(oldest);
      this.#droppedFrames += countFrames(oldest.batch);
    }
  }

  /** The stream's epoch mark: `epoch` begins. Throws `ProtocolError` unless it is a new one. */
  mark(epoch: number, nowUs: number): void {
    if (this.#marks.has(epoch)) throw new ProtocolError(`Epoch ${epoch} is marked twice`);
    if (this.#marks.size >= EPOCH_MARKS_MAX) {
      throw new ProtocolError(`More than ${EPOCH_MARKS_MAX} epochs are marked but not committed`);
    }
    this.#advance(epoch);
    this.#marks.set(epoch, nowUs);
  }

  /**
   * Checkpoint `epoch` is committed: forgets the inbound it contains. Without a mark for it, nobody
   * knows what the guest had consumed, and everything is kept for delivery.
   */
  committed(epoch: number): void {
    const markUs = this.#marks.get(epoch);
    if (markUs === undefined) return;
    const keepFromUs = markUs - this.#overlapUs;
    for (const oldest of this.#entries) {
      if (oldest.epoch >= epoch || oldest.arrivedUs >= keepFromUs) break;
      this.#forget(oldest);
    }
    for (const marked of this.#marks.keys()) {
      if (marked <= epoch) this.#marks.delete(marked);
    }
  }

  /**
   * Everything that the state of the last committed checkpoint may not contain, in order: to be
   * delivered after an apply. It stays logged, since the next checkpoint may not contain it either.
   */
  remaining(): Buffer[] {
    return Array.from(this.#entries, (entry) => entry.batch);
  }

  /** After a promotion: nothing will be applied any more. */
  clear(): void {
    this.#entries.clear();
    this.#bytes = 0;
    this.#marks.clear();
  }

  #advance(epoch: number): void {
    if (epoch < this.#epoch) {
      throw new ProtocolError(`Inbound of epoch ${epoch} follows epoch ${this.#epoch}`);
    }
    this.#epoch = epoch;
  }

  #forget(entry: LoggedBatch): void {
    this.#entries.delete(entry);
    this.#bytes -= entry.batch.length;
  }
}
