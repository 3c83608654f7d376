/** What is asked of a session that is over, or about to be. */
import type { Session } from '../transport/index.js';

/** By all its links. */
export function sentBytes(session: Session | undefined): number {
  if (session === undefined) return 0;
  return Object.values(session.links).reduce((sum, link) => sum + link.counters.bytesSent, 0);
}

/** Waits for the peer to close the session, then makes sure that it is closed. */
export async function closedWithin(session: Session, timeoutMs: number): Promise<void> {
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, timeoutMs);
    session.onClose(() => {
      clearTimeout(timer);
      resolve();
    });
  });
  session.destroy();
}
