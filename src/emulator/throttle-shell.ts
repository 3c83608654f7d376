/**
 * Lets QEMU run for a part of the time: SIGSTOP and SIGCONT in turns. All of QEMU stands then, not
 * the vCPUs alone: stock QEMU throttles those for its own migration only, a CPU controller or a
 * deadline class is not ours to have everywhere, and stopping by QMP would drain the disks and stop
 * the guest's clock each time. If this process dies QEMU is killed, stopped or not.
 */
import { assert } from '../lib/index.js';
import { monotonicUs } from '../linux/index.js';
import { THROTTLE_PERCENT_MAX, THROTTLE_RUN_US, THROTTLE_STOP_US } from './limits.js';

export class Throttle {
  readonly #signal: (name: 'SIGSTOP' | 'SIGCONT') => void;
  #percent = 0;
  #allowed: boolean;
  #timer: NodeJS.Timeout | undefined;
  #isStopped = false;
  #phaseBeganUs = 0;
  /** How much longer than it should the guest has stood so far. */
  #surplusUs = 0;

  /** `allowed`: the guest runs. */
  constructor(signal: (name: 'SIGSTOP' | 'SIGCONT') => void, allowed: boolean) {
    this.#signal = signal;
    this.#allowed = allowed;
  }

  set(percent: number): void {
    assert(percent >= 0 && percent <= THROTTLE_PERCENT_MAX, `A throttle of ${percent} %`);
    this.#percent = percent;
    this.#surplusUs = 0;
    this.#restart();
  }

  /** The guest is paused, or shall be at once: QEMU is not stopped until `allow`. */
  suspend(): void {
    this.#allowed = false;
    this.#restart();
  }

  allow(): void {
    this.#allowed = true;
    this.#restart();
  }

  #restart(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#isStopped) {
      this.#isStopped = false;
      this.#signal('SIGCONT');
    }
    if (this.#allowed && this.#percent > 0) this.#run();
  }

  #run(): void {
    this.#phaseBeganUs = monotonicUs();
    const part = this.#percent / 100;
    const us = Math.max(THROTTLE_RUN_US, (THROTTLE_STOP_US * (1 - part)) / part);
    this.#timer = setTimeout(() => this.#stop(), us / 1000);
  }

  #stop(): void {
    const part = this.#percent / 100;
    // From how long it ran indeed: timers are late, and more so when this host is busy.
    const owedUs = ((monotonicUs() - this.#phaseBeganUs) * part) / (1 - part) - this.#surplusUs;
    if (owedUs < 1000) {
      this.#surplusUs = -owedUs;
      this.#run();
      return;
    }
    this.#signal('SIGSTOP');
    this.#isStopped = true;
    this.#phaseBeganUs = monotonicUs();
    this.#timer = setTimeout(() => {
      this.#surplusUs = monotonicUs() - this.#phaseBeganUs - owedUs;
      this.#isStopped = false;
      this.#signal('SIGCONT');
      this.#run();
    }, owedUs / 1000);
  }
}
