/**
 * What the SVM does by itself while it follows. It is the PVM of the last checkpoint and the same
 * input, so that a reboot, a power-off or a panic of it is the PVM's a moment early, or a difference.
 * Nobody acts on it: the next checkpoint makes it the PVM again. Only if it has to go on in the
 * PVM's place before that, and can't, it is reset.
 */
import type { GuestPanicAction } from '../config/index.js';
import type { Emulator, GuestEvent } from '../emulator/index.js';
import type { RoleWatch } from '../guest/index.js';
import type { Logger } from '../lib/index.js';

export class SvmLife {
  readonly #log: Logger;
  readonly #watch: RoleWatch;
  #halted: 'shutdown' | 'panic' | undefined;

  constructor(log: Logger, watch: RoleWatch) {
    this.#log = log;
    this.#watch = watch;
  }

  on(event: GuestEvent): void {
    if (event.kind === 'shutdown' || event.kind === 'panic') this.#halted = event.kind;
    if (event.kind === 'reset') this.#halted = undefined;
  }

  /** It becomes the PVM again. */
  beginApply(): void {
    this.#halted = undefined;
  }

  /** Before it runs in the PVM's place; paused. */
  async promote(svm: Pick<Emulator, 'reset'>, onPanic: GuestPanicAction): Promise<void> {
    const halted = this.#halted;
    if (halted === undefined || (halted === 'panic' && onPanic === 'none')) return;
    const did = halted === 'shutdown' ? 'powered off' : 'panicked';
    const reason = `It had ${did} since the last checkpoint, and is reset to take over`;
    this.#log.warn('The SVM is reset', { reason });
    await svm.reset();
    this.#watch.happened({ kind: 'guest', what: 'reset', reason });
  }
}
