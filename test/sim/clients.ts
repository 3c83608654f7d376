/**
 * Clients on the LAN: each sends numbered requests one at a time, again while unanswered, and
 * checks what it is told. They see the guest only through frames, as real ones would.
 */
import type { Prng } from '../../src/lib/index.js';
import { Violation } from './checker.js';
import type { Frame, Request } from './guest.js';
import type { World } from './world.js';

export interface ClientHabits {
  readonly count: number;
  readonly thinkUs: number;
  readonly retransmitUs: number;
}

export class Clients {
  /** answers[client][seq - 1] is the event that processed the request. */
  readonly answers: number[][];
  readonly #world: World;
  readonly #rng: Prng;
  readonly #habits: ClientHabits;
  readonly #send: (request: Request) => void;

  constructor(world: World, habits: ClientHabits, send: (request: Request) => void) {
    this.#world = world;
    this.#rng = world.stream();
    this.#habits = habits;
    this.#send = send;
    this.answers = Array.from({ length: habits.count }, () => []);
    for (let client = 0; client < habits.count; client += 1) this.#ask(client, 1);
  }

  get answered(): number {
    return this.answers.reduce((sum, answers) => sum + answers.length, 0);
  }

  /** Carries a guest's frame over the LAN. */
  receive(frame: Frame): void {
    this.#world.schedule(this.#rng.nextInt(20, 400), () => this.#receive(frame));
  }

  #receive(frame: Frame): void {
    if (frame.kind !== 'answer') return;
    const answers = this.answers[frame.client] ?? [];
    const known = answers[frame.seq - 1];
    if (known !== undefined) {
      if (known === frame.event) return;
      throw new Violation(
        'History',
        `Client ${frame.client} got event ${frame.event} for request ${frame.seq}, before ${known}`,
      );
    }
    if (frame.seq !== answers.length + 1) {
      throw new Violation('History', `Client ${frame.client} never sent request ${frame.seq}`);
    }
    if (frame.event < (answers.at(-1) ?? 0)) {
      throw new Violation('History', `Client ${frame.client} was taken back to ${frame.event}`);
    }
    answers.push(frame.event);
    this.#ask(frame.client, frame.seq + 1);
  }

  #ask(client: number, seq: number): void {
    const thinkUs = this.#rng.nextInt(0, 2 * this.#habits.thinkUs);
    this.#world.schedule(thinkUs, () => this.#transmit(client, seq));
  }

  #transmit(client: number, seq: number): void {
    if ((this.answers[client]?.length ?? 0) >= seq) return;
    this.#world.schedule(this.#rng.nextInt(20, 400), () => this.#send({ client, seq }));
    this.#world.schedule(this.#habits.retransmitUs, () => this.#transmit(client, seq));
  }
}
