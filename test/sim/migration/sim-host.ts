/** What both simulated shells share: a core, its deadline, and jobs that are done one by one. */
import type { Core, Prng } from '../../../src/lib/index.js';
import type { World } from '../world.js';

export class SimHost<In extends object, Out extends { readonly kind: string }> {
  readonly world: World;
  readonly random: Prng;
  readonly core: Core<In, Out>;
  readonly name: string;
  alive = true;
  /** Stopped in its tracks; what comes waits. */
  #stalledUntilUs = 0;
  #freeAtUs = 0;
  #timerAtUs: number | undefined;
  readonly #carryOut: (output: Out) => void;
  readonly #tick: In;

  constructor(parts: {
    readonly world: World;
    readonly name: string;
    readonly core: Core<In, Out>;
    readonly tick: In;
    readonly carryOut: (output: Out) => void;
  }) {
    this.world = parts.world;
    this.random = parts.world.stream();
    this.core = parts.core;
    this.name = parts.name;
    this.#tick = parts.tick;
    this.#carryOut = parts.carryOut;
  }

  stall(us: number): void {
    this.#stalledUntilUs = this.world.nowUs + us;
  }

  get stalled(): boolean {
    return this.world.nowUs < this.#stalledUntilUs;
  }

  kill(): void {
    this.alive = false;
  }

  step(input: In): void {
    if (!this.alive) return;
    const waitUs = this.#stalledUntilUs - this.world.nowUs;
    if (waitUs > 0) {
      this.world.schedule(waitUs, () => this.step(input));
      return;
    }
    this.world.trace(this.name, () => `<- ${show(input)}`);
    for (const output of this.core.step(input, this.world.nowUs)) {
      this.world.trace(this.name, () => `-> ${show(output)}`);
      this.#carryOut(output);
    }
    this.#arm();
  }

  /** Done after those before it, each of which takes a while. */
  job(mostUs: number, run: () => void): void {
    const startUs = Math.max(this.world.nowUs, this.#freeAtUs);
    this.#freeAtUs = startUs + this.random.nextInt(1, mostUs);
    this.world.schedule(this.#freeAtUs - this.world.nowUs, () => {
      if (this.alive) run();
    });
  }

  #arm(): void {
    const atUs = this.core.deadlineUs();
    if (atUs === undefined || (this.#timerAtUs !== undefined && this.#timerAtUs <= atUs)) return;
    this.#timerAtUs = atUs;
    this.world.schedule(atUs - this.world.nowUs, () => {
      if (this.#timerAtUs !== atUs) return;
      this.#timerAtUs = undefined;
      const dueUs = this.core.deadlineUs();
      if (dueUs !== undefined && dueUs <= this.world.nowUs) this.step(this.#tick);
      else this.#arm();
    });
  }
}

function show(value: object): string {
  return JSON.stringify(value, (_key, field) => {
    if (field?.type === 'Buffer') return `<${field.data.length} bytes>`;
    if (Array.isArray(field) && field.length > 4) return `<${field.length}>`;
    return field;
  });
}
