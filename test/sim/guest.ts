/**
 * A guest small enough to compare whole at every checkpoint: 32 pages of RAM, one device counter,
 * some disks of 32 blocks, all holding integers.
 *
 * It serves clients: a request is answered with the number of the event (see history.ts) that
 * processed it; a repeated one with the same number again. Besides it scribbles on its RAM, writes
 * its disks and says things unasked. Everything that it will need is in RAM, device and disks; what
 * waits in its NIC is lost by a checkpoint, as in a real one. What it does and when is drawn from
 * its own stream: PVM and SVM differ on purpose.
 */
import type { Prng } from '../../src/lib/index.js';
import type { History } from './history.js';
import type { World } from './world.js';

export const PAGES = 32;
export const BLOCKS = 32;
export const CLIENTS_MAX = 4;

const HEAD_PAGE = 0;
const FIRST_CLIENT_PAGE = 4;
const FIRST_SCRIBBLE_PAGE = FIRST_CLIENT_PAGE + 2 * CLIENTS_MAX;

/** A client's request, numbered from 1 per client. */
export interface Request {
  readonly client: number;
  readonly seq: number;
}

/** What a guest says; `event` is what it implies to have happened. */
export type Frame =
  | {
      readonly kind: 'answer';
      readonly client: number;
      readonly seq: number;
      readonly event: number;
    }
  | { readonly kind: 'unasked'; readonly event: number };

/** Everything that makes a guest what it is. */
export interface GuestState {
  readonly pages: readonly number[];
  readonly device: number;
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
}

export interface GuestParts {
  readonly name: string;
  readonly world: World;
  readonly history: History;
  readonly rng: Prng;
  readonly ram: Cells;
  readonly disks: readonly Cells[];
  readonly habits: GuestHabits;
  readonly emit: (frame: Frame) => void;
}

export class ModelGuest {
  readonly #parts: GuestParts;
  device = 0;
  #running = false;
  #frozen = false;
  #dead = false;
  #nic: Request[] = [];
  #generation = 0;
  #busy = false;

  constructor(parts: GuestParts) {
    this.#parts = parts;
  }

  /** The newest thing it did. */
  get head(): number {
    return this.#parts.ram.get(HEAD_PAGE);
  }

  get running(): boolean {
    return this.#running && !this.#dead;
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

  receive(request: Request): void {
    if (this.#dead || this.#nic.length >= 64) return;
    this.#nic.push(request);
    if (!this.#busy) this.#plan();
  }

  /** What a restart of the devices does: the NIC forgets. */
  forgetReceived(): void {
    this.#nic = [];
  }

  snapshot(): GuestState {
    const { ram, disks } = this.#parts;
    return {
      pages: cellsOf(ram, PAGES),
      device: this.device,
      disks: disks.map((d) => cellsOf(d, BLOCKS)),
    };
  }

  #plan(): void {
    this.#generation += 1;
    this.#busy = false;
    if (!this.#running || this.#frozen || this.#dead) return;
    const { world, rng, habits } = this.#parts;
    const generation = this.#generation;
    this.#busy = this.#nic.length > 0;
    const meanUs = this.#busy ? habits.serviceUs : habits.idleUs;
    world.schedule(rng.nextInt(1, 2 * meanUs), () => {
      if (generation === this.#generation) this.#turn();
    });
  }

  #turn(): void {
    const request = this.#nic.shift();
    if (request === undefined) this.#idle();
    else this.#serve(request);
    this.#plan();
  }

  #serve(request: Request): void {
    const { ram, emit, rng } = this.#parts;
    const seqPage = FIRST_CLIENT_PAGE + 2 * request.client;
    const last = ram.get(seqPage);
    if (request.seq < last) return;
    if (request.seq > last) {
      const event = this.#event();
      ram.set(seqPage, request.seq);
      ram.set(seqPage + 1, event);
      if (rng.chance(0.5)) this.#writeDisk(event);
    }
    emit({ kind: 'answer', ...request, event: ram.get(seqPage + 1) });
  }

  #idle(): void {
    const { ram, emit, rng, habits } = this.#parts;
    const event = this.#event();
    const mood = rng.nextFloat();
    if (mood < 0.4) emit({ kind: 'unasked', event });
    else if (mood < 0.6) this.#writeDisk(event);
    else {
      for (let count = 0; count < habits.scribblePages; count += 1) {
        ram.set(rng.nextInt(FIRST_SCRIBBLE_PAGE, PAGES - 1), event);
      }
    }
  }

  #event(): number {
    const { ram, history } = this.#parts;
    const event = history.append(ram.get(HEAD_PAGE));
    ram.set(HEAD_PAGE, event);
    ram.set(1 + (event % 3), event);
    return event;
  }

  #writeDisk(event: number): void {
    const { disks, rng } = this.#parts;
    if (disks.length === 0) return;
    this.device += 1;
    rng.pick(disks).set(rng.nextInt(0, BLOCKS - 1), event);
  }
}

export function headOf(state: GuestState): number {
  return state.pages[HEAD_PAGE] as number;
}

/** The first difference in words; undefined when there is none. */
export function differenceOf(got: GuestState, want: GuestState): string | undefined {
  const page = got.pages.findIndex((value, index) => value !== want.pages[index]);
  if (page >= 0) return `page ${page} is ${got.pages[page]}, not ${want.pages[page]}`;
  if (got.device !== want.device) return `the device is ${got.device}, not ${want.device}`;
  for (const [index, disk] of got.disks.entries()) {
    const other = want.disks[index] ?? [];
    const block = disk.findIndex((value, at) => value !== other[at]);
    if (block >= 0) return `disk ${index} block ${block} is ${disk[block]}, not ${other[block]}`;
  }
  return undefined;
}

function cellsOf(cells: Cells, count: number): number[] {
  return Array.from({ length: count }, (_, index) => cells.get(index));
}
