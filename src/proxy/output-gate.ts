/**
 * What the guest says leaves the host only through this gate.
 *
 *     silent    secondary, or no right to speak: output is dropped and counted
 *     holding   protected primary: output is kept until the epoch it belongs to is committed
 *     open      unprotected primary: output passes at once
 *
 * Epoch N is what runs between checkpoint N and N+1. Output is labelled with the epoch running
 * when it was read; `closeEpoch(N)` is called with the guest paused and QEMU's socket drained, so
 * everything queued until then is of epoch N or older. When checkpoint N+1 is committed, the
 * secondary can continue from the state that implies this output, and `release(N)` hands it out.
 * A checkpoint that failed leaves its output queued; the next release covers it.
 *
 * Invariant I1: no output leaves before its commit. `release` asserts that the epoch is closed, and
 * stops at the first batch that is newer. Order is kept, and nothing held is lost but by `silence`.
 *
 * The gate never refuses output: `overBound` asks for a checkpoint, `full` asks the shell to stop
 * reading from QEMU.
 */
import { assert } from '../lib/index.js';
import { countFrames } from './batch-wire.js';
import { HELD_BYTES_HARD, HELD_BYTES_SOFT, HELD_FRAMES_HARD, HELD_FRAMES_SOFT } from './limits.js';

export type GateState = 'silent' | 'holding' | 'open';

/** What happened to a pushed batch. `passed`: the caller must send it now. */
export type GateVerdict = 'held' | 'passed' | 'dropped';

/** Bounds of the held output; see limits.ts for the defaults and their reasons. */
export interface GateLimits {
  readonly softBytes: number;
  readonly softFrames: number;
  readonly hardBytes: number;
  readonly hardFrames: number;
}

/** Since the gate was made, except `held*`, which is now. */
export interface GateCounters {
  readonly heldFrames: number;
  readonly heldBytes: number;
  readonly releasedFrames: number;
  readonly releasedBytes: number;
  readonly droppedFrames: number;
  readonly droppedBytes: number;
}

interface HeldBatch {
  readonly epoch: number;
  readonly batch: Buffer;
  readonly frames: number;
}

const DEFAULT_LIMITS: GateLimits = {
  softBytes: HELD_BYTES_SOFT,
  softFrames: HELD_FRAMES_SOFT,
  hardBytes: HELD_BYTES_HARD,
  hardFrames: HELD_FRAMES_HARD,
};

/** Starts silent: who may speak is decided elsewhere, and in doubt the answer is no. */
export class OutputGate {
  readonly #limits: GateLimits;
  #state: GateState = 'silent';
  #epoch = 0;
  #held: HeldBatch[] = [];
  #heldFrames = 0;
  #heldBytes = 0;
  #releasedFrames = 0;
  #releasedBytes = 0;
  #droppedFrames = 0;
  #droppedBytes = 0;

  constructor(limits: GateLimits = DEFAULT_LIMITS) {
    this.#limits = limits;
  }

  get state(): GateState {
    return this.#state;
  }

  /** The epoch that output pushed now would belong to. */
  get epoch(): number {
    return this.#epoch;
  }

  /** So much is held that a checkpoint is due. */
  get overBound(): boolean {
    return this.#heldBytes > this.#limits.softBytes || this.#heldFrames > this.#limits.softFrames;
  }

  /** So much is held that no more should be read from QEMU. */
  get full(): boolean {
    return this.#heldBytes >= this.#limits.hardBytes || this.#heldFrames >= this.#limits.hardFrames;
  }

  get counters(): GateCounters {
    return {
      heldFrames: this.#heldFrames,
      heldBytes: this.#heldBytes,
      releasedFrames: this.#releasedFrames,
      releasedBytes: this.#releasedBytes,
      droppedFrames: this.#droppedFrames,
      droppedBytes: this.#droppedBytes,
    };
  }

  /** Takes a batch that the guest emitted. The gate keeps it by reference while it is held. */
  push(batch: Buffer): GateVerdict {
    const frames = countFrames(batch);
    switch (this.#state) {
      case 'silent':
        this.#countDropped(batch, frames);
        return 'dropped';
      case 'open':
        this.#countReleased(batch, frames);
        return 'passed';
      case 'holding':
        this.#held.push({ epoch: this.#epoch, batch, frames });
        this.#heldFrames += frames;
        this.#heldBytes += batch.length;
        return 'held';
    }
  }

  /**
   * A batch of the running `epoch` that the secondary guest has said too: its running state implies
   * it, as long as no newer checkpoint replaces that state (I1). Not kept, never held.
   */
  confirm(epoch: number, batch: Buffer): 'passed' | 'dropped' {
    const frames = countFrames(batch);
    if (this.#state === 'silent') {
      this.#countDropped(batch, frames);
      return 'dropped';
    }
    const running = this.#state === 'open' || epoch === this.#epoch;
    assert(running, `I1: output of epoch ${epoch} is confirmed while ${this.#epoch} runs`);
    this.#countReleased(batch, frames);
    return 'passed';
  }

  /** Holds from now on; `epoch` is the running one and never lower than any before (I5). */
  hold(epoch: number): void {
    assert(epoch >= this.#epoch, `Epoch ${epoch} is held after epoch ${this.#epoch}`);
    this.#state = 'holding';
    this.#epoch = epoch;
  }

  /**
   * Epoch `epoch` has ended: what comes from now on belongs to the next. Without effect unless
   * holding, so that a secondary lost in the middle of a pause needs no special case.
   */
  closeEpoch(epoch: number): void {
    if (this.#state !== 'holding') return;
    assert(epoch === this.#epoch, `Epoch ${epoch} is closed while ${this.#epoch} runs`);
    this.#epoch = epoch + 1;
  }

  /** Checkpoint `epoch` + 1 is committed: the output of `epoch` and older, in order, to be sent. */
  release(epoch: number): Buffer[] {
    if (this.#state !== 'holding') return [];
    assert(epoch < this.#epoch, `I1: epoch ${epoch} is released while ${this.#epoch} still runs`);
    let count = 0;
    for (const held of this.#held) {
      if (held.epoch > epoch) break;
      count++;
    }
    return this.#takeHeld(count);
  }

  /**
   * No failover can contradict this guest any more: everything held, to be sent, and no holding.
   */
  open(): Buffer[] {
    this.#state = 'open';
    return this.#takeHeld(this.#held.length);
  }

  /** The right to speak is gone: drops what is held. */
  silence(): void {
    for (const { batch, frames } of this.#held) this.#countDropped(batch, frames);
    this.#held = [];
    this.#heldFrames = 0;
    this.#heldBytes = 0;
    this.#state = 'silent';
  }

  #takeHeld(count: number): Buffer[] {
    const taken = this.#held.slice(0, count);
    this.#held = this.#held.slice(count);
    for (const { batch, frames } of taken) {
      this.#heldFrames -= frames;
      this.#heldBytes -= batch.length;
      this.#countReleased(batch, frames);
    }
    return taken.map((held) => held.batch);
  }

  #countReleased(batch: Buffer, frames: number): void {
    this.#releasedFrames += frames;
    this.#releasedBytes += batch.length;
  }

  #countDropped(batch: Buffer, frames: number): void {
    this.#droppedFrames += frames;
    this.#droppedBytes += batch.length;
  }
}
