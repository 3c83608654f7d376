/** When held output may leave, on models, as production has it in primary/held-output-shell.ts. */
import type { Prng } from '../../src/lib/index.js';
import type { Breakage } from './checker.js';
import { DiskSync, type SyncHost } from './disk-sync.js';
import type { PvmNetwork } from './pvm-network.js';
import type { ImageRecords } from './records.js';

export interface HeldOutputParts extends SyncHost {
  readonly lan: PvmNetwork;
  readonly records: ImageRecords;
  readonly rng: Prng;
  readonly breakage: Breakage | undefined;
  /** The guest has been given up, or, for a sabotage, a new session has begun. */
  isOver(): boolean;
}

export class SimHeldOutput {
  readonly #parts: HeldOutputParts;
  readonly #sync: DiskSync;
  #peered = false;
  /** A session with a peer is over, and that is not written down yet. */
  #unparted = false;

  constructor(parts: HeldOutputParts) {
    this.#parts = parts;
    this.#sync = new DiskSync(parts);
  }

  get synced(): boolean {
    return this.#sync.done;
  }

  /** Most syncs are quick, some are not. */
  captured(slowestUs: number): void {
    const { rng } = this.#parts;
    this.#sync.begin(rng.nextInt(0, rng.chance(0.1) ? slowestUs : 500));
  }

  release(epoch: number, done: () => void): void {
    this.#unparted = false;
    this.#sync.whenDone(() => {
      this.#parts.lan.release(epoch);
      done();
    });
  }

  startCompare(epoch: number): void {
    const { lan, breakage } = this.#parts;
    if (breakage === 'compare-unsynced') lan.startCompare(epoch);
    else this.#sync.whenDone(() => lan.startCompare(epoch));
  }

  peering(): void {
    this.#peered = true;
    this.#parts.records.beginPeering();
  }

  sessionOver(): void {
    this.#unparted ||= this.#peered;
    this.#peered = false;
  }

  open(): void {
    if (this.#unparted) this.#parts.records.beginAlone();
    this.#unparted = false;
    this.#sync.whenDone(() => {
      if (!this.#parts.isOver()) this.#parts.lan.open();
    });
  }
}
