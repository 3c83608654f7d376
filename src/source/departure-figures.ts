/**
 * A departure in numbers: what its operator is told while the guest moves and once it has.
 */
import {
  formatAddress,
  type MigrateOptions,
  type MigrationFigures,
  type MigrationStatus,
} from '../config/index.js';
import { PAGE_SIZE_BYTES } from '../lib/index.js';
import type { DestinationSection, SourceProgress } from '../migration/index.js';

interface MovedBytes {
  readonly sentBytes: number;
  readonly leftBytes: number;
}

export class DepartureFigures {
  readonly startedAtUs: number;
  #pausedAtUs: number | undefined;
  #runSaidAtUs: number | undefined;
  #downtimeUs: number | undefined;
  #faults: MigrationStatus['faults'] = null;

  constructor(nowUs: number) {
    this.startedAtUs = nowUs;
  }

  /** The guest is about to be paused. */
  pausing(nowUs: number): void {
    this.#pausedAtUs = nowUs;
  }

  /** The destination is told to run the guest. */
  saysRun(nowUs: number): void {
    this.#runSaidAtUs ??= nowUs;
  }

  heard(section: DestinationSection, nowUs: number): void {
    if (section.kind === 'faults') {
      const { faults: count, p50Us, p99Us } = section;
      this.#faults = { count, p50Us, p99Us };
    }
    if (section.kind !== 'running' || this.#pausedAtUs === undefined) return;
    // The word comes once the guest is heard; its vCPUs run before that. Without the way of `run`.
    this.#downtimeUs ??= (this.#runSaidAtUs ?? nowUs) - this.#pausedAtUs + section.startUs;
  }

  /** `codedBytes`: of pages, without those that were demanded. */
  total(nowUs: number, codedBytes: number, demandedPages: number): MigrationFigures {
    return {
      totalMs: (nowUs - this.startedAtUs) / 1000,
      downtimeMs: this.#downtimeUs === undefined ? null : this.#downtimeUs / 1000,
      sentBytes: codedBytes + demandedPages * PAGE_SIZE_BYTES,
      faults: this.#faults,
    };
  }

  status(
    progress: SourceProgress,
    around: {
      readonly address: MigrateOptions['to'];
      readonly method: MigrateOptions['method'];
      /** Of pages, as coded, without those that were demanded. */
      readonly sentBytes: number;
      /** How far each moved disk is; undefined: it is read-only. */
      readonly disks: readonly (MovedBytes | undefined)[];
      readonly problem: string | null;
    },
  ): MigrationStatus {
    const disks = around.disks.filter((disk) => disk !== undefined);
    const disksDone = disks.reduce((sum, { sentBytes }) => sum + sentBytes, 0);
    const disksLeft = disks.reduce((sum, { leftBytes }) => sum + leftBytes, 0);
    const doneBytes = disksDone + progress.pagesSent * PAGE_SIZE_BYTES;
    return {
      direction: 'outgoing',
      peer: formatAddress(around.address),
      method: around.method,
      state: progress.state.kind,
      round: progress.rounds,
      doneBytes,
      totalBytes: doneBytes + disksLeft + progress.pagesLeft * PAGE_SIZE_BYTES,
      sentBytes: disksDone + around.sentBytes + progress.demandedPages * PAGE_SIZE_BYTES,
      bytesPerSecond: progress.rate ?? 0,
      remainingMs: progress.leftUs === undefined ? null : progress.leftUs / 1000,
      throttlePercent: progress.throttle,
      downtimeMs: this.#downtimeUs === undefined ? null : this.#downtimeUs / 1000,
      faults: this.#faults,
      problem: around.problem,
    };
  }
}
