/**
 * How long clients hear nobody after one fault alone in a healthy pair, and how long they may: the
 * table of the laboratory's matrix, here with every moment that it can strike at.
 */
import { MAIN_SILENCE_US_MAX } from '../../src/failover/index.js';
import { Violation } from './checker.js';
import type { FaultInjector } from './faults.js';
import type { SimHost } from './host.js';
import { SIDES, type Side } from './network.js';
import type { Fault, RunOptions } from './options.js';
import { GUARD_SILENCE_US_MAX } from './speech.js';

/** Of a fault that nobody mends before the end of phase 1. */
const LASTING_US = 20_000_000;
/** For what a failover has to do besides waiting. */
const FAILOVER_US = 500_000;

export class Outage {
  readonly #options: RunOptions;
  readonly #hosts: Readonly<Record<Side, SimHost>>;
  readonly #faults: FaultInjector;
  #silentSinceUs: number | undefined;
  #longestUs = 0;

  constructor(options: RunOptions, hosts: Readonly<Record<Side, SimHost>>, faults: FaultInjector) {
    this.#options = options;
    this.#hosts = hosts;
    this.#faults = faults;
  }

  /** Between any two events. */
  look(nowUs: number): void {
    if (this.#faults.first === undefined) return;
    if (SIDES.some((side) => this.#hosts[side].canSpeak)) {
      this.#count(nowUs);
      this.#silentSinceUs = undefined;
    } else this.#silentSinceUs ??= nowUs;
  }

  /** Before anything is mended. */
  check(nowUs: number): void {
    const { first } = this.#faults;
    if (first === undefined) return;
    this.#count(nowUs);
    const boundUs = allowedUs(first.fault, this.#options);
    if (this.#longestUs <= boundUs) return;
    const text = `Nobody speaks for ${this.#longestUs} us after ${JSON.stringify(first.fault)}`;
    throw new Violation('Outage', `${text}, ${boundUs} are allowed`);
  }

  #count(nowUs: number): void {
    if (this.#silentSinceUs === undefined) return;
    this.#longestUs = Math.max(this.#longestUs, nowUs - this.#silentSinceUs);
  }
}

/** Without an end where the guest, or its network, is what fails, and no other host is to blame. */
function allowedUs(fault: Fault, { hosts, network }: RunOptions): number {
  const { peerTimeoutUs, stepUs } = hosts.b;
  const workUs = FAILOVER_US + 16 * 50 * Math.max(stepUs, hosts.a.stepUs) + 8 * network.jitterUs;
  const failoverUs = 1.6 * peerTimeoutUs + workUs;
  const isSecondary = 'side' in fault && fault.side === 'secondary';
  if (isSecondary && fault.kind !== 'leave') return 0;
  switch (fault.kind) {
    case 'kill':
    case 'power':
    case 'guestDies':
    case 'stop':
    case 'leave':
    case 'failover':
    case 'diskFails':
    case 'diskFull':
      return failoverUs;
    case 'stall':
      return failoverUs + Math.max(MAIN_SILENCE_US_MAX, GUARD_SILENCE_US_MAX);
    case 'guestOff':
    case 'blackout':
    case 'lan':
      return Number.POSITIVE_INFINITY;
    case 'weather':
      return failoverUs;
    case 'partition':
    case 'witnessLate':
      // A link that comes back in the middle of it may decide for either.
      return fault.durationUs > LASTING_US ? 0 : failoverUs;
    default:
      return 0;
  }
}
