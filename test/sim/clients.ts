/**
 * Clients on the LAN: each sends numbered requests one at a time, again while unanswered, and
 * checks what it is told. They see the guest only through frames, as real ones would.
 */
import type { Prng } from '../../src/lib/index.js';
import { Violation } from './checker.js';
import type { Frame, Request } from './guest.js';
import type { World } from './world.js';

export interface ClientHabits {
  /** What each of them uses. */
  readonly services: readonly Request['service'][];
  readonly thinkUs: number;
  readonly retransmitUs: number;
}

export class Clients {
  /** answers[client][seq - 1] is the event that processed the request. */
  readonly answers: number[][];
  /** The newest request of each that it knows to have arrived. */
  readonly #acked: number[];
  readonly #world: World;
  readonly #rng: Prng;
  readonly #habits: ClientHabits;
  readonly #send: (request: Request) => void;

  constructor(world: World, habits: ClientHabits, send: (request: Request) => void) {
    this.#world = world;
    this.#rng = world.stream();
    this.#habits = habits;
    this.#send = send;
    this.answers = habits.services.map(() => []);
    this.#acked = habits.services.map(() => 0);
    for (const client of habits.services.keys()) this.#ask(client, 1);
  }

  get answered(): number {
    return this.answers.reduce((sum, answers) => sum + answers.length, 0);
  }

  /** Carries a guest's frame over the LAN. */
  receive(frame: Frame): void {
    this.#world.schedule(this.#rng.nextInt(20, 400), () => this.#receive(frame));
  }

  #receive({ kind, flow: client, seq, event }: Frame): void {
    if (kind === 'unasked') return;
    const answers = this.answers[client] ?? [];
    if (seq > answers.length + 1) {
      throw new Violation('History', `Client ${client} never sent request ${seq}`);
    }
    if (kind === 'ack') {
      this.#acked[client] = Math.max(seq, this.#acked[client] ?? 0);
      return;
    }
    const known = answers[seq - 1];
    if (known !== undefined) {
      // A datagram that was sent twice is answered twice, and the first answer counts.
      if (known === event || this.#habits.services[client] === 'datagram') return;
      const text = `Client ${client} got event ${event} for request ${seq}, before ${known}`;
      throw new Violation('History', text);
    }
    if (event < (answers.at(-1) ?? 0)) {
      throw new Violation('History', `Client ${client} was taken back to ${event}`);
    }
    answers.push(event);
    this.#ask(client, seq + 1);
  }

  #ask(client: number, seq: number): void {
    const thinkUs = this.#rng.nextInt(0, 2 * this.#habits.thinkUs);
    this.#world.schedule(thinkUs, () => this.#transmit(client, seq));
  }

  /** Again and again until it is answered; what is acknowledged is never sent again. */
  #transmit(client: number, seq: number): void {
    if ((this.answers[client]?.length ?? 0) >= seq) return;
    const service = this.#habits.services[client] ?? 'stream';
    const data = (this.#acked[client] ?? 0) < seq;
    const request: Request = { client, seq, service, data };
    this.#world.schedule(this.#rng.nextInt(20, 400), () => this.#send(request));
    this.#world.schedule(this.#habits.retransmitUs, () => this.#transmit(client, seq));
  }
}
