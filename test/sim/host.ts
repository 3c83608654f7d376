/**
 * One simulated host: its disk images and its file of epochs, which outlive everything; its agent's
 * process, which can be stopped, killed and started again; a clock that drifts; and in the process
 * one role after the other, as the production `RoleMachine` decides.
 */

import type { Standing } from '../../src/blockrep/index.js';
import type {
  HeartbeatMessage,
  OutputLease,
  ProbeResult,
  WitnessAnswer,
  WitnessRequest,
} from '../../src/failover/index.js';
import { AssertionFailed, type Prng } from '../../src/lib/index.js';
import { type NodeInput, type NodeOutput, RoleMachine } from '../../src/node/index.js';
import { EpochBlocks } from '../../src/replication/index.js';
import { BLOCKS, ModelGuest, PAGES } from './guest.js';
import { ForwardedDisk, type Image, TrackedRam } from './layers.js';
import type { Host, Network, Side, SimSession } from './network.js';
import type { HostOptions } from './options.js';
import { noOutput, type OutputTotals } from './pvm-network.js';
import { ImageRecords } from './records.js';
import type { RoleEnd, RoleHost, RoleParts } from './role.js';
import { SimPrimary } from './sim-primary.js';
import { SimSecondary } from './sim-secondary.js';
import { SimSpeech, type SpeechHost } from './speech.js';
import type { SimWitness } from './witness.js';
import type { World } from './world.js';

/** As in src/node/limits.ts. */
const JOIN_PAUSE_US = 100_000;
/** As in src/failover/limits.ts. */
const GATEWAY_INTERVAL_US = 200_000;
const GATEWAY_SILENCE_US = 1_000_000;

/** To a node that asks what to become; `blind`: what kept it from the truth. */
export interface Answer {
  readonly result: ProbeResult;
  readonly blind: 'partition' | 'stop' | undefined;
}

export interface HostParts extends RoleParts {
  readonly side: Side;
  readonly world: World;
  readonly network: () => Network;
  /** Undefined without a witness. */
  readonly witness: () => SimWitness | undefined;
  /** A lease of this host has moved. */
  readonly leaseMoved: (host: SimHost) => void;
  /** A step of a composite output was just done, such as `capture.pause`. */
  readonly stepDone: (step: string) => void;
  /** A guest starts here from nothing but its disks. */
  readonly booting: (host: SimHost, answer: Answer) => void;
  /** The process has ended. */
  readonly ended: (host: SimHost) => void;
}

/** Of the agent: main, guard, and the one that has the packets. */
type Thread = 'main' | 'guard' | 'net';

export class SimHost implements Host, RoleHost, SpeechHost {
  readonly side: Side;
  readonly parts: HostParts;
  readonly world: World;
  readonly rng: Prng;
  readonly habits: HostOptions;
  readonly images: Image[];
  powered = true;
  alive = false;
  stopped = false;
  /** A thread of the agent stands still, and the others go on. */
  readonly stalled = { main: false, guard: false };
  /** Its guest and its clients hear nothing of each other. */
  lanCut = false;
  /** Its image can't be written. */
  diskFull = false;
  /** QEMU does not answer: no step is done. */
  hung = false;
  role: SimPrimary | SimSecondary | undefined;
  /** Something ran in this process since the checkers last looked. */
  touched = false;
  /** Committed checkpoints of all its time as the primary, for the summary. */
  checkpointsDone = 0;
  /** Of the process. */
  leftRam: number[] | undefined;
  readonly records: ImageRecords;
  /** In a file: of the state of the guest that is here. */
  token = 0;
  speech: SimSpeech | undefined;
  /** As at the start of the process, until a peer has come. */
  #told: Standing = 'none';
  /** By its configuration. */
  configured: 'primary' | 'secondary';
  readonly outputTotals: OutputTotals = noOutput();
  #machine: RoleMachine;
  /** Of the process, to the witness. */
  #process = '';
  #processes = 0;
  /** The grant that it had last. */
  #granted = 0;
  #tap: OutputLease | undefined;
  #instance = 0;
  #incarnation = 0;
  readonly #inboxes: Record<Thread, (() => void)[]> = { main: [], guard: [], net: [] };
  #mainAliveAtUs = 0;
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
    this.records = new ImageRecords(parts.side, parts.options.disks);
    this.#machine = this.#newMachine();
  }

  get network(): Network {
    return this.parts.network();
  }

  get nowLocalUs(): number {
    const { driftPpm } = this.habits;
    return this.#clockOffsetUs + Math.floor(this.world.nowUs * (1 + driftPpm / 1e6));
  }

  worldUs(localUs: number): number {
    return (localUs - this.#clockOffsetUs) / (1 + this.habits.driftPpm / 1e6);
  }

  get answers(): boolean {
    return this.alive && this.#runs('main');
  }

  get mainAliveAtUs(): number {
    return this.#runs('main') ? this.nowLocalUs : this.#mainAliveAtUs;
  }

  /** Its clients and its guest can hear each other: it has the right, and nothing is broken. */
  get canSpeak(): boolean {
    const { speech, role } = this;
    if (!this.alive || this.stopped || this.lanCut || !this.serves) return false;
    if (role?.guest?.silent !== false) return false;
    return speech === undefined || speech.leaseEndsUs > this.world.nowUs;
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
    this.#deliver('main', run);
  }

  deliverGuard(run: () => void): void {
    this.#deliver('guard', run);
  }

  deliverNet(run: () => void): void {
    this.touched = true;
    this.#deliver('net', run);
  }

  heartbeat(message: HeartbeatMessage, key: number): void {
    const { speech } = this;
    this.deliverGuard(() => speech?.heard(message, key));
  }

  #runs(thread: Thread): boolean {
    return !this.stopped && (thread === 'net' || !this.stalled[thread]);
  }

  #deliver(thread: Thread, run: () => void): void {
    if (!this.alive) return;
    if (this.#runs(thread)) run();
    else this.#inboxes[thread].push(run);
  }

  trace(text: () => string): void {
    this.world.trace(this.side, text);
  }

  takeLeftRam(): number[] | undefined {
    const taken = this.leftRam;
    this.leftRam = undefined;
    return taken;
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
    this.#machine = this.#newMachine();
    this.#held = false;
    this.leftRam = undefined;
    this.#newInstance();
    this.#processes += 1;
    this.#process = `${this.side}${this.#processes}`;
    const { standing } = this.records;
    this.#told = standing;
    this.#step({ kind: 'started', role: this.configured, standing });
  }

  stop(): void {
    this.trace(() => 'STOPPED');
    this.#mainAliveAtUs = this.mainAliveAtUs;
    this.stopped = true;
  }

  goOn(): void {
    if (!this.stopped) return;
    this.stopped = false;
    if (!this.alive) return;
    this.trace(() => 'CONTINUES');
    // The guard may look for the main thread's sign of life before there is a new one.
    const threads: Thread[] = this.rng.chance(0.5)
      ? ['guard', 'net', 'main']
      : ['net', 'main', 'guard'];
    const main = this.stalled.main;
    this.stalled.main ||= threads[0] === 'guard';
    for (const thread of threads) {
      if (thread === 'main') this.stalled.main = main;
      this.#catchUp(thread);
    }
  }

  cutLan(cut: boolean): void {
    if (this.lanCut === cut) return;
    this.lanCut = cut;
    // The gateway is asked five times before it counts as unreachable.
    const noticedUs = cut ? GATEWAY_SILENCE_US : GATEWAY_INTERVAL_US;
    this.world.schedule(noticedUs, () => {
      if (this.lanCut === cut) this.speech?.lan(!cut);
    });
  }

  stall(thread: 'main' | 'guard'): void {
    this.trace(() => `The ${thread} thread STALLS`);
    if (thread === 'main') this.#mainAliveAtUs = this.mainAliveAtUs;
    this.stalled[thread] = true;
  }

  unstall(thread: 'main' | 'guard'): void {
    if (!this.stalled[thread]) return;
    this.stalled[thread] = false;
    this.trace(() => `The ${thread} thread goes on`);
    if (!this.stopped) this.#catchUp(thread);
  }

  #catchUp(thread: Thread): void {
    if (!this.alive || !this.#runs(thread)) return;
    // A late timer may come before or after what waits in the sockets.
    if (thread === 'main' && this.rng.chance(0.5)) this.role?.input({ kind: 'tick' });
    for (const run of this.#inboxes[thread].splice(0)) this.#deliver(thread, run);
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
    this.stalled.main = false;
    this.stalled.guard = false;
    this.#incarnation += 1;
    for (const inbox of Object.values(this.#inboxes)) inbox.length = 0;
    const { role } = this;
    this.role = undefined;
    role?.die();
    if (code !== -1 && this.speech?.isWitnessed === true) this.releaseWitness(() => {});
    this.speech?.die();
    this.speech = undefined;
    this.records.close(!this.powered ? 'power' : code === -1 ? 'death' : 'order');
    this.parts.ended(this);
  }

  /** The operator takes it on himself. */
  force(): void {
    this.deliver(() => {
      if (!this.joins) return;
      this.#startSpeech('primary');
      this.speech?.force();
      this.#step({ kind: 'forced' });
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

  newTap(): void {
    this.#tap = this.speech?.tap();
  }

  mayLeave(): boolean {
    if (this.speech === undefined || this.parts.breakage === 'no-lease') return true;
    return this.#tap?.allows(this.nowLocalUs) === true;
  }

  sendHeartbeat(message: HeartbeatMessage, key: number): void {
    this.network.heartbeat(this.side, message, key);
  }

  askWitness(request: WitnessRequest, answered: (answer: WitnessAnswer) => void): void {
    const process = this.#process;
    const asker = { side: this.side, instance: process, nowLocalUs: this.nowLocalUs };
    this.parts.witness()?.ask(asker, request, (answer) => {
      if (process !== this.#process) return;
      if (answer.kind === 'granted') this.#granted = answer.token;
      answered(answer);
    });
  }

  releaseWitness(done: () => void): void {
    this.parts.witness()?.release(this, this.#granted, done);
  }

  nonce(): number {
    return this.rng.nextInt(1, 2 ** 30);
  }

  guardFailed(): void {
    if (this.parts.breakage === 'trust-guard') return;
    this.trace(() => 'The guard does not answer');
    this.leave();
  }

  leaseMoved(): void {
    this.parts.leaseMoved(this);
  }

  #newMachine(): RoleMachine {
    return new RoleMachine({ hasWitness: this.parts.options.witness !== undefined });
  }

  #startSpeech(role: 'primary' | 'secondary'): void {
    if (this.parts.options.witness === undefined || this.speech !== undefined) return;
    const { peerTimeoutUs: promiseUs, heartbeatUs } = this.habits;
    const { breakage } = this.parts;
    this.speech = new SimSpeech(this, { role, promiseUs, heartbeatUs, breakage });
    if (this.lanCut) this.speech.lan(false);
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
        this.leftRam = undefined;
        this.#boot();
        return;
      case 'goOn':
        this.leftRam = undefined;
        this.#goOn();
        return;
      case 'beSecondary':
        this.#beSecondary();
        return;
      case 'askWitness':
        this.#askPermission();
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

  #beSecondary(): void {
    if (this.speech === undefined) {
      this.#startSpeech('secondary');
      this.role = new SimSecondary(this);
      return;
    }
    const machine = this.#machine;
    this.speech.leave('This node is a secondary', () => {
      if (this.#machine === machine && machine.state === 'secondary') {
        this.role = new SimSecondary(this);
      }
    });
  }

  /** The guard goes on asking until it is told something else; here it is looked at once. */
  #askPermission(): void {
    const isNew = this.speech === undefined;
    this.#startSpeech('primary');
    this.#later(isNew ? JOIN_PAUSE_US : 0, () => {
      if (!this.joins) return;
      const { isAlone = true, fenced } = this.speech ?? {};
      const answer = isAlone ? 'granted' : fenced === undefined ? 'none' : 'fenced';
      this.#step({ kind: 'witnessed', answer });
    });
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
    this.records.open();
    this.parts.booting(this, this.#answer);
    this.records.beginAlone();
    this.newTap();
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
