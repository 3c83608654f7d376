/**
 * Takes the RAM stream of a session into the staging area, and at commit into the RAM cache.
 *
 * In: frames of the RAM link. Out: `ramStaged` once an epoch's stream has ended. Until the first
 * commit nothing can be promoted, so pages go straight to the RAM file; afterwards they wait in the
 * staging area until `apply`, and a torn epoch is forgotten as a whole (I2).
 *
 * Between the end of an epoch and its `apply` or `drop` the link is paused: the next epoch's pages
 * may already be on their way, and the staging area holds one epoch.
 *
 * A RAM file that is not empty is one that the primary compares: it asks for digests and sends what
 * differs, pages of zeroes included.
 */
import { setImmediate } from 'node:timers/promises';
import type { Emulator, StagingArea } from '../emulator/index.js';
import { assert, PAGE_SIZE_BYTES, ProtocolError } from '../lib/index.js';
import { decodeRam, RamDigest, type RamMessage } from '../replication/index.js';
import { type Frame, type Link, payloadCrc } from '../transport/index.js';
import { APPLY_BYTES_PER_TURN, APPLY_CHUNK_BYTES } from './limits.js';
import { PageSet } from './page-set.js';
import type { RamDigests } from './ram-digests-shell.js';
import type { StagedRam } from './staging.js';

const ZERO_PAGE = Buffer.alloc(PAGE_SIZE_BYTES);

/** The receiver of one session. */
export class RamReceiver {
  readonly #link: Link;
  readonly #emulator: Emulator;
  readonly #staging: StagingArea;
  readonly #onStaged: (ram: StagedRam) => void;
  readonly #digests: Pick<RamDigests, 'wanted' | 'isComplete'> | undefined;
  readonly #staged: PageSet;
  #direct = true;
  #digest = new RamDigest();
  #frames = 0;
  #pages = 0;
  #epoch: number | undefined;
  #deviceState: Buffer | undefined;
  #verifyDigest: number | undefined;

  constructor(options: {
    link: Link;
    emulator: Emulator;
    staging: StagingArea;
    onStaged: (ram: StagedRam) => void;
    /** If the primary may ask for them. */
    digests?: Pick<RamDigests, 'wanted' | 'isComplete'> | undefined;
  }) {
    this.#digests = options.digests;
    this.#link = options.link;
    this.#emulator = options.emulator;
    this.#staging = options.staging;
    this.#onStaged = options.onStaged;
    this.#staged = new PageSet(options.emulator.ram.sizeBytes / PAGE_SIZE_BYTES);
    this.#link.onFrame((frame) => this.#onFrame(frame));
  }

  /** The device state of the epoch whose stream has ended. */
  get deviceState(): Buffer {
    if (this.#deviceState === undefined) throw new ProtocolError('No device state is staged');
    return this.#deviceState;
  }

  /** The primary's digest of all guest RAM, in a `--verify` run. */
  get verifyDigest(): number | undefined {
    return this.#verifyDigest;
  }

  /**
   * Writes the staged pages into the RAM file. The SVM is paused; private copies still hide them.
   */
  async apply(): Promise<void> {
    let appliedBytes = 0;
    for (const { offset, length } of this.#staged.ranges(APPLY_CHUNK_BYTES)) {
      const bytes = this.#staging.view(offset, length);
      assert(bytes !== undefined, `Pages at ${offset} cross a window of the staging area`);
      this.#emulator.ram.writeFile(offset, bytes);
      appliedBytes += length;
      if (appliedBytes >= APPLY_BYTES_PER_TURN) {
        appliedBytes = 0;
        await setImmediate();
      }
    }
  }

  /** The epoch is applied, or dropped: makes room for the next and lets it in. */
  next(): void {
    this.#staged.clear();
    this.#staging.discard();
    this.#direct = false;
    this.#digest = new RamDigest();
    this.#frames = 0;
    this.#pages = 0;
    this.#epoch = undefined;
    this.#deviceState = undefined;
    this.#verifyDigest = undefined;
    this.#link.resume();
  }

  #onFrame(frame: Frame): void {
    const { sizeBytes } = this.#emulator.ram;
    const message = decodeRam(frame.type, frame.payload, sizeBytes);
    this.#epoch ??= message.epoch;
    if (message.epoch !== this.#epoch) {
      throw new ProtocolError(`RAM of epoch ${message.epoch} inside of epoch ${this.#epoch}`);
    }
    switch (message.kind) {
      case 'ramPages':
        this.#digest.add(payloadCrc(frame));
        this.#stage(message);
        return;
      case 'digestsWanted':
        if (this.#digests === undefined || !this.#direct) {
          throw new ProtocolError('Digests are wanted that nobody has offered');
        }
        this.#digests.wanted(message);
        return;
      case 'deviceState':
        if (this.#deviceState !== undefined) throw new ProtocolError('A second device state came');
        this.#deviceState = message.bytes;
        return;
      case 'ramEnd':
        // What was in the RAM file before would be left where nothing was compared.
        if (this.#direct && this.#digests?.isComplete === false) {
          throw new ProtocolError('The RAM of this host was not compared');
        }
        this.#verifyDigest = message.verifyDigest;
        this.#link.pause();
        this.#onStaged({
          epoch: message.epoch,
          frames: this.#frames,
          pages: this.#pages,
          digest: this.#digest.value,
          deviceStateBytes: this.#deviceState?.length ?? 0,
        });
        return;
    }
  }

  #stage(message: Extract<RamMessage, { kind: 'ramPages' }>): void {
    this.#frames += 1;
    for (const { offset, length, data } of message.runs) {
      this.#pages += length / PAGE_SIZE_BYTES;
      if (data !== undefined) this.#write(offset, data);
      else {
        for (let at = offset; at < offset + length; at += PAGE_SIZE_BYTES) this.#writeZero(at);
      }
    }
  }

  #write(offset: number, data: Buffer): void {
    if (this.#direct) {
      this.#emulator.ram.writeFile(offset, data);
      return;
    }
    this.#staging.write(offset, data);
    this.#staged.add({ offset, length: data.length });
  }

  #writeZero(offset: number): void {
    this.#write(offset, ZERO_PAGE);
  }
}
