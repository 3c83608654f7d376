/**
 * Keeps a thread's event loop turning for a moment. To fall asleep and be woken up takes longer
 * than all that the thread does for a page, above all in a virtual machine, which gives an idle
 * processor back to its host.
 */
import { availableParallelism } from 'node:os';
import { monotonicUs } from '../../linux/index.js';
import { AWAKE_PROCESSORS, AWAKE_US } from './limits.js';

/** Else the guest and the background need them. */
const hasSpare = availableParallelism() >= AWAKE_PROCESSORS;

export class Awake {
  #untilUs = 0;
  #turns = false;

  /** Something is expected soon. */
  stay(): void {
    if (!hasSpare) return;
    this.#untilUs = monotonicUs() + AWAKE_US;
    if (this.#turns) return;
    this.#turns = true;
    setImmediate(this.#turn);
  }

  readonly #turn = (): void => {
    this.#turns = monotonicUs() < this.#untilUs;
    if (this.#turns) setImmediate(this.#turn);
  };
}
