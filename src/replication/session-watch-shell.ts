/** What a role's core hears of its session's connections. */
import { describeError, type Logger } from '../lib/index.js';
import { monotonicUs } from '../linux/index.js';
import type { Session, SessionCloseReason } from '../transport/index.js';

/** Inputs of either core. */
export type SessionInput =
  | { readonly kind: 'interrupted' | 'linkLost'; readonly reason: string }
  | { readonly kind: 'resumed' };

/** Tells of interruptions and of the end; from now on, or soon if there is one already. */
export function watchSession(
  session: Session,
  log: Logger,
  tell: (input: SessionInput) => void,
): void {
  let sinceUs = 0;
  session.onInterruption({
    onInterrupted(why) {
      sinceUs = monotonicUs();
      const reason = describeReason(why);
      log.info('Session interrupted', { reason });
      tell({ kind: 'interrupted', reason });
    },
    onResumed() {
      log.info('Session resumed', { afterMs: Math.round((monotonicUs() - sinceUs) / 1000) });
      tell({ kind: 'resumed' });
    },
  });
  session.onClose((reason) => tell({ kind: 'linkLost', reason: describeReason(reason) }));
}

function describeReason({ kind, channel, error }: SessionCloseReason): string {
  const why = error === undefined ? '' : `: ${describeError(error)}`;
  return `Link ${channel ?? ''} ${kind}${why}`;
}
