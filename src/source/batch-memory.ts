/**
 * The memory of batches that are on their way. It is used again for a later one once the
 * destination has confirmed the batch: then the kernel has read it. Half a MiB anew for each would
 * cost more than filling it.
 */
import type { PageBatch } from '../migration/index.js';

interface OnItsWay {
  readonly sequence: number;
  readonly batch: PageBatch;
}

export class BatchMemory {
  #onTheirWay: OnItsWay[] = [];

  /** Another session: of what the one before had under way nothing is confirmed any more. */
  restart(): void {
    this.#onTheirWay = [];
  }

  sent(sequence: number, batch: PageBatch): void {
    this.#onTheirWay.push({ sequence, batch });
  }

  /** The batches that are confirmed by this and were not before. */
  received(sequence: number): PageBatch[] {
    const line = this.#onTheirWay;
    const open = line.findIndex((found) => found.sequence > sequence);
    return line.splice(0, open === -1 ? line.length : open).map(({ batch }) => batch);
  }
}
