/**
 * What the records of a guest's images say about who had the guest last: by it a host that starts
 * knows whether it may boot the guest, or the peer has newer data.
 *
 *   leading     a guest wrote here without a peer: nobody else has that
 *   shared      a guest wrote here while the peer followed: the peer may have gone on with it
 *   following   the peer's guest was followed: the peer has as much, or more
 *   none        there is nothing to go by
 */
import type { GenerationRecord } from './record.js';

export type Standing = 'none' | 'leading' | 'shared' | 'following';

/** Of all disks of a guest together. */
export function standingOf(
  records: readonly Pick<GenerationRecord, 'state' | 'epoch'>[],
): Standing {
  const active = records.filter(({ state }) => state === 'active');
  if (active.length > 0) return active.some(({ epoch }) => epoch === 0) ? 'leading' : 'shared';
  return records.some(({ state }) => state === 'standby') ? 'following' : 'none';
}
