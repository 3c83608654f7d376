/**
 * The network and disk links of a session live in threads of their own: the two ends here are the
 * main thread's, which owns the session, and the thread's, which owns the bytes.
 *
 * Links are numbered, since what is said about an old one may arrive after the next has begun.
 */
import type { Logger } from '../lib/index.js';
import {
  attachLink,
  type Channel,
  closeConnection,
  type DetachedLink,
  type Link,
  type LinkConnection,
  type LinkReport,
  reportLink,
  type Session,
} from '../transport/index.js';

/** A link under way to the thread; plain data. */
export interface HandedLink {
  readonly serial: number;
  readonly detached: DetachedLink;
}

/** What the session wants of its link, for the thread to do. */
export interface LinkThread {
  closeLink(serial: number): void;
  destroyLink(serial: number): void;
  reconnectLink(serial: number, connection: LinkConnection): void;
  renewLink(serial: number): void;
}

/** The main thread's end. */
export class LinkHandover {
  readonly #thread: LinkThread;
  readonly #channel: Channel;
  #serial = 0;
  #session: Session | undefined;

  /** `thread` passes on what the session wants of its link. */
  constructor(thread: LinkThread, channel: Channel = 'network') {
    this.#thread = thread;
    this.#channel = channel;
  }

  /** Takes the link out of the session. Rejects with LinkError if it is closed. */
  async give(session: Session): Promise<HandedLink> {
    this.#serial += 1;
    const serial = this.#serial;
    this.#session = session;
    const detached = await session.detachLink(this.#channel, {
      close: () => this.#thread.closeLink(serial),
      destroy: () => this.#thread.destroyLink(serial),
      renew: () => this.#thread.renewLink(serial),
      reconnect: (connection) => this.#thread.reconnectLink(serial, connection),
    });
    return { serial, detached };
  }

  /** What the thread says of a link. */
  reported(serial: number, report: LinkReport): void {
    if (serial === this.#serial) this.#session?.links[this.#channel].reported(report);
  }
}

/** The thread's end. */
export class HandedLinks {
  readonly #log: Logger;
  readonly #report: (serial: number, report: LinkReport) => void;
  #serial = 0;
  #link: Link | undefined;

  constructor(log: Logger, report: (serial: number, report: LinkReport) => void) {
    this.#log = log;
    this.#report = report;
  }

  /** The link goes on here; its interruptions and its end are reported. */
  take({ serial, detached }: HandedLink): Link {
    const link = attachLink(detached, { log: this.#log });
    this.#serial = serial;
    this.#link = link;
    const report = (): void => this.#report(serial, reportLink(link));
    link.onClose(report);
    link.onInterrupted(report);
    link.onResumed(report);
    return link;
  }

  /** Tells the counters of the link that lives. */
  report(): void {
    const link = this.#link;
    if (link !== undefined && link.closeReason === undefined) {
      this.#report(this.#serial, reportLink(link));
    }
  }

  close(serial: number): void {
    if (serial === this.#serial) this.#link?.close();
  }

  destroy(serial: number): void {
    if (serial === this.#serial) this.#link?.destroy();
  }

  renew(serial: number): void {
    if (serial === this.#serial) this.#link?.renew();
  }

  reconnect(serial: number, connection: LinkConnection): void {
    if (serial === this.#serial && this.#link !== undefined) this.#link.reconnect(connection);
    else closeConnection(connection);
  }
}
