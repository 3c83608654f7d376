/**
 * Keeps an event loop from going to sleep right after it had something to do.
 *
 * Waking a sleeping thread costs tens of microseconds, more on a virtual host, and a guest's packet
 * or disk request crosses several threads. Most of them are followed by another one soon: so the
 * loop goes on polling for a moment before it sleeps. An idle guest costs nothing.
 */
import { monotonicUs } from './clock.js';

/** Longer than a guest takes to go on once it has been answered; short against a time slice. */
const AWAKE_US = Number(process.env['COLO_SPIN'] ?? 200);

let untilUs = 0;
let polling = false;

/** Something has happened on this thread: more is likely to follow. */
export function stayAwake(): void {
  untilUs = monotonicUs() + AWAKE_US;
  if (polling || AWAKE_US === 0) return;
  polling = true;
  setImmediate(poll);
}

/** With an immediate pending the event loop looks for events without waiting for them. */
function poll(): void {
  polling = monotonicUs() < untilUs;
  if (polling) setImmediate(poll);
}
