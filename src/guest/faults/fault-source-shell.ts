/** The fault lane of a guest that leaves, as the main thread sees it. It outlives sessions. */
import type { RamHandle } from '../../emulator/index.js';
import type { Logger } from '../../lib/index.js';
import { LinkHandover, type LinkNotices } from '../../replication/index.js';
import { prepareWorker, type Session, WorkerClient } from '../../transport/index.js';
import type { FaultSourceCalls } from './fault-source-thread-shell.js';
import { giveFaultsLink } from './give-link-shell.js';
import { LEAVE_DELAY_MS } from './limits.js';

const ENTRY = new URL('./fault-source-thread-shell.js', import.meta.url);
const NAME = 'faults';

export interface FaultSourceOptions {
  readonly log: Logger;
  /** Good until `stop` has resolved. */
  readonly ram: RamHandle;
  /** The thread is gone: nobody sends what is demanded. */
  readonly onFailure: (error: Error) => void;
}

export class FaultSource {
  readonly #thread: WorkerClient<FaultSourceCalls, LinkNotices>;
  readonly #handover: LinkHandover;

  constructor({ log, ram, onFailure }: FaultSourceOptions) {
    this.#thread = new WorkerClient(ENTRY, {
      name: NAME,
      log,
      onFailure,
      notices: { linkReport: (serial, report) => this.#handover.reported(serial, report) },
    });
    this.#handover = new LinkHandover(this.#thread, 'faults');
    this.#thread.notify('start', ram);
  }

  /** A guest of this host may leave it: its thread is there soon. */
  static prepare(): void {
    prepareWorker(ENTRY, NAME, LEAVE_DELAY_MS);
  }

  /** Takes the session's faults link, unless that is closed by then. */
  attach(session: Session): Promise<void> {
    return giveFaultsLink(this.#thread, this.#handover, session);
  }

  /** The guest stands still, perhaps for good: what is demanded is sent from now on. */
  begin(): void {
    this.#thread.notify('begin');
  }

  /** The guest may go on, or end, when it resolves: its RAM is not read any more. Idempotent. */
  async stop(): Promise<void> {
    // A thread that has failed reads nothing.
    await this.#thread.call('stop').catch(() => undefined);
  }

  /** Ends the thread, and with it the link of a session that is over. After `stop`. */
  end(): Promise<void> {
    return this.#thread.terminate();
  }
}
