/**
 * One simulated host: its disk images and its file of epochs, which outlive everything; its agent's
 * process, which can be stopped, killed and started again; a clock that drifts; and in the process
 * one role after the other, as the production `RoleMachine` decides.
 */

import type { Standing } from '../../src/blockrep/index.js';
import type { ProbeResult } from '../../src/failover/index.js';
import { AssertionFailed, type Prng } from '../../src/lib/index.js';
import { type NodeInput, type NodeOutput, RoleMachine } from '../../src/node/index.js';
import { EpochBlocks } from '../../src/replication/index.js';
import { BLOCKS, ModelGuest, PAGES } from './guest.js';
import { ForwardedDisk, type Image, TrackedRam } from './layers.js';
import type { Host, Network, Side, SimSession } from './network.js';
import type { HostOptions } from './options.js';
import { noOutput, type OutputTotals } from './pvm-network.js';
import type { RoleEnd, RoleHost, RoleParts } from './role.js';
import { SimPrimary } from './sim-primary.js';
import { SimSecondary } from './sim-secondary.js';
import type { World } from './world.js';

/** As in src/node/limits.ts. */
const JOIN_PAUSE_US = 100_000;

/** To a node that asks what to become; `blind`: what kept it from the truth. */
export interface Answer {
  readonly result: ProbeResult;
  readonly blind: 'partition' | 'stop' | undefined;
}

export interface HostParts extends RoleParts {
  readonly side: Side;
  readonly world: World;
  readonly network: () => Network;
  /** A step of a composite output was just done, such as `capture.pause`. */
  readonly stepDone: (step: string) => void;
  /** A guest starts here from nothing but its disks. */
  readonly booting: (host: SimHost, answer: Answer) => void;
  /** The process has ended. */
  readonly ended: (host: SimHost) => void;
}

export class SimHost implements Host, RoleHost {
  readonly side: Side;
  readonly parts: HostParts;
  readonly world: World;
  readonly rng: Prng;
  readonly habits: HostOptions;
  readonly images: Image[];
  powered = true;
  alive = false;
  stopped = false;
  /** QEMU does not answer: no step is done. */
  hung = false;
  role: SimPrimary | SimSecondary | undefined;
  /** Something ran in this process since the checkers last looked. */
  touched = false;
  /** Committed checkpoints of all its time as the primary, for the summary. */
  checkpointsDone = 0;
  /** In files, durable: what the records of its images say. */
  standing: Standing = 'none';
  /** As at the start of the process, until a peer has come. */
  #told: Standing = 'none';
  /** By its configuration. */
  configured: 'primary' | 'secondary';
  readonly outputTotals: OutputTotals = noOutput();
  #machine = new RoleMachine({ hasWitness: false });
  #instance = 0;
  #incarnation = 0;
  #inbox: (() => void)[] = [];
  /** In a file. */
  readonly epochs: EpochBlocks;
  #end: RoleEnd | undefined;
  /** What the other host has said last, and what kept it from an answer. */
  #answer: Answer = { result: 'silent', blind: undefined };
  /** It has said once that it holds a state. */
  #held = false;
  readonly #clockOffsetUs: number;

  constructor(parts: HostParts) {
    this.parts = parts;
    this.side = parts.side;
    this.configured = parts.side === 'a' ? 'primary' : 'secondary';
    this.world = parts.world;
    this.rng = parts.world.stream();
    this.habits = parts.options.hosts[parts.side];
    this.images = Array.from({ length: parts.options.disks }, () => new Array(BLOCKS).fill(0));
    this.epochs = new EpochBlocks(this.habits.firstEpoch);
    this.#clockOffsetUs = this.rng.nextInt(0, 1_000_000_000);
  }

  get network(): Network {
    return this.parts.network();
  }

  get nowLocalUs(): number {
    const { driftPpm } = this.habits;
    return this.#clockOffsetUs + Math.floor(this.world.nowUs * (1 + driftPpm / 1e6));
  }

  get answers(): boolean {
    return this.alive && !this.stopped;
  }

  get instance(): number {
    return this.#instance;
  }

  get primary(): SimPrimary | undefined {
    return this.role instanceof SimPrimary ? this.role : undefined;
  }

  get secondary(): SimSecondary | undefined {
    return this.role instanceof SimSecondary ? this.role : undefined;
  }

  get currentStep(): string | undefined {
    return this.role?.currentStep;
  }

  /** It asks the other host what to become. */
  get joins(): boolean {
    return this.alive && this.#machine.state === 'joining';
  }

  /** The guest is here, and it is this host that clients should hear. */
  get serves(): boolean {
    const { role } = this;
    if (role instanceof SimPrimary) return !role.left;
    return role?.serving === true;
  }

  /** A guest here says what clients hear, or will. */
  get speaks(): boolean {
    return this.alive && this.role?.speaks === true;
  }

  probed(instance: number | undefined): ProbeResult {
    const has = this.role?.probeAnswer ?? 'idle';
    if (has === 'serving') this.parts.checker.toldAlive();
    if (has !== 'idle') return has;
    if (instance !== undefined && instance !== this.#instance) return 'replaced';
    return this.#told === 'none' ? 'alive' : this.#told;
  }

  onSession(session: SimSession): void {
    this.#told = 'none';
    const refusal = this.role === undefined ? 'This node is starting' : this.role.accept();
    if (refusal === undefined) this.role?.onSession(session);
    else session.refuse(this.side, refusal);
  }

  deliver(run: () => void): void {
    this.touched = true;
    if (!this.alive) return;
    if (this.stopped) this.#inbox.push(run);
    else run();
  }

  trace(text: () => string): void {
    this.world.trace(this.side, text);
  }

  stepDone(step: string): void {
    this.parts.stepDone(step);
  }

  /** By systemd or its operator: a new process, with what is on the disks. */
  start(): void {
    if (this.alive) return;
    this.trace(() => 'STARTED');
    this.alive = true;
    this.powered = true;
    this.#machine = new RoleMachine({ hasWitness: false });
    this.#held = false;
    this.#newInstance();
    this.#told = this.standing;
    this.#step({
      ...{ kind: 'started', role: this.configured, standing: this.standing },
      departed: false,
    });
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
    if (this.rng.chance(0.5)) this.role?.input({ kind: 'tick' });
    for (const run of inbox) this.deliver(run);
  }

  freezeGuest(frozen: boolean): void {
    const guest = this.role?.guest;
    if (guest !== undefined) guest.frozen = frozen;
  }

  /** Ends the process: killed, or of its own will. */
  die(code = -1): void {
    if (!this.alive) return;
    this.trace(() => `DEAD (${code})`);
    this.alive = false;
    this.stopped = false;
    this.#incarnation += 1;
    this.#inbox = [];
    const { role } = this;
    this.role = undefined;
    role?.die();
    this.parts.ended(this);
  }

  /** The operator takes it on himself. */
  force(): void {
    this.deliver(() => {
      if (this.joins) this.#step({ kind: 'forced' });
    });
  }

  /** The operator stops the node. */
  leave(): void {
    this.deliver(() => this.#step({ kind: 'stopRequested' }));
  }

  roleEnded(end: RoleEnd): void {
    this.#end = end;
    this.role = undefined;
    this.#newInstance();
    this.#step({ kind: 'ended', end: end.kind });
  }

  /** A primary that this host is the secondary of uses it. */
  noteEpoch(epoch: number): void {
    if (this.parts.breakage !== 'forget-epochs') this.epochs.used(epoch);
  }

  #newInstance(): void {
    this.#instance = this.rng.nextInt(1, 2 ** 30);
  }

  #step(input: NodeInput): void {
    if (!this.alive) return;
    for (const output of this.#machine.step(input)) this.#perform(output);
  }

  #perform(output: NodeOutput): void {
    this.trace(() => `-> ${output.kind}`);
    switch (output.kind) {
      case 'ask':
        this.#later(output.waitsFor === undefined ? 0 : JOIN_PAUSE_US, () => this.#ask());
        return;
      case 'boot':
        this.#boot();
        return;
      case 'goOn':
        this.#goOn();
        return;
      case 'beSecondary':
        this.role = new SimSecondary(this);
        return;
      case 'stopRole':
        this.role?.leave('The operator stops it');
        return;
      case 'leave':
        this.die(this.#end?.kind === 'left' ? this.#end.code : 0);
        return;
      case 'refused':
        throw new AssertionFailed(`Refused: ${output.reason}`);
    }
  }

  #later(delayUs: number, run: () => void): void {
    const incarnation = this.#incarnation;
    this.world.schedule(delayUs, () => {
      if (incarnation === this.#incarnation) this.deliver(run);
    });
  }

  #ask(): void {
    if (!this.joins) return;
    const incarnation = this.#incarnation;
    const { network } = this;
    network.probe(this.side, undefined, (answer) => {
      if (incarnation !== this.#incarnation || !this.joins) return;
      this.trace(() => `<- answered ${answer}`);

      this.#held ||= answer === 'holding';
      // Who knows that a state is held can wait.
      this.#answer = { result: answer, blind: this.#held ? undefined : network.blindBy };
      const boots = this.parts.breakage === 'boot-beside-holder' && answer === 'holding';
      this.#step({ kind: 'answered', answer: boots ? 'alive' : answer });
    });
  }

  #boot(): void {
    const { options, checker, guestRng: rng } = this.parts;
    this.parts.booting(this, this.#answer);
    const ground = {
      ram: new TrackedRam(new Array(PAGES).fill(0)),
      disks: this.images.map((image) => new ForwardedDisk(image, () => {})),
      emit: () => {},
    };
    const { history } = checker;
    const guest = new ModelGuest({
      ...ground,
      world: this.world,
      history,
      rng,
      habits: options.guest,
    });
    guest.boot();
    this.role = new SimPrimary(this, {
      guest,
      promoted: false,
      firstEpoch: this.epochs.take(),
      policy: options.policy,
    });
  }

  #goOn(): void {
    const end = this.#end;
    if (end?.kind !== 'promoted') throw new Error('Nothing was promoted');
    const firstEpoch =
      this.parts.breakage === 'old-epoch' ? end.epoch : this.epochs.take(end.epoch);
    this.role = new SimPrimary(this, {
      guest: end.guest,
      promoted: true,
      firstEpoch,
      policy: end.policy,
    });
  }
}
