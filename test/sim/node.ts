/**
 * What both simulated nodes share: a process that can be stopped, killed and started again, a clock
 * that drifts, a core that is driven as in production, and composite outputs cut into small steps.
 */
import type { ProbeResult } from '../../src/failover/index.js';
import { AssertionFailed, type Core, type Prng } from '../../src/lib/index.js';
import type { Host, Network, Side } from './network.js';
import type { World } from './world.js';

/** How often a step looks whether QEMU answers again. */
const HUNG_POLL_US = 10_000;

/** Of one node; `stepUs` is the mean time of one step of a composite output. */
export interface NodeHabits {
  readonly driftPpm: number;
  readonly stepUs: number;
}

/** What a node tells about itself, for the fault injector, the checkers and the summary. */
export interface Observer {
  /** A step of a composite output was just done, such as `capture.pause`. */
  stepDone(side: Side, step: string): void;
}

export interface NodeParts {
  readonly world: World;
  readonly habits: NodeHabits;
  readonly observer: Observer;
  readonly network: () => Network;
}

/** A step: its name and what it does; `false` ends the composite output there. */
export type Step = readonly [name: string, run: () => unknown];

interface Job {
  readonly name: string;
  readonly steps: readonly Step[];
}

export abstract class SimNode<In extends { kind: string }, Out extends { kind: string }>
  implements Host
{
  readonly side: Side;
  readonly world: World;
  readonly rng: Prng;
  readonly #parts: NodeParts;
  powered = true;
  alive = true;
  stopped = false;
  /** QEMU does not answer: no step is done. */
  hung = false;
  /** The step that will be done next; undefined while no composite output is under way. */
  currentStep: string | undefined;
  #incarnation = 0;
  #inbox: (() => void)[] = [];
  #waiting: (In | { kind: 'tick' })[] = [];
  #busy = false;
  #tickGeneration = 0;
  #jobs: Job[] = [];
  #jobGeneration = 0;
  readonly #clockOffsetUs: number;

  constructor(side: Side, parts: NodeParts) {
    this.side = side;
    this.#parts = parts;
    this.world = parts.world;
    this.rng = parts.world.stream();
    this.#clockOffsetUs = this.rng.nextInt(0, 1_000_000_000);
  }

  protected abstract get core(): Core<In | { kind: 'tick' }, Out>;
  abstract get left(): boolean;
  protected abstract perform(output: Out): void;
  /** The process is gone, one way or the other. */
  protected abstract died(): void;

  protected get network(): Network {
    return this.#parts.network();
  }

  protected get nowLocalUs(): number {
    const { driftPpm } = this.#parts.habits;
    return this.#clockOffsetUs + Math.floor(this.world.nowUs * (1 + driftPpm / 1e6));
  }

  abstract get probeAnswer(): ProbeResult;

  get answers(): boolean {
    return this.alive && !this.stopped;
  }

  deliver(run: () => void): void {
    if (!this.alive) return;
    if (this.stopped) this.#inbox.push(run);
    else run();
  }

  /** Runs in this process after a while, unless it is gone by then. */
  protected later(delayUs: number, run: () => void): void {
    const incarnation = this.#incarnation;
    this.world.schedule(delayUs, () => {
      if (incarnation === this.#incarnation) this.deliver(run);
    });
  }

  trace(text: () => string): void {
    this.world.trace(this.side, text);
  }

  input(input: In | { kind: 'tick' }): void {
    if (!this.alive) return;
    this.#waiting.push(input);
    if (this.#busy) return;
    this.#busy = true;
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      this.#step(next);
    }
    this.#busy = false;
    this.#scheduleTick();
  }

  stop(): void {
    this.trace(() => 'STOPPED');
    this.stopped = true;
  }

  goOn(): void {
    if (!this.stopped) return;
    this.stopped = false;
    if (!this.alive) return;
    this.trace(() => 'CONTINUES');
    const inbox = this.#inbox;
    this.#inbox = [];
    // A late timer may come before or after what waits in the sockets.
    if (this.rng.chance(0.5)) this.input({ kind: 'tick' });
    for (const run of inbox) this.deliver(run);
  }

  /** Ends the process: killed, or of its own will. */
  die(): void {
    if (!this.alive) return;
    this.trace(() => 'DEAD');
    this.alive = false;
    this.stopped = false;
    this.#incarnation += 1;
    this.#inbox = [];
    this.#waiting = [];
    this.abortJobs();
    this.died();
  }

  /** A composite output: its steps are done in order, after those of earlier ones. */
  protected run(name: string, steps: readonly Step[]): void {
    this.#jobs.push({ name, steps });
    if (this.#jobs.length === 1) this.#next(0);
  }

  protected abortJobs(): void {
    this.#jobs = [];
    this.#jobGeneration += 1;
    this.currentStep = undefined;
  }

  /** A new process on this host. */
  protected born(): void {
    this.alive = true;
    this.powered = true;
  }

  #next(index: number): void {
    const job = this.#jobs[0];
    this.currentStep = undefined;
    if (job === undefined) return;
    const step = job.steps[index];
    if (step === undefined) {
      this.#jobs.shift();
      this.#next(0);
      return;
    }
    const [stepName, run] = step;
    const name = `${job.name}.${stepName}`;
    const generation = this.#jobGeneration;
    this.currentStep = name;
    this.later(this.#stepDelayUs(), () => {
      if (generation !== this.#jobGeneration) return;
      if (this.hung) {
        this.later(HUNG_POLL_US, () => {
          if (generation === this.#jobGeneration) this.#next(index);
        });
        return;
      }
      this.trace(() => name);
      const goesOn = run() !== false;
      if (generation !== this.#jobGeneration || !this.alive) return;
      this.#parts.observer.stepDone(this.side, name);
      if (generation === this.#jobGeneration) this.#next(goesOn ? index + 1 : job.steps.length);
    });
  }

  #stepDelayUs(): number {
    const { stepUs } = this.#parts.habits;
    const factor = this.rng.chance(0.02) ? 50 : 2;
    return this.rng.nextInt(1, factor * stepUs);
  }

  #step(input: In | { kind: 'tick' }): void {
    const before = this.nowLocalUs;
    const outputs = this.core.step(input, before);
    const quiet = outputs.length === 0 && (input.kind === 'tick' || input.kind === 'heard');
    if (!quiet) this.trace(() => `<- ${describe(input)}`);
    for (const output of outputs) {
      if (!this.alive) return;
      this.trace(() => `-> ${describe(output)}`);
      this.perform(output);
    }
  }

  #scheduleTick(): void {
    this.#tickGeneration += 1;
    if (!this.alive) return;
    const deadlineUs = this.core.deadlineUs();
    if (deadlineUs === undefined) return;
    if (!Number.isFinite(deadlineUs)) throw new AssertionFailed(`Deadline ${deadlineUs}`);
    const generation = this.#tickGeneration;
    // As a timer of whole milliseconds would.
    const delayUs = Math.ceil(Math.max(0, deadlineUs - this.nowLocalUs) / 1000) * 1000;
    this.later(delayUs, () => {
      if (generation === this.#tickGeneration) this.input({ kind: 'tick' });
    });
  }
}

export function describe(item: { kind: string }): string {
  const { kind, ...rest } = item;
  const text = JSON.stringify(rest);
  return text === '{}' ? kind : `${kind} ${text}`;
}
