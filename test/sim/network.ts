/**
 * The replication link between the two hosts: sessions of four channels, probes, and what goes
 * wrong with them.
 *
 * A channel is a TCP connection: in order, at its own pace, nothing lost while it lives. A cut link
 * holds what is under way until it heals. The end of a channel travels behind its data, so that
 * each side loses another part of what was sent; the first channel that ends, ends the session
 * there.
 */

import type { ProbeResult } from '../../src/failover/index.js';
import type { Prng } from '../../src/lib/index.js';
import type { ControlMessage } from '../../src/replication/index.js';
import type { DeviceState, Frame, Request } from './guest.js';
import type { World } from './world.js';

export type Side = 'primary' | 'secondary';
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
  /** Its agent's process exists. */
  readonly alive: boolean;
  /** What it says of itself to who asks. */
  readonly probeAnswer: ProbeResult;
  /** The process exists and is not stopped and has not left. */
  readonly answers: boolean;
  /** It has closed its listener: nobody is there, as far as a newcomer can tell. */
  readonly left: boolean;
  /** Runs in the agent's process: later if it is stopped, never if it is gone. */
  deliver(run: () => void): void;
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

const other = (side: Side): Side => (side === 'primary' ? 'secondary' : 'primary');

export class Network {
  readonly world: World;
  readonly rng: Prng;
  readonly habits: NetworkHabits;
  readonly hosts: Record<Side, Host>;
  /** Nothing leaves this side's host any more. */
  readonly cutFrom: Record<Side, boolean> = { primary: false, secondary: false };
  /** Each message to the secondary takes so much longer. */
  slowUs = 0;
  /** The newest one; older ones are gone, or as good as. */
  session: SimSession | undefined;
  #sessions = 0;
  readonly #stalled = new Set<() => void>();

  constructor(world: World, habits: NetworkHabits, hosts: Record<Side, Host>) {
    this.world = world;
    this.rng = world.stream();
    this.habits = habits;
    this.hosts = hosts;
  }

  delayUs(): number {
    return this.habits.delayUs + this.rng.nextInt(0, this.habits.jitterUs);
  }

  get cut(): boolean {
    return this.cutFrom.primary || this.cutFrom.secondary;
  }

  reaches(from: Side): boolean {
    return !this.cutFrom[from] && this.hosts[from].powered && this.hosts[other(from)].powered;
  }

  heal(): void {
    this.cutFrom.primary = false;
    this.cutFrom.secondary = false;
    const stalled = [...this.#stalled];
    this.#stalled.clear();
    // TCP sends again at its own time, after a fresh connection may have been made long ago.
    for (const run of stalled) this.world.schedule(this.rng.nextInt(0, 1_200_000), run);
  }

  /** Runs when the cut is over. */
  stall(run: () => void): void {
    this.#stalled.add(run);
  }

  open(): SimSession {
    this.#sessions += 1;
    this.session = new SimSession(this, this.#sessions);
    return this.session;
  }

  /** Asks whether the other side's agent is there. */
  probe(from: Side, answer: (result: ProbeResult) => void): void {
    const reply = (result: ProbeResult, delayUs: number): void => {
      this.world.schedule(delayUs, () => this.hosts[from].deliver(() => answer(result)));
    };
    const silent = (): void =>
      reply(
        this.rng.chance(0.5) ? 'silent' : 'unreachable',
        this.rng.nextInt(1, this.habits.probeTimeoutUs),
      );
    if (!this.reaches(from)) {
      silent();
      return;
    }
    this.world.schedule(this.delayUs(), () => {
      const peer = this.hosts[other(from)];
      if (!this.reaches(from) || !this.reaches(other(from)) || (peer.alive && !peer.answers)) {
        silent();
      } else {
        const listens = peer.alive && !peer.left;
        reply(listens ? peer.probeAnswer : 'refused', this.delayUs());
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
  readonly isOpen: Record<Side, boolean> = { primary: true, secondary: true };

  constructor(network: Network, id: number) {
    this.#network = network;
    this.id = id;
    const pipe = (): Pipe => ({ queue: [], pumping: false, ended: false });
    const pipes = () => ({ control: pipe(), ram: pipe(), disk: pipe(), network: pipe() });
    this.#pipes = { primary: pipes(), secondary: pipes() };
  }

  attach(side: Side, handlers: SessionHandlers): void {
    this.#handlers[side] = handlers;
  }

  send(from: Side, channel: Channel, message: Message): void {
    if (!this.isOpen[from]) return;
    const pipe = this.#pipes[from][channel];
    if (pipe.ended) return;
    if (!this.isOpen[other(from)]) {
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
    for (const side of ['primary', 'secondary'] as const) {
      for (const channel of CHANNELS) {
        this.#truncate(side, channel);
        if (!this.#pipes[side][channel].ended) this.#append(side, channel, undefined);
      }
    }
  }

  #append(from: Side, channel: Channel, message: Message | undefined): void {
    const pipe = this.#pipes[from][channel];
    const { world } = this.#network;
    const slowUs = from === 'primary' && message !== undefined ? this.#network.slowUs : 0;
    const readyUs = world.nowUs + this.#network.delayUs() + slowUs;
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
        this.#deliver(other(from), channel, head.message);
      }
    }
    this.#pump(from, channel);
  }

  #deliver(to: Side, channel: Channel, message: Message | undefined): void {
    this.#network.hosts[to].deliver(() => {
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
      if (network.reaches(other(from))) this.#deliver(from, 'control', undefined);
    });
  }
}
