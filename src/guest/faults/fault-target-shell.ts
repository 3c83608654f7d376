/**
 * The fault lane of a guest that comes, as the main thread sees it. It outlives sessions: what is
 * waited for when one is lost is asked for in the next.
 */
import type { FaultBorrower, FaultFigures, MissingPages } from '../../emulator/index.js';
import type { Logger } from '../../lib/index.js';
import { LinkHandover } from '../../replication/index.js';
import { prepareWorker, type Session, WorkerClient } from '../../transport/index.js';
import type {
  FaultReport,
  FaultTargetNotices,
  FaultTargetSettings,
} from './fault-target-lane-shell.js';
import type { FaultTargetCalls } from './fault-target-thread-shell.js';
import { giveFaultsLink } from './give-link-shell.js';

const ENTRY = new URL('./fault-target-thread-shell.js', import.meta.url);
const NAME = 'faults';

const NO_FIGURES: FaultFigures = {
  ...{ faults: 0, p50Us: 0, p99Us: 0, maxUs: 0 },
  ...{ blockedUs: [], blockedElsewhereUs: 0 },
};

export interface FaultTargetOptions extends FaultTargetSettings {
  readonly log: Logger;
  /** The thread is gone: nobody serves the guest's faults. */
  readonly onFailure: (error: Error) => void;
}

/** Of the guest whose faults they are. */
export interface FaultListener {
  readonly onReport: (report: FaultReport) => void;
  /** A page that is to be placed here. */
  readonly onPassedOn: (offset: number, bytes: Buffer) => void;
}

export class FaultTarget implements FaultBorrower {
  readonly #thread: WorkerClient<FaultTargetCalls, FaultTargetNotices>;
  readonly #handover: LinkHandover;
  #listener: FaultListener | undefined;
  #figures: FaultFigures = NO_FIGURES;
  #released: Promise<void> | undefined;

  constructor(options: FaultTargetOptions) {
    const { log, onFailure, ramSizeBytes, near, tellsBytes } = options;
    this.#thread = new WorkerClient(ENTRY, {
      name: NAME,
      log,
      onFailure,
      notices: {
        report: (report) => {
          this.#figures = report.figures ?? this.#figures;
          this.#listener?.onReport(report);
        },
        passOn: (offset, bytes) => this.#listener?.onPassedOn(offset, Buffer.from(bytes.buffer)),
        linkReport: (serial, report) => this.#handover.reported(serial, report),
      },
    });
    this.#handover = new LinkHandover(this.#thread, 'faults');
    this.#thread.notify('start', { ramSizeBytes, near, tellsBytes });
  }

  /** A guest may come to this host: its thread is there by then. */
  static prepare(): void {
    prepareWorker(ENTRY, NAME);
  }

  /** Borrows the faults of a guest that may lack pages. */
  borrow(missing: MissingPages, listener: FaultListener): void {
    this.#listener = listener;
    this.#thread.notify('lend', missing.lend(this));
  }

  /** Takes the session's faults link, unless that is closed by then. */
  attach(session: Session): Promise<void> {
    return giveFaultsLink(this.#thread, this.#handover, session);
  }

  /** Pages are missing. `places`: else those that come are passed on, until `placeThere`. */
  serve(options: { places: boolean }): void {
    this.#thread.notify('serve', options);
  }

  placeThere(): void {
    this.#thread.notify('placeHere');
  }

  release(): Promise<void> {
    // Of a thread that has failed nothing is left to be stopped.
    this.#released ??= this.#thread.call('stop').catch(() => undefined);
    return this.#released;
  }

  figures(): FaultFigures {
    return this.#figures;
  }

  /** Ends the thread, and with it the link of a session that is over. */
  async end(): Promise<void> {
    await this.release();
    await this.#thread.terminate();
  }
}
