/**
 * What both simulated roles share: a core that is driven as in production, and composite outputs
 * cut into small steps. A role lives in the process of its host and ends with it, or before.
 */
import { AssertionFailed, type Core, type Prng } from '../../src/lib/index.js';
import type { EpochBlocks } from '../../src/replication/index.js';
import type { Breakage, Checker } from './checker.js';
import type { Frame, ModelGuest, Request } from './guest.js';
import type { Image } from './layers.js';
import type { Network, Side, SimPolicy, SimSession } from './network.js';
import type { HostOptions, RunOptions } from './options.js';
import type { OutputTotals } from './pvm-network.js';
import type { ImageRecords } from './records.js';
import type { SimSpeech } from './speech.js';
import type { World } from './world.js';

/** How often a step looks whether QEMU answers again. */
const HUNG_POLL_US = 10_000;

/** A step: its name and what it does; `false` ends the composite output there. */
export type Step = readonly [name: string, run: () => unknown];

interface Job {
  readonly name: string;
  readonly steps: readonly Step[];
}

export type RoleEnd =
  | { readonly kind: 'left'; readonly code: number }
  | { readonly kind: 'demoted' }
  | {
      readonly kind: 'promoted';
      readonly guest: ModelGuest;
      readonly epoch: number;
      readonly policy: SimPolicy;
    };

/** What a primary goes on from. */
export interface PrimaryStart {
  /** It runs already if it was promoted. */
  readonly guest: ModelGuest;
  readonly promoted: boolean;
  readonly firstEpoch: number;
  readonly policy: SimPolicy;
}

/** Of the run; the same for both hosts but the random numbers. */
export interface RoleParts {
  readonly options: RunOptions;
  readonly checker: Checker;
  readonly breakage: Breakage | undefined;
  /** For the guests that are here, one after the other. */
  readonly guestRng: Prng;
  /** A secondary says that its images must not be overwritten with its primary's. */
  readonly rejoinRefused: (side: Side, reason: string) => void;
  /** A frame reaches the LAN. */
  readonly toLan: (frame: Frame) => void;
}

/** The host as its roles see it. */
export interface RoleHost {
  readonly side: Side;
  readonly parts: RoleParts;
  readonly world: World;
  readonly rng: Prng;
  readonly habits: HostOptions;
  readonly network: Network;
  readonly images: readonly Image[];
  readonly epochs: EpochBlocks;
  readonly instance: number;
  readonly powered: boolean;
  readonly hung: boolean;
  readonly diskFull: boolean;
  readonly nowLocalUs: number;
  readonly outputTotals: OutputTotals;
  checkpointsDone: number;
  /** What this process has of the guest's RAM: of the role before, or of a session that ended. */
  leftRam: number[] | undefined;
  readonly records: ImageRecords;
  /** Undefined without a witness. */
  readonly speech: SimSpeech | undefined;
  takeLeftRam(): number[] | undefined;
  /** Another guest has this host's TAP. */
  newTap(): void;
  /** A frame may leave, now. */
  mayLeave(): boolean;
  deliver(run: () => void): void;
  deliverNet(run: () => void): void;
  trace(text: () => string): void;
  stepDone(step: string): void;
  noteEpoch(epoch: number): void;
  roleEnded(end: RoleEnd): void;
}

export abstract class SimRole<In extends { kind: string }, Out extends { kind: string }> {
  readonly host: RoleHost;
  readonly world: World;
  readonly rng: Prng;
  /** The step that will be done next; undefined while no composite output is under way. */
  currentStep: string | undefined;
  /** It has ended, and nothing of it happens any more. */
  over = false;
  #waiting: (In | { kind: 'tick' })[] = [];
  #busy = false;
  #tickGeneration = 0;
  #jobs: Job[] = [];
  #jobGeneration = 0;

  constructor(host: RoleHost) {
    this.host = host;
    this.world = host.world;
    this.rng = host.rng;
  }

  abstract get core(): Core<In | { kind: 'tick' }, Out>;
  /** What a host that asks is told. */
  abstract get probeAnswer(): 'idle' | 'holding' | 'serving';
  /** Why another host may not have a session, if it may not. */
  abstract accept(): string | undefined;
  abstract onSession(session: SimSession): void;
  /** A client's frame at this host's TAP. */
  abstract receive(request: Request): void;
  /** The guest that is here, in whatever state. */
  abstract get guest(): ModelGuest | undefined;
  /** The operator stops the node. */
  abstract leave(reason: string): void;
  protected abstract perform(output: Out): void;
  /** The process is gone, one way or the other; `over` is set. */
  protected abstract died(): void;

  protected get network(): Network {
    return this.host.network;
  }

  protected get nowLocalUs(): number {
    return this.host.nowLocalUs;
  }

  deliver(run: () => void): void {
    if (!this.over) this.host.deliver(() => this.over || run());
  }

  /** Runs in this role after a while, unless it is over by then. */
  protected later(delayUs: number, run: () => void): void {
    this.world.schedule(delayUs, () => this.deliver(run));
  }

  /** In the thread that has the packets; the main thread may stand still meanwhile. */
  deliverNet(run: () => void): void {
    if (!this.over) this.host.deliverNet(() => this.over || run());
  }

  protected laterNet(delayUs: number, run: () => void): void {
    this.world.schedule(delayUs, () => this.deliverNet(run));
  }

  trace(text: () => string): void {
    this.host.trace(text);
  }

  input(input: In | { kind: 'tick' }): void {
    if (this.over) return;
    this.#waiting.push(input);
    if (this.#busy) return;
    this.#busy = true;
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      this.#step(next);
    }
    this.#busy = false;
    this.#scheduleTick();
  }

  /** The process has died. */
  die(): void {
    if (this.over) return;
    this.#close();
    this.died();
  }

  /** The role ends by itself. */
  protected end(end: RoleEnd): void {
    if (this.over) return;
    this.#close();
    this.host.roleEnded(end);
  }

  #close(): void {
    this.over = true;
    this.#waiting = [];
    this.abortJobs();
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
      if (this.host.hung) {
        this.later(HUNG_POLL_US, () => {
          if (generation === this.#jobGeneration) this.#next(index);
        });
        return;
      }
      this.trace(() => name);
      const goesOn = run() !== false;
      if (generation !== this.#jobGeneration) return;
      this.host.stepDone(name);
      if (generation === this.#jobGeneration) this.#next(goesOn ? index + 1 : job.steps.length);
    });
  }

  #stepDelayUs(): number {
    const { stepUs } = this.host.habits;
    const factor = this.rng.chance(0.02) ? 50 : 2;
    return this.rng.nextInt(1, factor * stepUs);
  }

  #step(input: In | { kind: 'tick' }): void {
    const before = this.nowLocalUs;
    const outputs = this.core.step(input, before);
    const quiet = outputs.length === 0 && (input.kind === 'tick' || input.kind === 'heard');
    if (!quiet) this.trace(() => `<- ${describe(input)}`);
    for (const output of outputs) {
      if (this.over) return;
      this.trace(() => `-> ${describe(output)}`);
      this.perform(output);
    }
  }

  #scheduleTick(): void {
    this.#tickGeneration += 1;
    if (this.over) return;
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
