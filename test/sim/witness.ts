/**
 * The witness and the wires to it: a register with one holder at a time, on a third machine with a
 * clock of its own. A request may be lost, be answered late, or be carried out long after its
 * sender has given it up; each direction of each wire can be cut by itself.
 */
import type { WitnessAnswer, WitnessRequest } from '../../src/failover/index.js';
import type { Prng } from '../../src/lib/index.js';
import { WitnessModel } from '../property/failover/witness-model.js';
import type { Breakage } from './checker.js';
import { SIDES, type Side } from './network.js';
import type { WitnessHabits } from './options.js';
import type { World } from './world.js';

/** How much later than usual a message can come. */
const LATE_US_MAX = 5_000_000;

interface Wire {
  cut: boolean;
  latePart: number;
}

/** One process, as the witness knows it. */
export interface Asker {
  readonly side: Side;
  readonly instance: string;
  readonly nowLocalUs: number;
}

export class SimWitness {
  up = true;
  readonly #world: World;
  readonly #rng: Prng;
  readonly #habits: WitnessHabits;
  readonly #model: WitnessModel;
  readonly #breakage: Breakage | undefined;
  readonly #wires: Readonly<Record<Side, { to: Wire; from: Wire }>>;

  constructor(world: World, habits: WitnessHabits, breakage: Breakage | undefined) {
    this.#world = world;
    this.#rng = world.stream();
    this.#habits = habits;
    this.#breakage = breakage;
    // A sabotage: a grant that is over early for the witness, and not for its holder.
    this.#model = new WitnessModel(breakage === 'short-grant' ? habits.ttlUs / 8 : habits.ttlUs);
    const wire = (): Wire => ({ cut: false, latePart: 0 });
    this.#wires = { a: { to: wire(), from: wire() }, b: { to: wire(), from: wire() } };
  }

  /** The host that went alone last, by what its operator can read there. */
  get aloneHost(): string {
    return this.#model.aloneHost;
  }

  cut(side: Side, ways: 'both' | 'to' | 'from', cut: boolean): void {
    if (ways !== 'from') this.#wires[side].to.cut = cut;
    if (ways !== 'to') this.#wires[side].from.cut = cut;
  }

  late(part: number): void {
    for (const side of SIDES) {
      this.#wires[side].to.latePart = part;
      this.#wires[side].from.latePart = part;
    }
  }

  heal(): void {
    this.up = true;
    this.late(0);
    for (const side of SIDES) this.cut(side, 'both', false);
  }

  /** `answered` once, at the deadline at the latest. */
  ask(asker: Asker, request: WitnessRequest, answered: (answer: WitnessAnswer) => void): void {
    const { side, instance, nowLocalUs: askedAtUs } = asker;
    const { ttlUs } = this.#habits;
    const once = this.#once(answered, { kind: 'unreachable', reason: 'No answer' });
    this.#send(this.#wires[side].to, () => {
      if (!this.up) return;
      const any = this.#breakage === 'grant-stale';
      const knownToken = any ? Number.MAX_SAFE_INTEGER : request.knownToken;
      const found = this.#model.ask(
        { host: side, instance },
        { ...request, knownToken },
        this.#nowUs,
      );
      this.#world.trace('witness', () => `${instance} ${JSON.stringify({ request, found })}`);
      this.#send(this.#wires[side].from, () =>
        once(found.kind === 'granted' ? { ...found, askedAtUs, ttlUs } : found),
      );
    });
  }

  /** Gives the grant with this number back. */
  release({ side }: { side: Side }, token: number, done: () => void): void {
    const once = this.#once(done, undefined);
    this.#send(this.#wires[side].to, () => {
      if (!this.up) return;
      this.#model.release(token);
      this.#send(this.#wires[side].from, () => once(undefined));
    });
  }

  get #nowUs(): number {
    return this.#world.nowUs * (1 + this.#habits.driftPpm / 1e6);
  }

  #once<T>(answered: (value: T) => void, late: T): (value: T) => void {
    let open = true;
    const first = (value: T): void => {
      if (!open) return;
      open = false;
      answered(value);
    };
    this.#world.schedule(this.#habits.timeoutUs, () => first(late));
    return first;
  }

  #send(wire: Wire, run: () => void): void {
    if (wire.cut) return;
    const { delayUs } = this.#habits;
    const lateUs = this.#rng.chance(wire.latePart) ? this.#rng.nextInt(0, LATE_US_MAX) : 0;
    this.#world.schedule(delayUs + this.#rng.nextInt(0, delayUs) + lateUs, () => {
      if (!wire.cut) run();
    });
  }
}
