/**
 * A worker thread that drives links: it checks that the frames' numbers follow each other, sends
 * each frame back, and tells the main thread when a link is over.
 */
import {
  attachLink,
  type DetachedLink,
  type Link,
  type LinkConnection,
  type LinkReport,
  reportLink,
  serveWorker,
} from '../../../src/transport/index.js';

export interface LinkCalls {
  /** The next frame's number has to be `next`. */
  attach(detached: DetachedLink, next: number): void;
  send(type: number, payload: Uint8Array): void;
  close(): void;
  destroy(): void;
  reconnect(connection: LinkConnection): void;
  renew(): void;
  report(): LinkReport;
  /** Gives the link back, and the number of the frame that is next. */
  detach(): Promise<{ detached: DetachedLink; next: number }>;
}

export interface LinkNotices {
  /** A frame came whose number is not the next one. */
  disorder(expected: number, found: number): void;
  over(report: LinkReport): void;
  /** The link is interrupted, or goes on. */
  state(report: LinkReport): void;
}

serveWorker<LinkCalls, LinkNotices>((main) => {
  let link: Link | undefined;
  let expected = 0;
  const attached = (): Link => {
    if (link === undefined) throw new Error('No link is attached');
    return link;
  };
  return {
    attach(detached, next) {
      const opened = attachLink(detached, { log: main.log });
      link = opened;
      expected = next;
      opened.onClose(() => main.notify('over', reportLink(opened)));
      opened.onInterrupted(() => main.notify('state', reportLink(opened)));
      opened.onResumed(() => main.notify('state', reportLink(opened)));
      opened.onFrame(({ type, payload }) => {
        const number = payload.readUInt32BE(0);
        if (number !== expected) main.notify('disorder', expected, number);
        expected = number + 1;
        opened.send(type, [payload]);
      });
    },
    send: (type, payload) => attached().send(type, [Buffer.from(payload)]),
    close: () => attached().close(),
    destroy: () => attached().destroy(),
    renew: () => attached().renew(),
    reconnect: (connection) => attached().reconnect(connection),
    report: () => reportLink(attached()),
    async detach() {
      const given = attached();
      while (given.queuedBytes > 0) await given.flushed();
      const detached = given.detach({ close() {}, destroy() {}, reconnect() {}, renew() {} });
      return { detached, next: expected };
    },
  };
});
