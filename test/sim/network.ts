/**
 * The replication link between the two hosts: sessions of the four channels that it uses, probes,
 * and what goes wrong with them.
 *
 * A channel is a TCP connection: in order, at its own pace, nothing lost while it lives. A cut link
 * holds what is under way until it heals. The end of a channel travels behind its data, so that
 * each side loses another part of what was sent; the first channel that ends, ends the session
 * there.
 */

import type { PrimaryImage } from '../../src/blockrep/generation/judge.js';
import type { Mode, PeriodSetting } from '../../src/config/index.js';
import type { HeartbeatMessage, ProbeResult } from '../../src/failover/index.js';
import type { Prng } from '../../src/lib/index.js';
import type { ControlMessage } from '../../src/replication/index.js';
import type { DeviceState, Frame, Request } from './guest.js';
import type { World } from './world.js';

/** One of the two hosts; either may have either role. */
export type Side = 'a' | 'b';
export const SIDES = ['a', 'b'] as const;
export const CHANNELS = ['control', 'ram', 'disk', 'network'] as const;
export type Channel = (typeof CHANNELS)[number];

export type Message =
  | ControlMessage
  | {
      readonly kind: 'ramPages';
      readonly epoch: number;
      readonly pages: readonly (readonly [number, number])[];
    }
  | { readonly kind: 'deviceState'; readonly epoch: number; readonly device: DeviceState }
  | { readonly kind: 'ramEnd'; readonly epoch: number }
  | {
      readonly kind: 'digestsWanted';
      readonly epoch: number;
      readonly first: number;
      readonly pages: number;
    }
  | {
      readonly kind: 'ramDigests';
      readonly epoch: number;
      readonly first: number;
      readonly digests: readonly number[];
    }
  | {
      readonly kind: 'diskWrite';
      readonly epoch: number;
      readonly disk: number;
      readonly block: number;
      readonly value: number;
    }
  | { readonly kind: 'diskEnd'; readonly epoch: number; readonly disk: number }
  | { readonly kind: 'inbound'; readonly epoch: number; readonly request: Request }
  | { readonly kind: 'epochMark'; readonly epoch: number; readonly exact: boolean }
  | { readonly kind: 'svmOutput'; readonly epoch: number; readonly frame: Frame };

/** A host as the network sees it. */
export interface Host {
  readonly powered: boolean;
  /** Its agent's process exists, and its listener with it. */
  readonly alive: boolean;
  /** What it says of itself to who asks for this instance, or for any. */
  probed(instance: number | undefined): ProbeResult;
  /** The process exists and is not stopped. */
  readonly answers: boolean;
  /** The other one asks for a session. */
  onSession(session: SimSession): void;
  /** Runs in the agent's process: later if it is stopped, never if it is gone. */
  deliver(run: () => void): void;
  /** In the thread that has the packets. */
  deliverNet(run: () => void): void;
  /** A datagram of the other host's guard. */
  heartbeat(message: HeartbeatMessage, key: number): void;
}

export interface SessionHandlers {
  message(channel: Channel, message: Message): void;
  lost(reason: string): void;
}

/** Delays in microseconds. */
export interface NetworkHabits {
  readonly delayUs: number;
  readonly jitterUs: number;
  readonly probeTimeoutUs: number;
}

/** Until TCP sends again after a cut. */
export const RETRANSMIT_MAX_US = 1_200_000;

/** The first time that TCP sends something again. */
const RESEND_FIRST_US = 200_000;

export const otherSide = (side: Side): Side => (side === 'a' ? 'b' : 'a');

/** What a session of a pair with a witness agrees on. */
export interface SimOffer {
  readonly session: number;
  readonly token: number;
  /** Heartbeats of another session are nobody's. */
  readonly key: number;
}

/** What a primary tells of itself and of the pair at the begin of a session. */
export interface SimHello {
  readonly epoch: number;
  readonly instance: number;
  readonly policy: SimPolicy;
  /** What its images are; undefined if it has none. */
  readonly image: PrimaryImage | undefined;
  /** Undefined without a witness. */
  readonly offer: SimOffer | undefined;
}

/** How the pair is run; it goes on so after a failover. */
export interface SimPolicy {
  readonly mode: Mode;
  readonly period: PeriodSetting | undefined;
}

export class Network {
  readonly world: World;
  readonly rng: Prng;
  readonly habits: NetworkHabits;
  readonly hosts: Record<Side, Host>;
  /** Nothing leaves this side's host any more. */
  readonly cutFrom: Record<Side, boolean> = { a: false, b: false };
  /** Each message of a primary takes so much longer. */
  slowUs = 0;
  /** Each message of either host takes so much longer, and of its packets so many are lost. */
  weather = { delayUs: 0, lossPart: 0 };
  /** The newest one; older ones are gone, or as good as. */
  session: SimSession | undefined;
  #sessions = 0;
  readonly #stalled = new Set<() => void>();
  /** Why the last probe that was not answered was not. */
  blindBy: 'partition' | 'stop' | undefined;

  constructor(world: World, habits: NetworkHabits, hosts: Record<Side, Host>) {
    this.world = world;
    this.rng = world.stream();
    this.habits = habits;
    this.hosts = hosts;
  }

  delayUs(): number {
    const usualUs = this.habits.delayUs + this.rng.nextInt(0, this.habits.jitterUs);
    return usualUs + this.weather.delayUs;
  }

  /** Of a connection, which sends again what was lost, each time after twice as long. */
  #resentUs(): number {
    let resentUs = 0;
    const { lossPart } = this.weather;
    if (lossPart === 0) return 0;
    for (let waitUs = RESEND_FIRST_US; this.rng.chance(lossPart); waitUs *= 2) resentUs += waitUs;
    return resentUs;
  }

  connectionDelayUs(): number {
    return this.delayUs() + this.#resentUs();
  }

  /** A datagram: it comes or it does not. */
  heartbeat(from: Side, message: HeartbeatMessage, key: number): void {
    const to = otherSide(from);
    if (!this.reaches(from) || this.rng.chance(this.weather.lossPart)) return;
    this.world.schedule(this.delayUs() + this.slowUs, () => {
      if (this.reaches(from)) this.hosts[to].heartbeat(message, key);
    });
  }

  get cut(): boolean {
    return this.cutFrom.a || this.cutFrom.b;
  }

  reaches(from: Side): boolean {
    return !this.cutFrom[from] && this.hosts[from].powered && this.hosts[otherSide(from)].powered;
  }

  heal(): void {
    this.cutFrom.a = false;
    this.cutFrom.b = false;
    const stalled = [...this.#stalled];
    this.#stalled.clear();
    // TCP sends again at its own time, after a fresh connection may have been made long ago.
    for (const run of stalled) this.world.schedule(this.rng.nextInt(0, RETRANSMIT_MAX_US), run);
  }

  /** Runs when the cut is over. */
  stall(run: () => void): void {
    this.#stalled.add(run);
  }

  open(primary: Side, hello: SimHello): SimSession {
    this.#sessions += 1;
    this.session = new SimSession(this, { id: this.#sessions, primary, hello });
    return this.session;
  }

  /** Asks what the other side's agent has of the guest; `instance`: the one that is meant. */
  probe(from: Side, instance: number | undefined, answer: (result: ProbeResult) => void): void {
    const reply = (result: ProbeResult, delayUs: number): void => {
      this.world.schedule(delayUs, () => this.hosts[from].deliver(() => answer(result)));
    };
    const silent = (): void => {
      const peer = this.hosts[otherSide(from)];
      this.blindBy = this.cut ? 'partition' : peer.alive && !peer.answers ? 'stop' : undefined;
      reply(
        this.rng.chance(0.5) ? 'silent' : 'unreachable',
        this.rng.nextInt(1, this.habits.probeTimeoutUs),
      );
    };
    if (!this.reaches(from)) {
      silent();
      return;
    }
    if (this.weather.lossPart > 0 && this.rng.chance(this.weather.lossPart)) {
      silent();
      return;
    }
    this.world.schedule(this.delayUs(), () => {
      const peer = this.hosts[otherSide(from)];
      if (!this.reaches(from) || !this.reaches(otherSide(from)) || (peer.alive && !peer.answers)) {
        silent();
      } else {
        reply(peer.alive ? peer.probed(instance) : 'refused', this.delayUs());
      }
    });
  }
}

interface Pipe {
  /** `undefined` is the end of the connection. */
  readonly queue: { message: Message | undefined; readyUs: number }[];
  pumping: boolean;
  ended: boolean;
}

/** One session; `attach` both sides before anything is delivered. */
export class SimSession {
  readonly id: number;
  readonly #network: Network;
  readonly #pipes: Record<Side, Record<Channel, Pipe>>;
  readonly #handlers: Partial<Record<Side, SessionHandlers>> = {};
  /** No side has closed it or seen its end. */
  readonly isOpen: Record<Side, boolean> = { a: true, b: true };
  /** Who has opened it. */
  readonly primary: Side;
  readonly hello: SimHello;
  /** Of the process that has accepted it. */
  secondaryInstance: number | undefined;

  constructor(network: Network, parts: { id: number; primary: Side; hello: SimHello }) {
    this.#network = network;
    this.id = parts.id;
    this.primary = parts.primary;
    this.hello = parts.hello;
    const pipe = (): Pipe => ({ queue: [], pumping: false, ended: false });
    const pipes = () => ({ control: pipe(), ram: pipe(), disk: pipe(), network: pipe() });
    this.#pipes = { a: pipes(), b: pipes() };
  }

  /** The hello is answered with a no. */
  refuse(side: Side, reason: string): void {
    this.attach(side, { message: () => {}, lost: () => {} });
    this.send(side, 'control', { kind: 'helloReply', json: reason });
    this.close(side, true);
  }

  attach(side: Side, handlers: SessionHandlers): void {
    this.#handlers[side] = handlers;
  }

  send(from: Side, channel: Channel, message: Message): void {
    if (!this.isOpen[from]) return;
    const pipe = this.#pipes[from][channel];
    if (pipe.ended) return;
    if (!this.isOpen[otherSide(from)]) {
      this.#reject(from);
      return;
    }
    this.#append(from, channel, message);
  }

  /** Orderly, or by the kernel of a process that died: then some of the tail is lost. */
  close(from: Side, orderly: boolean): void {
    if (!this.isOpen[from]) return;
    this.isOpen[from] = false;
    for (const channel of CHANNELS) {
      if (!orderly) this.#truncate(from, channel);
      this.#append(from, channel, undefined);
    }
  }

  /** The host lost its power: nothing more comes, not even an end. */
  vanish(from: Side): void {
    this.isOpen[from] = false;
    for (const channel of CHANNELS) this.#truncate(from, channel);
  }

  /** The link breaks and both sides will notice. */
  reset(): void {
    for (const side of SIDES) {
      for (const channel of CHANNELS) {
        this.#truncate(side, channel);
        if (!this.#pipes[side][channel].ended) this.#append(side, channel, undefined);
      }
    }
  }

  #append(from: Side, channel: Channel, message: Message | undefined): void {
    const pipe = this.#pipes[from][channel];
    const { world } = this.#network;
    const slowUs = from === this.primary && message !== undefined ? this.#network.slowUs : 0;
    const readyUs = world.nowUs + this.#network.connectionDelayUs() + slowUs;
    pipe.queue.push({ message, readyUs: Math.max(readyUs, pipe.queue.at(-1)?.readyUs ?? 0) });
    if (message === undefined) pipe.ended = true;
    if (!pipe.pumping) this.#pump(from, channel);
  }

  #truncate(from: Side, channel: Channel): void {
    const pipe = this.#pipes[from][channel];
    pipe.queue.length = this.#network.rng.nextInt(0, pipe.queue.length);
    if (pipe.queue.length > 0 && pipe.queue.at(-1)?.message === undefined) return;
    pipe.ended = false;
  }

  #pump(from: Side, channel: Channel): void {
    const pipe = this.#pipes[from][channel];
    const head = pipe.queue[0];
    pipe.pumping = head !== undefined;
    if (head === undefined) return;
    const { world } = this.#network;
    world.schedule(head.readyUs - world.nowUs, () => this.#arrive(from, channel));
  }

  #arrive(from: Side, channel: Channel): void {
    if (this.#network.cutFrom[from]) {
      this.#network.stall(() => this.#arrive(from, channel));
      return;
    }
    const pipe = this.#pipes[from][channel];
    const head = pipe.queue[0];
    if (head !== undefined) {
      // Cut off while it was under way: its successor may not be due yet.
      if (head.readyUs <= this.#network.world.nowUs) {
        pipe.queue.shift();
        this.#deliver(otherSide(from), channel, head.message);
      }
    }
    this.#pump(from, channel);
  }

  #deliver(to: Side, channel: Channel, message: Message | undefined): void {
    const host = this.#network.hosts[to];
    const isPacket = channel === 'network' && message !== undefined;
    const deliver = (run: () => void): void =>
      isPacket ? host.deliverNet(run) : host.deliver(run);
    deliver(() => {
      if (!this.isOpen[to]) return;
      if (message !== undefined) {
        this.#handlers[to]?.message(channel, message);
        return;
      }
      this.isOpen[to] = false;
      this.#handlers[to]?.lost(`Channel ${channel} ended`);
    });
  }

  /** The other host answers data of a connection that it no longer knows. */
  #reject(from: Side): void {
    const network = this.#network;
    if (!network.reaches(from)) return;
    network.world.schedule(2 * network.delayUs(), () => {
      if (network.reaches(otherSide(from))) this.#deliver(from, 'control', undefined);
    });
  }
}
