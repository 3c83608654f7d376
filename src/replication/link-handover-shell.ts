/**
 * The network, disk and faults links of a session live in threads of their own: the two ends here
 * are the main thread's, which owns the session, and the thread's, which owns the bytes.
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

/** What the session wants of its link, for the thread to do: among the thread's calls. */
export interface LinkCalls {
  closeLink(serial: number): void;
  destroyLink(serial: number): void;
  renewLink(serial: number): void;
  reconnectLink(serial: number, connection: LinkConnection): void;
}

/** What the thread says of its link: among its notices. */
export interface LinkNotices {
  linkReport(serial: number, report: LinkReport): void;
}

/** A `WorkerClient` with these calls. */
export interface LinkThread {
  notify(name: 'closeLink' | 'destroyLink' | 'renewLink', serial: number): void;
  notify(name: 'reconnectLink', serial: number, connection: LinkConnection): void;
}

/** A `MainThread` with these notices. */
export interface LinkOwner {
  readonly log: Logger;
  notify(name: 'linkReport', serial: number, report: LinkReport): void;
}

/** The main thread's end. */
export class LinkHandover {
  readonly #thread: LinkThread;
  readonly #channel: Channel;
  #serial = 0;
  #session: Session | undefined;

  constructor(thread: LinkThread, channel: Channel) {
    this.#thread = thread;
    this.#channel = channel;
  }

  /** Takes the link out of the session. Rejects with LinkError if it is closed. */
  async give(session: Session): Promise<HandedLink> {
    this.#serial += 1;
    const serial = this.#serial;
    this.#session = session;
    const detached = await session.detachLink(this.#channel, {
      close: () => this.#thread.notify('closeLink', serial),
      destroy: () => this.#thread.notify('destroyLink', serial),
      renew: () => this.#thread.notify('renewLink', serial),
      reconnect: (connection) => this.#thread.notify('reconnectLink', serial, connection),
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
  /** Among the handlers that the thread serves. */
  readonly calls: LinkCalls = {
    closeLink: (serial) => this.#living(serial)?.close(),
    destroyLink: (serial) => this.#living(serial)?.destroy(),
    renewLink: (serial) => this.#living(serial)?.renew(),
    reconnectLink: (serial, connection) => {
      const link = this.#living(serial);
      if (link === undefined) closeConnection(connection);
      else link.reconnect(connection);
    },
  };
  readonly #main: LinkOwner;
  #serial = 0;
  #link: Link | undefined;

  constructor(main: LinkOwner) {
    this.#main = main;
  }

  /** The link goes on here; its interruptions and its end are reported. */
  take({ serial, detached }: HandedLink): Link {
    const link = attachLink(detached, { log: this.#main.log });
    this.#serial = serial;
    this.#link = link;
    const report = (): void => this.#main.notify('linkReport', serial, reportLink(link));
    link.onClose(report);
    link.onInterrupted(report);
    link.onResumed(report);
    return link;
  }

  /** Tells the counters of the link that lives. */
  report(): void {
    const link = this.#link;
    if (link !== undefined && link.closeReason === undefined) {
      this.#main.notify('linkReport', this.#serial, reportLink(link));
    }
  }

  /** Undefined of one that another has followed. */
  #living(serial: number): Link | undefined {
    return serial === this.#serial ? this.#link : undefined;
  }
}
