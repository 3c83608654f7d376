/**
 * A guest small enough to compare whole at every checkpoint: 32 pages of RAM, a NIC with its ring,
 * some disks of 32 blocks, all holding integers.
 *
 * It serves clients, each in a flow of its own. A *stream* is TCP in small: a request is taken into
 * the guest's RAM and acknowledged, served in its own time and answered; what is repeated is
 * answered as before. A *datagram* is answered each time that it comes. Besides it scribbles on its
 * RAM and says things unasked, in one more flow. What is said in a flow names an event of
 * history.ts, `event`: guests that get the same say the same, each at its own pace, unless one of
 * them diverges, as real ones do for their random numbers. `head` is the speaker's own newest event
 * and is not said: it lets the checkers see what else a word implies.
 *
 * Everything that it will need is in RAM, device and disks. What it does when is drawn from its own
 * stream of random numbers: PVM and SVM differ on purpose.
 */
import type { Prng } from '../../src/lib/index.js';
import type { History } from './history.js';
import type { World } from './world.js';

export const PAGES = 32;
export const BLOCKS = 32;
export const CLIENTS_MAX = 4;
/** One per client and one for what is said unasked. */
export const FLOWS = CLIENTS_MAX + 1;
const UNASKED_FLOW = CLIENTS_MAX;

const HEAD_PAGE = 0;
/** Per flow: newest request taken in, newest one served, newest event, newest one on disk. */
const FIRST_FLOW_PAGE = 4;
const FLOW_PAGES = 4;
const FIRST_SCRIBBLE_PAGE = FIRST_FLOW_PAGE + FLOW_PAGES * FLOWS;
/** Requests that fit the NIC's ring; what finds no room is dropped, as by a real one. */
const RING_MAX = 64;

/** A client's request, numbered from 1 per client. */
export interface Request {
  readonly client: number;
  readonly seq: number;
  readonly service: 'stream' | 'datagram';
  /** False: the client knows that its request has arrived, and only asks for the answer. */
  readonly data: boolean;
  /** How many requests the primary's host had seen with this one, if it was the one to see it. */
  readonly arrival?: number;
}

/** What a guest says. */
export interface Frame {
  readonly kind: 'ack' | 'answer' | 'unasked';
  /** The client's number, but for what is unasked. */
  readonly flow: number;
  readonly seq: number;
  readonly event: number;
  readonly head: number;
}

/** What is saved with the devices. */
export interface DeviceState {
  /** Blocks written so far. */
  readonly writes: number;
  /** Received and not looked at yet. */
  readonly ring: readonly Request[];
  /** `arrival` of the newest request received; undefined if nobody knows. */
  readonly received: number | undefined;
}

/** Everything that makes a guest what it is. */
export interface GuestState {
  readonly pages: readonly number[];
  readonly device: DeviceState;
  readonly disks: readonly (readonly number[])[];
}

/** Where a guest keeps its numbers: plainly, or in layers above a cache or an image. */
export interface Cells {
  get(index: number): number;
  set(index: number, value: number): void;
}

/** How much and how fast a guest does things; delays in microseconds. */
export interface GuestHabits {
  readonly serviceUs: number;
  readonly idleUs: number;
  /** Pages written by one fit of scribbling. */
  readonly scribblePages: number;
  /** A stream's request is acknowledged before it is served. */
  readonly acks: boolean;
  /** Of its words, those that no other guest would say. */
  readonly divergence: number;
}

/** What a guest stands on; another after a promotion. */
export interface GuestGround {
  readonly ram: Cells;
  readonly disks: readonly Cells[];
  readonly emit: (frame: Frame) => void;
}

export interface GuestParts extends GuestGround {
  readonly world: World;
  readonly history: History;
  readonly rng: Prng;
  readonly habits: GuestHabits;
}

export class ModelGuest {
  #parts: GuestParts;
  #running = false;
  #frozen = false;
  #dead = false;
  #ring: Request[] = [];
  #writes = 0;
  #received: number | undefined = 0;
  #generation = 0;
  #busy = false;

  constructor(parts: GuestParts) {
    this.#parts = parts;
  }

  /** The newest thing it did. */
  get head(): number {
    return this.#parts.ram.get(HEAD_PAGE);
  }

  /** The newest thing it did in a flow. */
  flowHead(flow: number): number {
    return this.#parts.ram.get(pageOf(flow, 'head'));
  }

  /** It says nothing whatever it is asked: dead, or on a host that stands still. */
  get silent(): boolean {
    return this.#dead || this.#frozen;
  }

  get dead(): boolean {
    return this.#dead;
  }

  /** See DeviceState. */
  get received(): number | undefined {
    return this.#received;
  }

  /** What it stands on holds the same as before; `received`: requests are counted from here. */
  moveTo(ground: GuestGround, received: number): void {
    this.#parts = { ...this.#parts, ...ground };
    this.#received = received;
  }

  /** An empty guest begins with what its disks hold. */
  boot(): void {
    const { ram, disks, history } = this.#parts;
    ram.set(HEAD_PAGE, history.append(0));
    for (let flow = 0; flow < FLOWS; flow += 1) {
      this.#set(flow, 'head', history.append(0));
      if (flow >= CLIENTS_MAX || disks.length === 0) continue;
      this.#set(flow, 'written', disks[flow % disks.length]?.get(flow) ?? 0);
    }
    this.resume();
  }

  resume(): void {
    this.#running = true;
    this.#plan();
  }

  pause(): void {
    this.#running = false;
    this.#plan();
  }

  /** The host stands still, with everything on it. */
  set frozen(frozen: boolean) {
    this.#frozen = frozen;
    this.#plan();
  }

  kill(): void {
    this.#dead = true;
    this.#plan();
  }

  /** False if nobody is there to receive it. */
  receive(request: Request): boolean {
    if (this.#dead) return false;
    if (request.arrival !== undefined && this.#received !== undefined) {
      this.#received = Math.max(this.#received, request.arrival);
    }
    if (this.#ring.length >= RING_MAX) return true;
    this.#ring.push(request);
    if (!this.#busy) this.#plan();
    return true;
  }

  /**
   * The devices as they are saved. Not `exact`: some of what the host had delivered had not reached
   * the ring, and this checkpoint knows nothing of it.
   */
  saveDevice(exact: boolean): DeviceState {
    return {
      writes: this.#writes,
      ring: exact ? [...this.#ring] : [],
      received: exact ? this.#received : undefined,
    };
  }

  loadDevice(device: DeviceState): void {
    this.#writes = device.writes;
    this.#ring = [...device.ring];
    this.#received = device.received;
  }

  /** All of it, with the devices as `saveDevice` gave them, or as they are. */
  snapshot(device = this.saveDevice(true)): GuestState {
    const { ram, disks } = this.#parts;
    return {
      pages: cellsOf(ram, PAGES),
      device,
      disks: disks.map((d) => cellsOf(d, BLOCKS)),
    };
  }

  #plan(): void {
    this.#generation += 1;
    this.#busy = false;
    if (!this.#running || this.#frozen || this.#dead) return;
    const { world, rng, habits } = this.#parts;
    const generation = this.#generation;
    this.#busy = this.#ring.length > 0 || this.#unserved() !== undefined;
    const meanUs = this.#busy ? habits.serviceUs : habits.idleUs;
    world.schedule(rng.nextInt(1, 2 * meanUs), () => {
      if (generation === this.#generation) this.#turn();
    });
  }

  #turn(): void {
    const unserved = this.#unserved();
    const takesNext =
      this.#ring.length > 0 && (unserved === undefined || this.#parts.rng.chance(0.5));
    if (takesNext) this.#take(this.#ring.shift() as Request);
    else if (unserved !== undefined) this.#serve(unserved);
    else this.#idle();
    this.#plan();
  }

  /** A stream whose newest request waits to be served. */
  #unserved(): number | undefined {
    const { ram } = this.#parts;
    for (let flow = 0; flow < CLIENTS_MAX; flow += 1) {
      if (ram.get(pageOf(flow, 'taken')) > ram.get(pageOf(flow, 'served'))) return flow;
    }
    return undefined;
  }

  #take(request: Request): void {
    const { client: flow, seq } = request;
    if (request.service === 'datagram') {
      this.#set(flow, 'taken', seq);
      this.#serve(flow);
      return;
    }
    const { ram, history, habits } = this.#parts;
    const taken = ram.get(pageOf(flow, 'taken'));
    if (seq === taken + 1 && request.data) {
      this.#advance(flow, history.child(this.flowHead(flow), 2 * seq));
      this.#set(flow, 'taken', seq);
    } else if (seq !== taken) return;
    const served = ram.get(pageOf(flow, 'served')) === seq;
    if (served || habits.acks) this.#say(served ? 'answer' : 'ack', flow, seq);
  }

  #serve(flow: number): void {
    const { ram } = this.#parts;
    const seq = ram.get(pageOf(flow, 'taken'));
    this.#advance(flow, this.#word(flow, 2 * seq + 1));
    this.#set(flow, 'served', seq);
    if (seq % 2 === 1) this.#writeFlow(flow);
    this.#say('answer', flow, seq);
  }

  #idle(): void {
    const { ram, rng, habits } = this.#parts;
    const mood = rng.nextFloat();
    if (mood < 0.4) {
      const count = ram.get(pageOf(UNASKED_FLOW, 'taken')) + 1;
      this.#advance(UNASKED_FLOW, this.#word(UNASKED_FLOW, count));
      this.#set(UNASKED_FLOW, 'taken', count);
      this.#set(UNASKED_FLOW, 'served', count);
      this.#say('unasked', UNASKED_FLOW, count);
      return;
    }
    const event = this.#live();
    if (mood < 0.6) {
      this.#writeBlock(rng.nextInt(0, 7), rng.nextInt(CLIENTS_MAX, BLOCKS - 1), event);
      return;
    }
    for (let count = 0; count < habits.scribblePages; count += 1) {
      ram.set(rng.nextInt(FIRST_SCRIBBLE_PAGE, PAGES - 1), event);
    }
  }

  #word(flow: number, label: number): number {
    const { history, rng, habits } = this.#parts;
    const past = this.flowHead(flow);
    return rng.chance(habits.divergence) ? history.append(past) : history.child(past, label);
  }

  #advance(flow: number, event: number): void {
    this.#live();
    this.#set(flow, 'head', event);
  }

  #live(): number {
    const { ram, history } = this.#parts;
    const event = history.append(ram.get(HEAD_PAGE));
    ram.set(HEAD_PAGE, event);
    ram.set(1 + (event % 3), event);
    return event;
  }

  #set(flow: number, what: FlowPage, value: number): void {
    this.#parts.ram.set(pageOf(flow, what), value);
  }

  #say(kind: Frame['kind'], flow: number, seq: number): void {
    const frame = { kind, flow, seq, event: this.flowHead(flow), head: this.head };
    this.#parts.emit(frame);
  }

  /** The flow's newest event becomes durable, in a block of its own. */
  #writeFlow(flow: number): void {
    const event = this.flowHead(flow);
    if (this.#writeBlock(flow, flow, event)) this.#set(flow, 'written', event);
  }

  /** False if there is no disk. */
  #writeBlock(disk: number, block: number, event: number): boolean {
    const { disks } = this.#parts;
    if (disks.length === 0) return false;
    this.#writes += 1;
    disks[disk % disks.length]?.set(block, event);
    return true;
  }
}

const FLOW_PAGE = { taken: 0, served: 1, head: 2, written: 3 } as const;
type FlowPage = keyof typeof FLOW_PAGE;

function pageOf(flow: number, what: FlowPage): number {
  return FIRST_FLOW_PAGE + FLOW_PAGES * flow + FLOW_PAGE[what];
}

export function headOf(state: GuestState): number {
  return state.pages[HEAD_PAGE] as number;
}

export function flowHeadOf(state: GuestState, flow: number): number {
  return state.pages[pageOf(flow, 'head')] as number;
}

/** What the guest believes to have written and its disks do not hold, in words. */
export function lostWriteOf(state: GuestState): string | undefined {
  const { disks, pages } = state;
  if (disks.length === 0) return undefined;
  for (let flow = 0; flow < CLIENTS_MAX; flow += 1) {
    const want = pages[pageOf(flow, 'written')];
    const got = disks[flow % disks.length]?.[flow];
    if (got !== want) return `block ${flow} is ${got}, but the guest has written ${want}`;
  }
  return undefined;
}

/** The first difference in words; undefined when there is none. */
export function differenceOf(got: GuestState, want: GuestState): string | undefined {
  const page = got.pages.findIndex((value, index) => value !== want.pages[index]);
  if (page >= 0) return `page ${page} is ${got.pages[page]}, not ${want.pages[page]}`;
  const device = deviceDifference(got.device, want.device);
  if (device !== undefined) return device;
  for (const [index, disk] of got.disks.entries()) {
    const other = want.disks[index] ?? [];
    const block = disk.findIndex((value, at) => value !== other[at]);
    if (block >= 0) return `disk ${index} block ${block} is ${disk[block]}, not ${other[block]}`;
  }
  return undefined;
}

function deviceDifference(got: DeviceState, want: DeviceState): string | undefined {
  const same =
    got.writes === want.writes &&
    got.received === want.received &&
    got.ring.length === want.ring.length &&
    got.ring.every((request, index) => request === want.ring[index]);
  return same ? undefined : `the device is ${JSON.stringify(got)}, not ${JSON.stringify(want)}`;
}

function cellsOf(cells: Cells, count: number): number[] {
  return Array.from({ length: count }, (_, index) => cells.get(index));
}
