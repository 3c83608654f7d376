/**
 * The secondary's network on models, as production has it in guest/network/target-role-shell.ts: what was
 * mirrored goes to the SVM in the epoch that it belongs to, what the SVM says to the primary; after
 * a promotion everything goes its own way.
 */
import type { Breakage, Checker } from './checker.js';
import type { Frame, ModelGuest, Request } from './guest.js';
import { type Gate, Inbound } from './layers.js';
import type { Message } from './network.js';

export interface SvmNetworkParts {
  readonly checker: Checker;
  readonly gate: Gate;
  readonly breakage: Breakage | undefined;
  nowUs(): number;
  send(message: Message): void;
  leave(frame: Frame): void;
}

export class SvmNetwork {
  readonly #parts: SvmNetworkParts;
  readonly #guest: ModelGuest;
  readonly #inbound = new Inbound();
  /** The epoch that the SVM executes; undefined while it stands still. */
  #running: number | undefined;
  #live = false;
  /** The newest epoch that was marked in the stream of requests, and that has a committed start. */
  #marked = 0;
  #begun = 0;
  /** `arrival` of the newest request that was mirrored. */
  #newest = 0;

  constructor(guest: ModelGuest, parts: SvmNetworkParts) {
    this.#guest = guest;
    this.#parts = parts;
  }

  inbound(epoch: number, request: Request): void {
    this.#inbound.push(epoch, request, this.#parts.nowUs());
    this.#newest = request.arrival ?? 0;
    this.#deliver();
  }

  mark(epoch: number, exact: boolean): void {
    this.#marked = epoch;
    this.#inbound.mark(epoch, this.#parts.nowUs(), exact);
    this.#deliver();
  }

  committed(epoch: number): void {
    this.#begun = epoch + 1;
    this.#inbound.committed(epoch + 1);
  }

  fromGuest(frame: Frame): void {
    if (this.#live) {
      for (const passed of this.#parts.gate.push(frame)) this.#parts.leave(passed);
    } else if (this.#running !== undefined) {
      this.#parts.send({ kind: 'svmOutput', epoch: this.#running, frame });
    }
  }

  quiesce(): void {
    this.#running = undefined;
  }

  rewind(): void {
    this.#inbound.rewind();
  }

  run(epoch: number): void {
    this.#running = epoch;
    this.#deliver();
  }

  promote(): void {
    this.#live = true;
    this.#parts.gate.open();
  }

  /** The promoted guest executes: it gets what it has not had. */
  goLive(): void {
    if (this.#parts.breakage === 'deliver-twice') this.#inbound.rewind();
    if (this.#parts.breakage !== 'forget-inbound') this.#deliver();
    this.#parts.checker.caughtUp(this.#newest, this.#guest.received);
  }

  #deliver(): void {
    const epochMax = this.#live ? Number.POSITIVE_INFINITY : this.#running;
    if (epochMax === undefined) return;
    for (;;) {
      const request = this.#inbound.take(epochMax);
      if (request === undefined) return;
      const unmarked = this.#marked < this.#begun;
      this.#parts.checker.delivered(request.arrival, this.#guest.received, unmarked);
      this.#guest.receive(request);
    }
  }
}
