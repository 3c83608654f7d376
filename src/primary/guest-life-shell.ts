/** What the guest that serves the clients does by itself, and what becomes of it then. */
import type { GuestPanicAction } from '../config/index.js';
import type { Emulator, GuestEvent } from '../emulator/index.js';
import type { RoleWatch } from '../guest/index.js';
import { describeError, type Logger } from '../lib/index.js';
import type { GoodbyeKind } from '../replication/index.js';

export interface GuestLifeOptions {
  readonly guest: Pick<Emulator, 'reset'>;
  readonly policy: GuestPanicAction;
  readonly watch: RoleWatch;
  readonly log: Logger;
  /** It can't go on here, or is off on purpose. */
  readonly onEnded: (goodbye: GoodbyeKind, reason: string) => void;
  /** Does this work when no checkpoint is being captured: a reset in the middle would tear it. */
  readonly between: (work: () => Promise<void>) => void;
}

/**
 * A reboot needs nothing: the reset is replicated like whatever the guest does. A guest that powers
 * off is off on both hosts, not failed over.
 */
export class GuestLife {
  readonly #options: GuestLifeOptions;

  constructor(options: GuestLifeOptions) {
    this.#options = options;
  }

  on(event: GuestEvent): void {
    const { watch, onEnded } = this.#options;
    switch (event.kind) {
      case 'shutdown': {
        const { byGuest } = event;
        const reason = byGuest ? 'The guest powered off' : `QEMU shut down (${event.reason})`;
        watch.happened({ kind: 'guest', what: 'shutdown', reason });
        onEnded(byGuest ? 'guest-off' : 'handover', reason);
        return;
      }
      case 'reset': {
        const reason = event.byGuest ? 'The guest rebooted' : `It was reset (${event.reason})`;
        watch.happened({ kind: 'guest', what: 'reset', reason });
        return;
      }
      case 'watchdog': {
        const reason = `A watchdog of the guest ran out (${event.action})`;
        watch.happened({ kind: 'guest', what: 'watchdog', reason });
        return;
      }
      case 'panic':
        this.#panicked();
        return;
      default:
        return;
    }
  }

  #panicked(): void {
    const { policy, watch, log, onEnded } = this.#options;
    const reason = `The guest panicked (on-guest-panic = ${policy})`;
    log.error(reason);
    watch.happened({ kind: 'guest', what: 'panic', reason });
    if (policy === 'reset') this.reset();
    if (policy === 'poweroff') onEnded('guest-off', reason);
  }

  reset(): void {
    const { guest, between, log } = this.#options;
    between(async () => {
      try {
        await guest.reset();
      } catch (error) {
        // QEMU's death is told by itself.
        log.error('The guest can not be reset', { reason: describeError(error) });
      }
    });
  }
}
