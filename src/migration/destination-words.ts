/** What a destination says to an operator who must decide, and to a source that asks at the end. */
import type { DestinationOutcome } from './destination-state.js';
import type { ResumedState } from './messages.js';

export const WAITS =
  'The guest is loaded and the source can not be reached: it may or may not run there. It goes on ' +
  'when the source comes back; otherwise an operator decides who has the guest';
export const LACKS =
  'The guest lacks pages and the source can not be reached: "colo migrate-recover" at the source, ' +
  'or "colo migrate-finish --from FILE" here';

/** What a source is told that asks after the end. */
export function resumedAfter({ kind }: DestinationOutcome): ResumedState {
  return kind === 'completed' || kind === 'poweredOff' ? 'complete' : kind;
}
