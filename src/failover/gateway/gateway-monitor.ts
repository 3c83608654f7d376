/**
 * Whether this host reaches its own LAN: an echo request now and then, and how long ago the last
 * reply came. In doubt, as at the start, it does not. A host that was stopped itself first sends
 * and listens again: silence counts only while it asked.
 */
import { GATEWAY_INTERVAL_US, GATEWAY_SILENCE_US } from '../limits.js';

export type GatewayOutput =
  | { readonly kind: 'send'; readonly sequence: number }
  | { readonly kind: 'changed'; readonly reachable: boolean };

export class GatewayMonitor {
  #reachable = false;
  #sequence = 0;
  /** Requests since the last reply. */
  #unanswered = 0;
  #sendAtUs: number;

  constructor(startUs: number) {
    this.#sendAtUs = startUs;
  }

  get reachable(): boolean {
    return this.#reachable;
  }

  deadlineUs(): number {
    return this.#sendAtUs;
  }

  replied(): GatewayOutput[] {
    this.#unanswered = 0;
    return this.#become(true);
  }

  tick(nowUs: number): GatewayOutput[] {
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
