/**
 * When the last checkpoint before a fault was committed, as far as it can be seen from outside:
 * hosta's status is read again and again, and each reading takes some time, so what it tells is a
 * little late and never early.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { nowUs } from '../clients/clock.js';
import type { PairLab } from '../harness/pair-lab.js';

const POLL_MS = 20;

/** The newest commit seen; if none was, the time since which none came. */
export interface LastCheckpoint {
  readonly committedEpoch: number | null;
  readonly atUs: number;
}

export class CheckpointWatch {
  readonly #pair: PairLab;
  #last: LastCheckpoint = { committedEpoch: null, atUs: nowUs() };
  #stopping = false;
  #polling: Promise<void>;

  /** Watches from now on; `stop` must follow. */
  constructor(pair: PairLab) {
    this.#pair = pair;
    this.#polling = this.#poll();
  }

  async stop(): Promise<LastCheckpoint> {
    this.#stopping = true;
    await this.#polling;
    return this.#last;
  }

  async #poll(): Promise<void> {
    while (!this.#stopping) {
      // A host that has just been killed answers no more: then there is nothing newer to see.
      const status = await this.#pair.status('hosta').catch(() => undefined);
      if (status === undefined) return;
      const { committedEpoch } = status;
      if (committedEpoch !== this.#last.committedEpoch) {
        this.#last = { committedEpoch, atUs: nowUs() };
      }
      await delay(POLL_MS);
    }
  }
}
