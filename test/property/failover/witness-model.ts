/**
 * The register that every witness keeps, on a clock of its own: what src/failover/witness promises,
 * in twenty lines.
 */
import type { WitnessRequest } from '../../../src/failover/index.js';

/** An answer as it goes over the wire: times are for the asking side to know. */
export type ModelAnswer =
  | { readonly kind: 'granted'; readonly token: number }
  | { readonly kind: 'denied'; readonly holder: string; readonly stale: boolean };

/** A process, and the host with the disk. */
export interface Asker {
  readonly host: string;
  readonly instance: string;
}

export class WitnessModel {
  readonly #ttlUs: number;
  #holder: { instance: string; expiresAtUs: number; token: number } | undefined;
  #alone = { token: 0, host: '' };
  #counter = 0;

  constructor(ttlUs: number) {
    this.#ttlUs = ttlUs;
  }

  /** `nowUs` of the witness's own clock. */
  ask({ host, instance }: Asker, request: WitnessRequest, nowUs: number): ModelAnswer {
    if (this.#alone.token > request.knownToken && this.#alone.host !== host) {
      return { kind: 'denied', holder: this.#alone.host, stale: true };
    }
    const holder = this.#holder;
    if (holder !== undefined && holder.instance !== instance && nowUs < holder.expiresAtUs) {
      return { kind: 'denied', holder: holder.instance, stale: false };
    }
    this.#counter += 1;
    this.#holder = { instance, expiresAtUs: nowUs + this.#ttlUs, token: this.#counter };
    if (request.purpose === 'alone') this.#alone = { token: this.#counter, host };
    return { kind: 'granted', token: this.#counter };
  }

  /** Whose disk has the newest state. */
  get aloneHost(): string {
    return this.#alone.host;
  }

  release(token: number): void {
    if (this.#holder?.token === token) this.#holder = undefined;
  }
}
