/**
 * The primary's side of one disk's epochs: turns the guest's operations into messages and counts
 * them, so that `epochEnd` tells the secondary what it must have received.
 */
import type { DiskOperation, EpochTotals } from './disk-operation.js';
import { operationLength } from './disk-operation.js';
import { type DiskMessage, splitOperation } from './disk-wire.js';

export class EpochSender {
  readonly #disk: number;
  #operations = 0;
  #bytes = 0;

  /** `disk` is the index of the disk in the machine definition. */
  constructor(disk: number) {
    this.#disk = disk;
  }

  /** What the running epoch has so far. */
  get totals(): EpochTotals {
    return { operations: this.#operations, bytes: this.#bytes };
  }

  /** The messages for one operation of the running epoch, in order. */
  messages(epoch: number, operation: DiskOperation): DiskMessage[] {
    const disk = this.#disk;
    return splitOperation(operation).map((piece) => {
      this.#operations += 1;
      this.#bytes += operationLength(piece);
      return { ...piece, epoch, disk };
    });
  }

  /** Ends the running epoch; the next operation belongs to the next one. */
  end(epoch: number): DiskMessage {
    const message: DiskMessage = { kind: 'epochEnd', epoch, disk: this.#disk, ...this.totals };
    this.#operations = 0;
    this.#bytes = 0;
    return message;
  }
}
