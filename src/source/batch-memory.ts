/**
 * The memory of batches that are on their way. It is used again for a later one once the
 * destination has confirmed the batch: then the kernel has read it. Half a MiB anew for each would
 * cost more than filling it.
 */
import type { PageBatch, PageStream } from '../migration/index.js';

interface OnItsWay {
  readonly sequence: number;
  readonly batch: PageBatch;
}

export class BatchMemory {
  #streams: Readonly<Record<PageStream, OnItsWay[]>> = { ram: [], demanded: [] };

  /** Another session: of what the one before had under way nothing is confirmed any more. */
  restart(): void {
    this.#streams = { ram: [], demanded: [] };
  }

  sent(stream: PageStream, sequence: number, batch: PageBatch): void {
    this.#streams[stream].push({ sequence, batch });
  }

  /** The batches that are confirmed by this and were not before. */
  received(stream: PageStream, sequence: number): PageBatch[] {
    const line = this.#streams[stream];
    const open = line.findIndex((found) => found.sequence > sequence);
    return line.splice(0, open === -1 ? line.length : open).map(({ batch }) => batch);
  }
}
