/** What has to be written down before a guest that lost its secondary is heard again. */
import { setTimeout as delay } from 'node:timers/promises';
import type { GuestDisks } from '../guest/index.js';
import { describeError } from '../lib/index.js';
import { ALONE_RETRY_MS } from './limits.js';

/**
 * Writes down that the guest goes on without the secondary that it had: else that one's images
 * could later be taken for newer ones. Tried until it is durable, or `isOver`; nothing that is held
 * may leave before, and no new session may begin.
 */
export async function part(
  disks: Pick<GuestDisks, 'beginAlone'>,
  watch: { readonly isOver: () => boolean; readonly onFailure: (reason: string) => void },
): Promise<void> {
  while (!watch.isOver()) {
    try {
      await disks.beginAlone();
      return;
    } catch (error) {
      watch.onFailure(`The records of the disks: ${describeError(error)}`);
      await delay(ALONE_RETRY_MS);
    }
  }
}
