/**
 * Two nodes and a witness in virtual time, each with a clock of its own, joined by links that lose,
 * delay and are cut one way. The guards are the product's; the node around each is as small as a
 * node can be: a session that commits numbered versions of the guest, shows them to the clients
 * once they are committed or once it is alone, and takes over or starts anew when it is told to.
 *
 * Checked at every change: the leases of both never last at the same time, whether or not their
 * owners run (I4); and nobody shows clients a version older than what they have seen (I1).
 */
import {
  type GuardInput,
  type GuardOutput,
  type HeartbeatMessage,
  SpeechGuard,
  type WitnessAnswer,
  type WitnessRequest,
} from '../../../src/failover/index.js';
import type { Prng } from '../../../src/lib/index.js';
import { type ModelAnswer, WitnessModel } from './witness-model.js';

export type NodeName = 'a' | 'b';
export type Party = NodeName | 'w';

export interface WorldOptions {
  readonly promiseUs: number;
  readonly heartbeatUs: number;
  readonly ttlUs: number;
  /** Clock rates differ from 1 by at most this. */
  readonly driftPart: number;
}

/** What the nodes tell each other beside heartbeats. */
type PairMessage =
  | { readonly kind: 'hello'; readonly session: number }
  | { readonly kind: 'welcome'; readonly session: number }
  | {
      readonly kind: 'commit';
      readonly session: number;
      readonly version: number;
      readonly token: number;
    }
  | { readonly kind: 'committed'; readonly session: number; readonly version: number }
  | { readonly kind: 'noSession'; readonly session: number }
  /** Its sender has fallen silent for good. */
  | { readonly kind: 'yielded'; readonly session: number };

type Message =
  | { readonly kind: 'heartbeat'; readonly message: HeartbeatMessage }
  | { readonly kind: 'pair'; readonly message: PairMessage };

/** A direction of a link. */
export interface Wire {
  cut: boolean;
  lossPart: number;
  /** Of the messages, those that take up to LATE_US_MAX longer. */
  latePart: number;
  delayUs: number;
}

const WORK_US = 20_000;
const LATE_US_MAX = 5_000_000;

export class World {
  nowUs = 0;
  /** The newest version that a client has seen. */
  seen = 0;
  /** Since when nobody can show anything; undefined while somebody can. */
  silentSinceUs: number | undefined = 0;
  longestSilenceUs = 0;
  readonly log: string[] = [];
  readonly wires = new Map<string, Wire>();
  readonly nodes: Record<NodeName, SimNode>;
  witnessUp = true;
  lastSpeaker: NodeName = 'a';
  nextSession = 1;
  readonly options: WorldOptions;
  readonly prng: Prng;
  readonly #witness: WitnessModel;
  readonly #witnessRate: number;
  readonly #events: { atUs: number; order: number; run: () => void }[] = [];
  #order = 0;

  constructor(prng: Prng, options: WorldOptions) {
    this.prng = prng;
    this.options = options;
    this.#witness = new WitnessModel(options.ttlUs);
    this.#witnessRate = this.drawRate();
    for (const from of ['a', 'b', 'w']) {
      for (const to of ['a', 'b', 'w']) {
        this.wires.set(from + to, { cut: false, lossPart: 0, latePart: 0, delayUs: 200 });
      }
    }
    this.nodes = { a: new SimNode(this, 'a'), b: new SimNode(this, 'b') };
    this.nodes.a.boot('primary');
    this.nodes.b.boot('secondary');
  }

  drawRate(): number {
    return 1 + (this.prng.nextFloat() * 2 - 1) * this.options.driftPart;
  }

  wire(from: Party, to: Party): Wire {
    return this.wires.get(from + to) as Wire;
  }

  at(atUs: number, run: () => void): void {
    const event = { atUs: Math.max(atUs, this.nowUs), order: this.#order++, run };
    let low = 0;
    let high = this.#events.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const other = this.#events[middle] as typeof event;
      if (other.atUs <= event.atUs) low = middle + 1;
      else high = middle;
    }
    this.#events.splice(low, 0, event);
  }

  runUntil(untilUs: number): void {
    for (let next = this.#events[0]; next !== undefined; next = this.#events[0]) {
      if (next.atUs > untilUs) break;
      this.#events.shift();
      this.nowUs = next.atUs;
      next.run();
      this.#watchSilence();
    }
    this.nowUs = untilUs;
    this.#watchSilence();
  }

  send(from: Party, to: Party, run: () => void): void {
    const wire = this.wire(from, to);
    if (wire.cut || this.prng.chance(wire.lossPart)) return;
    const jitterUs = this.prng.nextInt(0, Math.floor(wire.delayUs / 2));
    const lateUs = this.prng.chance(wire.latePart) ? this.prng.nextInt(0, LATE_US_MAX) : 0;
    this.at(this.nowUs + wire.delayUs + jitterUs + lateUs, () => {
      if (!wire.cut) run();
    });
  }

  askWitness(node: SimNode, request: WitnessRequest, answered: (answer: ModelAnswer) => void) {
    const { instance, name } = node;
    this.send(name, 'w', () => {
      if (!this.witnessUp) return;
      const answer = this.#witness.ask(
        { host: name, instance },
        request,
        this.nowUs * this.#witnessRate,
      );
      this.trace(
        `w ${instance} ${request.purpose} ${request.knownToken}: ${JSON.stringify(answer)}`,
      );
      this.send('w', name, () => answered(answer));
    });
  }

  releaseWitness(node: SimNode): void {
    const { granted, name } = node;
    this.send(name, 'w', () => {
      if (this.witnessUp) this.#witness.release(granted);
    });
  }

  trace(text: string): void {
    if (this.log.length < 100_000) this.log.push(`${(this.nowUs / 1000).toFixed(3)} ${text}`);
  }

  fail(text: string): never {
    throw new Error([...this.log.slice(-120), text].join('\n'));
  }

  checkLeases(): void {
    const { a, b } = this.nodes;
    if (a.leaseEndsUs > this.nowUs && b.leaseEndsUs > this.nowUs) {
      this.fail(`I4: both may speak: a for ${a.leaseEndsUs}, b for ${b.leaseEndsUs}`);
    }
  }

  show(node: SimNode, version: number): void {
    if (version < this.seen) {
      this.fail(`I1: ${node.name} shows version ${version}, clients have seen ${this.seen}`);
    }
    this.seen = version;
    this.lastSpeaker = node.name;
  }

  #watchSilence(): void {
    const { a, b } = this.nodes;
    if (a.canShow || b.canShow) {
      this.silentSinceUs = undefined;
      return;
    }
    this.silentSinceUs ??= this.nowUs;
    this.longestSilenceUs = Math.max(this.longestSilenceUs, this.nowUs - this.silentSinceUs);
  }
}

export class SimNode {
  readonly name: NodeName;
  readonly #world: World;
  readonly #rate: number;
  readonly #offsetUs: number;
  guard: SpeechGuard | undefined;
  instance = '';
  /** The token of its last grant. */
  granted = 0;
  /** What its disk has, whatever its process does. */
  version = 0;
  token = 0;
  hungSinceUs: number | undefined;
  /** The speaker's side of the session, or the standby's. */
  session: number | undefined;
  protectedSession: number | undefined;
  /** It has held output until a commit, and may show what it has from here on. */
  alone = false;
  /** The lease as the network thread has it, in its own clock; 0 if none. */
  #leaseUntilUs = 0;
  #boots = 0;
  #committed = 0;
  /** The speaker's process that this standby is of. */
  #partner = '';
  #pausedUntilUs = 0;
  #waiting: (() => void)[] = [];
  #asked = 0;

  constructor(world: World, name: NodeName) {
    this.#world = world;
    this.name = name;
    this.#rate = world.drawRate();
    this.#offsetUs = world.prng.nextInt(1, 1e9);
  }

  get other(): SimNode {
    return this.#world.nodes[this.name === 'a' ? 'b' : 'a'];
  }

  get clockUs(): number {
    return Math.floor(this.#offsetUs + this.#world.nowUs * this.#rate);
  }

  /** In time of the world, whether or not it runs. */
  get leaseEndsUs(): number {
    return this.#leaseUntilUs === 0 ? 0 : (this.#leaseUntilUs - this.#offsetUs) / this.#rate;
  }

  get isPaused(): boolean {
    return this.#world.nowUs < this.#pausedUntilUs;
  }

  /** Clients are served: the lease lasts and the process runs. */
  get canShow(): boolean {
    return this.guard !== undefined && !this.isPaused && this.clockUs < this.#leaseUntilUs;
  }

  boot(role: 'primary' | 'secondary'): void {
    const { promiseUs, heartbeatUs } = this.#world.options;
    this.#boots += 1;
    this.instance = `${this.name}${this.#boots}`;
    this.session = undefined;
    this.protectedSession = undefined;
    this.alone = false;
    this.hungSinceUs = undefined;
    this.guard = new SpeechGuard({
      role,
      promiseUs,
      heartbeatUs,
      hasWitness: true,
      takesRisk: false,
      knownToken: this.token,
      startUs: this.clockUs,
    });
    this.#world.trace(`${this.instance} boots as ${role}, token ${this.token}`);
    this.#schedule();
    this.#work(this.instance);
  }

  crash(): void {
    if (this.guard === undefined) return;
    this.#world.trace(`${this.instance} crashes`);
    this.guard = undefined;
    this.#leaseUntilUs = 0;
    this.#waiting = [];
    this.#pausedUntilUs = 0;
    const dead = this.instance;
    // The peer's kernel may tell that nobody listens, if anything gets through.
    const told = this.#world.nowUs + this.#world.prng.nextInt(1_000, 100_000);
    this.#world.at(told, () => {
      const { other } = this;
      if (this.instance !== dead || this.guard !== undefined) return;
      this.#world.send(this.name, other.name, () => {
        if (this.instance !== dead || this.guard !== undefined) return;
        other.deliver(() => other.#lostPeer(true));
      });
    });
  }

  pause(forUs: number): void {
    if (this.guard === undefined) return;
    this.#world.trace(`${this.instance} is stopped for ${forUs}`);
    this.#pausedUntilUs = Math.max(this.#pausedUntilUs, this.#world.nowUs + forUs);
    const { instance } = this;
    this.#world.at(this.#pausedUntilUs, () => {
      if (this.isPaused || this.instance !== instance) return;
      this.#world.trace(`${instance} continues`);
      const waiting = this.#waiting;
      this.#waiting = [];
      // The order in which a process that was stopped gets to its sockets and timers is anybody's.
      while (waiting.length > 0 && this.instance === instance) {
        const at = this.#world.prng.nextInt(0, Math.min(waiting.length - 1, 3));
        waiting.splice(at, 1)[0]?.();
      }
    });
  }

  /** A switchover that an operator asks for. */
  yield(): void {
    const session = this.protectedSession;
    if (session === undefined || this.guard?.state.kind !== 'speaking') return;
    this.#world.trace(`${this.instance} yields`);
    this.input({ kind: 'leave', reason: 'Switchover' });
    this.#tell({ kind: 'pair', message: { kind: 'yielded', session } });
    this.#restart();
  }

  /** Runs when this process next runs; never if it has died by then. */
  deliver(run: () => void): void {
    if (this.guard === undefined) return;
    const { instance } = this;
    if (this.isPaused) {
      this.#waiting.push(() => {
        if (this.instance === instance && this.guard !== undefined) run();
      });
    } else {
      run();
    }
  }

  input(input: GuardInput): void {
    if (this.guard === undefined) return;
    for (const output of this.guard.step(input, this.clockUs)) this.#perform(output);
    this.#world.checkLeases();
    this.#schedule();
  }

  #tick(): void {
    const mainAliveAtUs = this.hungSinceUs ?? this.clockUs;
    this.input({ kind: 'tick', mainAliveAtUs });
  }

  #scheduledUs = Number.POSITIVE_INFINITY;
  #scheduled = 0;

  #schedule(): void {
    if (this.guard === undefined) return;
    const deadlineUs = Math.max(this.guard.deadlineUs(), this.clockUs);
    const atUs = Math.ceil((deadlineUs - this.#offsetUs) / this.#rate) + 1;
    if (atUs === this.#scheduledUs) return;
    this.#scheduledUs = atUs;
    const number = ++this.#scheduled;
    this.#world.at(atUs, () => {
      if (this.#scheduled !== number) return;
      this.#scheduledUs = Number.POSITIVE_INFINITY;
      this.deliver(() => this.#tick());
    });
  }

  #perform(output: GuardOutput): void {
    if (output.kind !== 'send' && output.kind !== 'extend') {
      this.#world.trace(`${this.instance} ${JSON.stringify(output)}`);
    }
    switch (output.kind) {
      case 'send':
        this.#tell({ kind: 'heartbeat', message: output.message });
        return;
      case 'speak':
      case 'extend':
        this.#leaseUntilUs = output.untilUs;
        return;
      case 'fallSilent':
        this.#leaseUntilUs = 0;
        return;
      case 'askWitness':
        this.#ask(output.request);
        return;
      case 'releaseWitness':
        this.#world.releaseWitness(this);
        return;
      case 'takeOver':
      case 'goAlone':
        this.token = output.token;
        this.alone = true;
        this.session = undefined;
        this.protectedSession = undefined;
        return;
      case 'learnt':
        this.token = output.token;
        return;
      case 'stale':
        this.session = undefined;
        return;
      case 'fenced':
        // The operator is told whose state is newer, though that host may not have spoken yet.
        this.#world.lastSpeaker = this.other.name;
        this.#restart();
        return;
      case 'peer':
        if (output.view.kind === 'lost') this.#endSession(false);
        return;
      case 'mainHung':
        return;
    }
  }

  /** systemd starts it again, to join the other. */
  #restart(): void {
    const { instance } = this;
    this.#world.at(this.#world.nowUs + 100_000, () => {
      if (this.instance !== instance || this.guard === undefined) return;
      this.#leaseUntilUs = 0;
      this.boot('secondary');
    });
  }

  #ask(request: WitnessRequest): void {
    const number = ++this.#asked;
    const { instance } = this;
    const askedAtUs = this.clockUs;
    const { ttlUs } = this.#world.options;
    const answer = (found: WitnessAnswer): void => {
      if (this.#asked !== number || this.instance !== instance) return;
      this.#asked += 1;
      if (found.kind === 'granted') this.granted = found.token;
      this.input({ kind: 'answered', answer: found });
    };
    this.#world.askWitness(this, request, (found) => {
      this.deliver(() => answer(found.kind === 'granted' ? { ...found, askedAtUs, ttlUs } : found));
    });
    this.#world.at(this.#world.nowUs + ttlUs / 5, () => {
      this.deliver(() => answer({ kind: 'unreachable', reason: 'No answer' }));
    });
  }

  #tell(message: Message): void {
    const { other } = this;
    const from = this.instance;
    this.#world.send(this.name, other.name, () => {
      other.deliver(() => other.#hear(message, from));
    });
  }

  #hear(message: Message, from: string): void {
    if (message.kind === 'heartbeat') {
      // Those of a new process have a key that is told with its hello.
      const kind = this.guard?.state.kind;
      const isBound = kind === 'standby' || kind === 'claiming';
      if (isBound && from !== this.#partner) return;
      this.input({ kind: 'arrived', message: message.message });
    } else if (this.hungSinceUs === undefined) {
      this.#hearPair(message.message, from);
    }
  }

  #hearPair(message: PairMessage, from: string): void {
    const kind = this.guard?.state.kind;
    switch (message.kind) {
      case 'hello':
        if (kind === 'standby' && this.session !== message.session) {
          this.input({ kind: 'discarded' });
        } else if (kind !== 'bystander') {
          return;
        }
        this.session = message.session;
        this.#partner = from;
        this.input({ kind: 'joined' });
        this.#tell({ kind: 'pair', message: { kind: 'welcome', session: message.session } });
        return;
      case 'welcome':
        if (this.session !== undefined || kind !== 'speaking') return;
        this.session = message.session;
        this.input({ kind: 'joined' });
        return;
      case 'commit': {
        const joins = kind === 'bystander' || kind === 'standby';
        const { session, version, token } = message;
        if (!joins || this.session !== session) {
          this.#tell({ kind: 'pair', message: { kind: 'noSession', session } });
          return;
        }
        this.version = Math.max(this.version, version);
        this.input({ kind: 'standby', session, token });
        this.token = Math.max(this.token, token);
        this.#tell({ kind: 'pair', message: { kind: 'committed', session, version } });
        return;
      }
      case 'committed':
        if (this.session !== message.session || this.guard === undefined) return;
        // The session is a TCP connection, which keeps the order; the world's wires do not.
        this.#committed = Math.max(this.#committed, message.version);
        if (this.canShow) this.#world.show(this, this.#committed);
        return;
      case 'noSession':
        if (this.session === message.session) this.#lostPeer(false);
        return;
      case 'yielded':
        if (this.session === message.session) this.#lostPeer(true);
        return;
    }
  }

  #lostPeer(proof: boolean): void {
    if (this.session === undefined || this.guard === undefined) return;
    this.#world.trace(`${this.instance} has lost its peer, proof ${proof}`);
    this.#endSession(proof);
  }

  #endSession(proof: boolean): void {
    const wasProtected = this.protectedSession !== undefined;
    const { kind } = this.guard?.state ?? { kind: 'bystander' };
    this.session = undefined;
    this.protectedSession = undefined;
    const isStandby = kind === 'standby' || kind === 'claiming';
    if (isStandby || wasProtected) this.input({ kind: 'peerLost', proof });
  }

  /** The guest's work: a version now and then, shown when it may be. */
  #work(instance: string): void {
    this.#world.at(this.#world.nowUs + WORK_US, () => {
      if (this.instance !== instance || this.guard === undefined) return;
      this.deliver(() => this.#workOnce());
      this.#work(instance);
    });
  }

  #workOnce(): void {
    if (this.hungSinceUs !== undefined || !this.canShow) return;
    this.version += 1;
    if (this.alone) this.#world.show(this, this.version);
    if (this.session === undefined) {
      if (!this.#world.prng.chance(0.1)) return;
      const session = this.#world.nextSession++;
      this.#tell({ kind: 'pair', message: { kind: 'hello', session } });
      return;
    }
    const { session } = this;
    if (this.protectedSession === undefined) {
      this.protectedSession = session;
      this.alone = false;
      this.version += 1;
      this.input({ kind: 'protecting', session });
    }
    const token = this.guard?.token ?? 0;
    this.#tell({
      kind: 'pair',
      message: { kind: 'commit', session, version: this.version, token },
    });
  }
}
