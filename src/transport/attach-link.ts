/**
 * The other half of `Link.detach`: a link goes on in the thread that calls this. Between the two
 * the peer's bytes wait in the kernel.
 */
import { closeSync } from 'node:fs';
import type { Logger } from '../lib/index.js';
import { packError } from './error-parcel.js';
import { type DetachedLink, Link, type LinkReport } from './link.js';
import { adoptStream, endedStream } from './stream.js';

/**
 * The link again, with the frames that were not delivered yet before those that come. To be
 * reported at its end (`onClose`, `reportLink`) to the thread that detached it.
 */
export function attachLink(detached: DetachedLink, options: { readonly log: Logger }): Link {
  const { fd, limits, remoteAddress } = detached;
  const socket = fd === undefined ? endedStream() : adoptStream(fd);
  return new Link(socket, { log: options.log, limits, remoteAddress, continued: detached });
}

/** Ends a detached link that nobody will attach; the peer sees it close. */
export function discardLink(detached: DetachedLink): void {
  if (detached.fd !== undefined) closeSync(detached.fd);
}

/** What to post to the thread that detached the link: its counters, and why it is over if it is. */
export function reportLink(link: Link): LinkReport {
  const counters = { ...link.counters };
  const reason = link.closeReason;
  if (reason === undefined) return { counters };
  const { kind, error } = reason;
  return { counters, closed: error === undefined ? { kind } : { kind, error: packError(error) } };
}
