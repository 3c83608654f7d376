/**
 * What stands between a guest and the world. Output gate and inbound log are the production ones,
 * in envelopes; RAM cache, disk overlay and epoch buffer are models with plain values.
 */
import { encodeBatch, type GateState, InboundLog, OutputGate } from '../../src/proxy/index.js';
import { BLOCKS, type Cells, type Frame, PAGES, type Request } from './guest.js';

const FRAME = Buffer.alloc(60);
const ONE_FRAME = encodeBatch([FRAME]);

/** Guest RAM whose written pages are known. */
export class TrackedRam implements Cells {
  readonly #pages: number[];
  readonly dirty = new Set<number>();

  /** `pages`: what it holds; this one's own from now on. */
  constructor(pages: number[]) {
    this.#pages = pages;
  }

  get(index: number): number {
    return this.#pages[index] as number;
  }

  set(index: number, value: number): void {
    this.#pages[index] = value;
    this.dirty.add(index);
  }

  /** To be looked at only. */
  get pages(): readonly number[] {
    return this.#pages;
  }

  markAll(): void {
    for (let index = 0; index < PAGES; index += 1) this.dirty.add(index);
  }

  /** The pages written since the last scan, which it forgets. */
  scan(): number[] {
    const pages = [...this.dirty].sort((a, b) => a - b);
    this.dirty.clear();
    return pages;
  }
}

/** The blocks of a host's disk: they outlive every process. */
export type Image = number[];

/** A disk of the primary, on the host's image: each write is told. */
export class ForwardedDisk implements Cells {
  readonly #blocks: Image;
  readonly #onWrite: (block: number, value: number) => void;

  constructor(image: Image, onWrite: (block: number, value: number) => void) {
    this.#blocks = image;
    this.#onWrite = onWrite;
  }

  get(index: number): number {
    return this.#blocks[index] as number;
  }

  set(index: number, value: number): void {
    this.#blocks[index] = value;
    this.#onWrite(index, value);
  }
}

/**
 * What is under a layer of the SVM's own changes: RAM cache with private pages, image with overlay.
 */
export class LayeredCells implements Cells {
  readonly #base: number[];
  readonly #own = new Map<number, number>();
  #merged = false;

  /** `base`: what is under the layer, and is written only by way of this one. */
  constructor(base: number[]) {
    this.#base = base;
  }

  get(index: number): number {
    return this.#own.get(index) ?? (this.#base[index] as number);
  }

  set(index: number, value: number): void {
    if (this.#merged) this.#base[index] = value;
    else this.#own.set(index, value);
  }

  base(index: number): number {
    return this.#base[index] as number;
  }

  /** What is under the layer; to be looked at only. */
  get bases(): readonly number[] {
    return this.#base;
  }

  writeBase(index: number, value: number): void {
    this.#base[index] = value;
  }

  dropOwn(): void {
    this.#own.clear();
  }

  /** The own changes become the base, at a failover, and what is written from then on. */
  merge(): void {
    this.#merged = true;
    for (const [index, value] of this.#own) this.#base[index] = value;
    this.#own.clear();
  }
}

/** A disk of the secondary: image, the SVM's overlay, and the PVM's writes by epoch. */
export class BufferedDisk extends LayeredCells {
  readonly #buffers = new Map<number, [number, number][]>();

  buffer(epoch: number, block: number, value: number): void {
    const writes = this.#buffers.get(epoch) ?? [];
    writes.push([block, value]);
    this.#buffers.set(epoch, writes);
  }

  operations(epoch: number): number {
    return this.#buffers.get(epoch)?.length ?? 0;
  }

  /** Puts the writes of `epoch` and older into the image. */
  commit(epoch: number): void {
    for (const buffered of [...this.#buffers.keys()].sort((a, b) => a - b)) {
      if (buffered > epoch) continue;
      for (const [block, value] of this.#buffers.get(buffered) ?? []) this.writeBase(block, value);
      this.#buffers.delete(buffered);
    }
  }

  /** What the image will hold once `epoch` is applied. */
  prospect(epoch: number): number[] {
    const blocks = Array.from({ length: BLOCKS }, (_, index) => this.base(index));
    for (const buffered of [...this.#buffers.keys()].sort((a, b) => a - b)) {
      if (buffered > epoch) continue;
      for (const [block, value] of this.#buffers.get(buffered) ?? []) blocks[block] = value;
    }
    return blocks;
  }

  /** Forgets the writes of epochs newer than `epoch`. */
  dropAfter(epoch: number): void {
    for (const buffered of this.#buffers.keys()) {
      if (buffered > epoch) this.#buffers.delete(buffered);
    }
  }
}

/** A value that travels through the production classes as a batch of one frame. */
class Envelopes<T> {
  readonly #values = new WeakMap<Buffer, T>();

  wrap(value: T): Buffer {
    const batch = encodeBatch([FRAME]);
    this.#values.set(batch, value);
    return batch;
  }

  unwrap(batches: readonly Buffer[]): T[] {
    return batches.map((batch) => this.#values.get(batch) as T);
  }
}

/** The production `OutputGate`, for frames of the model. */
export class Gate {
  readonly #gate = new OutputGate();
  readonly #frames = new Envelopes<Frame>();

  constructor(state: 'silent' | 'open') {
    if (state === 'open') this.#gate.open();
  }

  get state(): GateState {
    return this.#gate.state;
  }

  /** The frames that must leave now. */
  push(frame: Frame): Frame[] {
    return this.#gate.push(this.#frames.wrap(frame)) === 'passed' ? [frame] : [];
  }

  /** A frame of the running epoch that both guests have said: true if it must leave now. */
  confirm(epoch: number): boolean {
    return this.#gate.confirm(epoch, ONE_FRAME) === 'passed';
  }

  /** Frames that were given to it: left, dropped or held. */
  get frames(): number {
    const { heldFrames, releasedFrames, droppedFrames } = this.#gate.counters;
    return heldFrames + releasedFrames + droppedFrames;
  }

  hold(epoch: number): void {
    this.#gate.hold(epoch);
  }

  closeEpoch(epoch: number): void {
    this.#gate.closeEpoch(epoch);
  }

  release(epoch: number): Frame[] {
    return this.#frames.unwrap(this.#gate.release(epoch));
  }

  open(): Frame[] {
    return this.#frames.unwrap(this.#gate.open());
  }

  silence(): void {
    this.#gate.silence();
  }
}

/** The production `InboundLog`, for requests of the model. */
export class Inbound {
  readonly #log = new InboundLog();
  readonly #requests = new Envelopes<Request>();

  push(epoch: number, request: Request, nowUs: number): void {
    this.#log.push(epoch, this.#requests.wrap(request), nowUs);
  }

  mark(epoch: number, nowUs: number, exact: boolean): void {
    this.#log.mark(epoch, nowUs, exact);
  }

  /** The state at the beginning of `epoch` is what a failover continues from. */
  committed(epoch: number): void {
    this.#log.committed(epoch);
  }

  /** The next request to be delivered, if it is of `epochMax` or older. */
  take(epochMax: number): Request | undefined {
    const batch = this.#log.peek(epochMax);
    if (batch === undefined) return undefined;
    this.#log.delivered();
    return this.#requests.unwrap([batch])[0];
  }

  /** The guest has become another, to whom all that is left is to be delivered. */
  rewind(): void {
    this.#log.rewind();
  }
}
