/**
 * Model versions of what stands between a guest and the world: output gate, inbound log, RAM cache,
 * disk overlay and epoch buffer. Same methods as the production classes, plain values instead of
 * buffers, no bounds.
 */
import { assert } from '../../src/lib/index.js';
import { BLOCKS, type Cells, type Frame, PAGES, type Request } from './guest.js';

/** Guest RAM whose written pages are known. */
export class TrackedRam implements Cells {
  readonly #pages: number[] = new Array<number>(PAGES).fill(0);
  readonly dirty = new Set<number>();

  get(index: number): number {
    return this.#pages[index] as number;
  }

  set(index: number, value: number): void {
    this.#pages[index] = value;
    this.dirty.add(index);
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

/** A disk of the primary: each write is told. */
export class ForwardedDisk implements Cells {
  readonly #blocks: number[] = new Array<number>(BLOCKS).fill(0);
  readonly #onWrite: (block: number, value: number) => void;

  constructor(onWrite: (block: number, value: number) => void) {
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

/** What is under a layer of the SVM's own changes: RAM cache with private pages, image with overlay. */
export class LayeredCells implements Cells {
  readonly #base: number[];
  readonly #own = new Map<number, number>();

  constructor(count: number) {
    this.#base = new Array<number>(count).fill(0);
  }

  get(index: number): number {
    return this.#own.get(index) ?? (this.#base[index] as number);
  }

  set(index: number, value: number): void {
    this.#own.set(index, value);
  }

  base(index: number): number {
    return this.#base[index] as number;
  }

  writeBase(index: number, value: number): void {
    this.#base[index] = value;
  }

  dropOwn(): void {
    this.#own.clear();
  }

  /** The own changes become the base, at a failover. */
  merge(): void {
    for (const [index, value] of this.#own) this.#base[index] = value;
    this.#own.clear();
  }
}

/** A disk of the secondary: image, the SVM's overlay, and the PVM's writes by epoch. */
export class BufferedDisk extends LayeredCells {
  readonly #buffers = new Map<number, [number, number][]>();

  constructor() {
    super(BLOCKS);
  }

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

/** Model of the production `OutputGate`. */
export class ModelGate {
  state: 'silent' | 'holding' | 'open';
  #epoch = 0;
  #held: { epoch: number; frame: Frame }[] = [];

  constructor(state: 'silent' | 'open') {
    this.state = state;
  }

  /** The frames that must leave now. */
  push(frame: Frame): Frame[] {
    if (this.state === 'open') return [frame];
    if (this.state === 'holding') this.#held.push({ epoch: this.#epoch, frame });
    return [];
  }

  hold(epoch: number): void {
    assert(epoch >= this.#epoch, `Epoch ${epoch} is held after epoch ${this.#epoch}`);
    this.state = 'holding';
    this.#epoch = epoch;
  }

  closeEpoch(epoch: number): void {
    if (this.state !== 'holding') return;
    assert(epoch === this.#epoch, `Epoch ${epoch} is closed while ${this.#epoch} runs`);
    this.#epoch = epoch + 1;
  }

  release(epoch: number): Frame[] {
    if (this.state !== 'holding') return [];
    assert(epoch < this.#epoch, `I1: epoch ${epoch} is released while ${this.#epoch} still runs`);
    const count = this.#held.findIndex((held) => held.epoch > epoch);
    return this.#held.splice(0, count < 0 ? this.#held.length : count).map((held) => held.frame);
  }

  open(): Frame[] {
    this.state = 'open';
    return this.#held.splice(0).map((held) => held.frame);
  }

  silence(): void {
    this.#held = [];
    this.state = 'silent';
  }
}

/** Model of the production `InboundLog`. */
export class ModelInboundLog {
  #entries: { epoch: number; arrivedUs: number; request: Request }[] = [];
  readonly #marks = new Map<number, number>();
  static readonly #overlapUs = 5_000;

  push(epoch: number, request: Request, nowUs: number): void {
    this.#entries.push({ epoch, arrivedUs: nowUs, request });
    if (this.#entries.length > 256) this.#entries.shift();
  }

  mark(epoch: number, nowUs: number): void {
    this.#marks.set(epoch, nowUs);
  }

  /** The state at the beginning of `epoch` is what a failover continues from. */
  committed(epoch: number): void {
    const markUs = this.#marks.get(epoch);
    if (markUs === undefined) return;
    const keepFromUs = markUs - ModelInboundLog.#overlapUs;
    this.#entries = this.#entries.filter((e) => e.epoch >= epoch || e.arrivedUs >= keepFromUs);
    for (const marked of this.#marks.keys()) if (marked <= epoch) this.#marks.delete(marked);
  }

  remaining(): Request[] {
    return this.#entries.map((entry) => entry.request);
  }
}
