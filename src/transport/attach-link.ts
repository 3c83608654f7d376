/**
 * The other half of `Link.detach`: a link goes on in the thread that calls this. Between the two
 * the peer's bytes wait in the kernel.
 */
import { closeSync } from 'node:fs';
import type { Logger } from '../lib/index.js';
import { adoptInPlace } from './in-place-stream.js';
import { Link } from './link.js';
import type { DetachedLink, LinkConnection, LinkReport } from './link-types.js';
import { packReason } from './reason-parcel.js';
import { endedStream } from './stream.js';

/**
 * The link again, with the frames that were not delivered yet before those that come. To be
 * reported (`reportLink`) to the thread that detached it at its end, when it is interrupted and when
 * it goes on: `onClose`, `onInterrupted`, `onResumed`.
 */
export function attachLink(detached: DetachedLink, options: { readonly log: Logger }): Link {
  const { fd, limits, remoteAddress } = detached;
  const socket = fd === undefined ? endedStream() : adoptInPlace(fd);
  return new Link(socket, { log: options.log, limits, remoteAddress, continued: detached });
}

/** Ends a detached link that nobody will attach; the peer sees it close. */
export function discardLink(detached: DetachedLink): void {
  if (detached.fd !== undefined) closeSync(detached.fd);
}

/** Ends a connection that no link will take any more. */
export function closeConnection({ fd }: LinkConnection): void {
  closeSync(fd);
}

/** What to post to the thread that detached the link: its counters, and why it is over if it is. */
export function reportLink(link: Link): LinkReport {
  const counters = { ...link.counters };
  const { closeReason, interruption, interruptions } = link;
  if (closeReason !== undefined) return { counters, closed: packReason(closeReason) };
  if (interruption === undefined) return { counters };
  return { counters, interrupted: { count: interruptions, reason: packReason(interruption) } };
}
