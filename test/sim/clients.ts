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
  /** Guests that they have known; nothing of an older one counts. */
  #lives = 0;
  /** Answers to each, of all lives. */
  readonly totals: number[];

  constructor(world: World, habits: ClientHabits, send: (request: Request) => void) {
    this.#world = world;
    this.#rng = world.stream();
    this.#habits = habits;
    this.#send = send;
    this.answers = habits.services.map(() => []);
    this.#acked = habits.services.map(() => 0);
    this.totals = habits.services.map(() => 0);
  }

  get answered(): number {
    return this.totals.reduce((sum, count) => sum + count, 0);
  }

  /** The guest boots: all that was between it and them is over, and they begin again. */
  begin(): void {
    this.#lives += 1;
    this.#acked.fill(0);
    for (const [client, answers] of this.answers.entries()) {
      answers.length = 0;
      this.#ask(client, 1);
    }
  }

  /** Carries a guest's frame over the LAN. */
  receive(frame: Frame): void {
    this.#later(this.#rng.nextInt(20, 400), () => this.#receive(frame));
  }

  #later(delayUs: number, run: () => void): void {
    const life = this.#lives;
    this.#world.schedule(delayUs, () => {
      if (life === this.#lives) run();
    });
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
    this.totals[client] = (this.totals[client] ?? 0) + 1;
    this.#ask(client, seq + 1);
  }

  #ask(client: number, seq: number): void {
    const thinkUs = this.#rng.nextInt(0, 2 * this.#habits.thinkUs);
    this.#later(thinkUs, () => this.#transmit(client, seq));
  }

  /** Again and again until it is answered; what is acknowledged is never sent again. */
  #transmit(client: number, seq: number): void {
    if ((this.answers[client]?.length ?? 0) >= seq) return;
    const service = this.#habits.services[client] ?? 'stream';
    const data = (this.#acked[client] ?? 0) < seq;
    const request: Request = { client, seq, service, data };
    this.#later(this.#rng.nextInt(20, 400), () => this.#send(request));
    this.#later(this.#habits.retransmitUs, () => this.#transmit(client, seq));
  }
}
