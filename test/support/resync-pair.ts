/**
 * A source and a target of disk messages, joined by a link that may break after any message.
 * Everything crosses as bytes, encoded and decoded, one message per turn of the event loop.
 */
import { setImmediate as turn } from 'node:timers/promises';
import {
  decodeDiskMessage,
  decodeResyncMessage,
  isResyncType,
  type ResyncLink,
  type ResyncMessage,
  ResyncTarget,
  type ResyncTargetDisk,
  type ResyncTargetOptions,
} from '../../src/blockrep/index.js';
import type { SparseDisk } from './sparse-disk.js';

interface Parcel {
  readonly type: number;
  readonly payload: Buffer;
}

/** One direction. */
class Wire implements ResyncLink {
  readonly #deliver: (parcel: Parcel) => Promise<void>;
  readonly #onBroken: (error: Error) => void;
  readonly #isAlive: () => boolean;
  #work: Promise<void> = Promise.resolve();

  constructor(options: {
    deliver: (parcel: Parcel) => Promise<void>;
    onBroken: (error: Error) => void;
    isAlive: () => boolean;
  }) {
    this.#deliver = options.deliver;
    this.#onBroken = options.onBroken;
    this.#isAlive = options.isAlive;
  }

  send(type: number, parts: readonly Buffer[]): void {
    if (!this.#isAlive()) return;
    const parcel = { type, payload: Buffer.concat(parts) };
    this.#work = this.#work.then(async () => {
      await turn();
      if (!this.#isAlive()) return;
      await this.#deliver(parcel).catch((error: Error) => this.#onBroken(error));
    });
  }

  async drained(): Promise<void> {
    await this.#work;
    if (!this.#isAlive()) throw new Error('The link is broken');
  }

  /** Everything sent so far has been taken. */
  async idle(): Promise<void> {
    await this.#work;
  }
}

/** One session between a source, which listens with `onMessage`, and a target. */
export class ResyncPair {
  readonly target: ResyncTarget;
  readonly toTarget: Wire;
  readonly toSource: Wire;
  /** Data bytes and clusters that crossed to the target. */
  syncBytes = 0;
  requested: number[] = [];
  failure: Error | undefined;
  onMessage: (message: ResyncMessage) => void = () => undefined;
  onFailure: (error: Error) => void = () => undefined;
  /** Called as each message arrives, with how many have. */
  onDelivery: () => void = () => undefined;
  #messagesLeft: number;

  constructor(options: {
    disk: SparseDisk | ResyncTargetDisk;
    changed: ResyncTargetOptions['changed'];
    /** The link breaks after so many messages. */
    messages?: number;
  }) {
    const { disk, changed } = options;
    this.#messagesLeft = options.messages ?? Number.POSITIVE_INFINITY;
    const isAlive = () => this.failure === undefined;
    const onBroken = (error: Error) => this.break(error);
    this.toTarget = new Wire({ deliver: (parcel) => this.#toTarget(parcel), onBroken, isAlive });
    this.toSource = new Wire({ deliver: (parcel) => this.#toSource(parcel), onBroken, isAlive });
    this.target = new ResyncTarget({
      index: 0,
      disk: 'readImage' in disk ? disk : targetOf(disk),
      link: this.toSource,
      changed,
      onFailure: (reason) => this.break(new Error(reason)),
    });
  }

  break(error: Error): void {
    if (this.failure !== undefined) return;
    this.failure = error;
    this.onFailure(error);
  }

  /** Nothing of the session happens after it. */
  async end(): Promise<void> {
    this.failure ??= new Error('The session is over');
    await Promise.all([this.target.stop(), this.toTarget.idle(), this.toSource.idle()]);
  }

  #count(): boolean {
    this.onDelivery();
    this.#messagesLeft -= 1;
    if (this.#messagesLeft >= 0) return true;
    this.break(new Error('The link broke'));
    return false;
  }

  async #toTarget({ type, payload }: Parcel): Promise<void> {
    if (!this.#count()) return;
    if (isResyncType(type)) {
      const message = decodeResyncMessage(type, payload);
      if (message.kind !== 'digestRequest') throw new Error(`A target was sent ${message.kind}`);
      for (const { first, count } of message.runs) {
        for (let i = 0; i < count; i++) this.requested.push(first + i);
      }
      this.target.request(message);
      return;
    }
    const message = decodeDiskMessage(type, payload);
    if (message.kind !== 'sync' && message.kind !== 'syncZero') throw new Error(message.kind);
    if (message.kind === 'sync') this.syncBytes += message.data.length;
    await this.target.sync(message);
  }

  async #toSource({ type, payload }: Parcel): Promise<void> {
    if (this.#count()) this.onMessage(decodeResyncMessage(type, payload));
  }
}

function targetOf(disk: SparseDisk): ResyncTargetDisk {
  return {
    sizeBytes: disk.sizeBytes,
    readImage: (offset, length) => disk.read(offset, length),
    imageRanges: () => disk.dataRanges(),
    syncWrite: (offset, data) => disk.write(offset, data),
    syncZero: (offset, length) => disk.writeZeroes(offset, length),
  };
}
