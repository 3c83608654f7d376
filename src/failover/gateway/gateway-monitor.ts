/**
 * Whether this host reaches its own LAN: an echo request now and then, and how long ago the last
 * reply came. In doubt, as at the start, it does not. A host that was stopped itself first sends
 * and listens again: silence counts only while it asked. Where no cable is plugged in nobody is
 * waited for.
 */
import {
  CARRIER_INTERVAL_US,
  CARRIER_LOOKS,
  GATEWAY_INTERVAL_US,
  GATEWAY_SILENCE_US,
} from '../limits.js';

export type GatewayOutput =
  | { readonly kind: 'send'; readonly sequence: number }
  | { readonly kind: 'changed'; readonly reachable: boolean };

export class GatewayMonitor {
  #reachable = false;
  #sequence = 0;
  /** Requests since the last reply. */
  #unanswered = 0;
  #sendAtUs: number;
  #lookAtUs: number;
  /** Looks in a row that found no carrier. */
  #unplugged = 0;

  constructor(startUs: number) {
    this.#sendAtUs = startUs;
    this.#lookAtUs = startUs;
  }

  get reachable(): boolean {
    return this.#reachable;
  }

  deadlineUs(): number {
    return Math.min(this.#sendAtUs, this.#lookAtUs);
  }

  replied(): GatewayOutput[] {
    this.#unanswered = 0;
    // Of before the cable was pulled.
    if (this.#unplugged >= CARRIER_LOOKS) return [];
    return this.#become(true);
  }

  /** `hasCarrier` as `Uplink` tells it, looked at now. */
  tick(nowUs: number, hasCarrier?: boolean): GatewayOutput[] {
    if (nowUs < this.deadlineUs()) return [];
    return [...this.#looked(nowUs, hasCarrier), ...this.#ask(nowUs)];
  }

  #looked(nowUs: number, hasCarrier: boolean | undefined): GatewayOutput[] {
    if (nowUs < this.#lookAtUs) return [];
    this.#lookAtUs = nowUs + CARRIER_INTERVAL_US;
    this.#unplugged = hasCarrier === false ? this.#unplugged + 1 : 0;
    return this.#unplugged >= CARRIER_LOOKS ? this.#become(false) : [];
  }

  #ask(nowUs: number): GatewayOutput[] {
    if (nowUs < this.#sendAtUs) return [];
    this.#sendAtUs = nowUs + GATEWAY_INTERVAL_US;
    const silent = this.#unanswered * GATEWAY_INTERVAL_US >= GATEWAY_SILENCE_US;
    this.#unanswered += 1;
    this.#sequence += 1;
    return [...(silent ? this.#become(false) : []), { kind: 'send', sequence: this.#sequence }];
  }

  #become(reachable: boolean): GatewayOutput[] {
    if (reachable === this.#reachable) return [];
    this.#reachable = reachable;
    return [{ kind: 'changed', reachable }];
  }
}
