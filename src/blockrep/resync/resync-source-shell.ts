/**
 * The source of a resynchronisation of one disk: first synchronisation, way back, and what a broken
 * link left, all in one way.
 *
 *   1. The disk tracks the guest's writes before anything is looked at.
 *   2. Candidates: all clusters, or what either host changed since the last common epoch.
 *   3. Candidates are compared by digests; what differs is marked beside what the guest writes.
 *   4. Marked clusters are read and sent (`sync`, zeroes as `syncZero`), at most at the rate, until
 *      the caller finds little enough left to take the rest in a pause.
 *
 * A resynchronisation that was broken simply starts again: what had arrived is equal by then.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { ProtocolError } from '../../lib/index.js';
import { monotonicUs } from '../../linux/index.js';
import type { ByteRange } from '../block-layer-shell.js';
import { DirtyBitmap } from '../dirty-bitmap.js';
import { type DiskMessage, encodeDiskMessage } from '../disk-wire.js';
import { DIGEST_ANSWER_MS_MAX, DISK_DATA_BYTES_MAX, RESYNC_TAKE_CLUSTERS } from '../limits.js';
import { Candidates } from './candidates.js';
import { rangeOfRun, splitZeroes } from './clusters.js';
import { type ComparedDisk, Comparer, type ResyncLink } from './comparer-shell.js';
import { Mailbox } from './mailbox-shell.js';
import { type ResyncProgress, remainingUs } from './progress.js';
import type { ChangedMessage, DigestAnswer } from './resync-wire.js';
import { TokenBucket } from './token-bucket.js';

/** What is needed of a ReplicatedDisk. */
export interface ResyncDisk extends ComparedDisk {
  readonly dirtyBytes: number;
  isDirty(cluster: number): boolean;
  markDirty(range: ByteRange): void;
  takeDirty(maxClusters: number): ByteRange[];
}

/** The bandwidth limit of one session, shared by its disks. */
export class RateLimit {
  readonly bytesPerSecond: number;
  readonly #bucket: TokenBucket;

  constructor(bytesPerSecond: number) {
    this.bytesPerSecond = bytesPerSecond;
    this.#bucket = new TokenBucket(bytesPerSecond, monotonicUs());
  }

  /** Resolves when the bytes may be sent. */
  async take(bytes: number): Promise<void> {
    const waitUs = this.#bucket.take(bytes, monotonicUs());
    if (waitUs > 0) await delay(Math.ceil(waitUs / 1000));
  }
}

export interface ResyncSourceOptions {
  /** The disk's number in the machine definition. */
  readonly index: number;
  /** Tracks already; its bitmap is empty, or has what is to be sent in any case. */
  readonly disk: ResyncDisk;
  readonly link: ResyncLink;
  /** The verdict: compare all clusters, or only what changed. */
  readonly all: boolean;
  /** What this host changed since the last common epoch: its change map's ranges. */
  readonly changed: Iterable<ByteRange>;
  readonly rate?: RateLimit;
}

export class ResyncSource {
  readonly #options: ResyncSourceOptions;
  readonly #candidates: Candidates;
  readonly #comparer: Comparer;
  /** The last one of `stored`. */
  #barrier: Comparer | undefined;
  readonly #complete = new Mailbox<true>(DIGEST_ANSWER_MS_MAX);
  #phase: ResyncProgress['phase'] = 'waiting';
  #candidateClusters = 0;
  #differing = 0;
  #sentBytes = 0;
  #sentRanges = 0;
  #sinceUs = monotonicUs();

  constructor(options: ResyncSourceOptions) {
    this.#options = options;
    const { disk, index, link, all, changed } = options;
    this.#candidates = new Candidates({ sizeBytes: disk.sizeBytes, all, own: changed });
    this.#comparer = new Comparer({
      index,
      disk,
      link,
      candidates: this.#candidates.bitmap,
      epoch: 0,
      firstRequest: 0,
      exact: false,
      // It will be sent anyway.
      skip: (cluster) => disk.isDirty(cluster),
      onVerdict: (cluster, verdict) => {
        if (verdict !== 'differing') return;
        this.#differing += 1;
        disk.markDirty(rangeOfRun({ first: cluster, count: 1 }, disk.sizeBytes));
      },
    });
  }

  get progress(): ResyncProgress {
    const us = this.#remainingUs();
    return {
      phase: this.#phase,
      candidates: this.#candidateClusters,
      compared: this.#comparer.compared,
      differing: this.#differing,
      sentBytes: this.#sentBytes,
      leftBytes: this.#options.disk.dirtyBytes,
      remainingS: us === undefined ? undefined : Math.ceil(us / 1e6),
    };
  }

  /** Throws ProtocolError for what the target may not say. */
  onMessage(message: ChangedMessage | DigestAnswer): void {
    if (message.kind === 'digests') {
      (this.#barrier ?? this.#comparer).onAnswer(message);
      return;
    }
    if (this.#phase !== 'waiting') {
      throw new ProtocolError('Changed clusters came after the last ones');
    }
    this.#candidates.changed(message);
    if (this.#candidates.isComplete) this.#complete.push(true);
  }

  /** The session is over: a pass that waits rejects with this. */
  fail(error: Error): void {
    this.#complete.fail(error);
    this.#comparer.fail(error);
    this.#barrier?.fail(error);
  }

  /**
   * Sends what is marked now; the first pass finds that out. Resolves to what the guest has written
   * meanwhile, bytes: call again until it is little, or does not shrink. One at a time. Rejects
   * when the link ended, the disk failed, or the target broke the protocol.
   */
  async pass(): Promise<number> {
    const { disk } = this.#options;
    if (this.#phase === 'waiting') await this.#compare();
    for (let left = disk.dirtyBytes; left > 0; ) {
      const ranges = disk.takeDirty(RESYNC_TAKE_CLUSTERS);
      if (ranges.length === 0) break;
      for (const range of ranges) {
        await this.#send(range);
        left -= range.length;
      }
    }
    this.#setPhase('following');
    return disk.dirtyBytes;
  }

  /**
   * What was sent so far is durable at the target when it resolves: it answers a request for
   * digests that comes behind it only then. Any cluster will do.
   */
  async stored(): Promise<void> {
    const { disk, index, link } = this.#options;
    const candidates = new DirtyBitmap(disk.sizeBytes);
    candidates.mark(0, 1);
    const { nextRequest: firstRequest } = this.#barrier ?? this.#comparer;
    this.#barrier = new Comparer({
      ...{ index, disk, link, candidates, epoch: 0, firstRequest, exact: false },
      skip: () => true,
      onVerdict: () => undefined,
    });
    await this.#barrier.run();
  }

  async #compare(): Promise<void> {
    await this.#complete.next('what it has changed');
    this.#candidateClusters = this.#candidates.bitmap.dirtyClusters;
    this.#setPhase('comparing');
    await this.#comparer.run();
    this.#setPhase('sending');
  }

  async #send({ offset, length }: ByteRange): Promise<void> {
    const { disk } = this.#options;
    const end = offset + length;
    for (let at = offset; at < end; at += DISK_DATA_BYTES_MAX) {
      const data = await disk.read(at, Math.min(DISK_DATA_BYTES_MAX, end - at));
      for (const piece of splitZeroes(data)) {
        const from = at + piece.offset;
        const bytes = data.subarray(piece.offset, piece.offset + piece.length);
        await (piece.zero ? this.#sendZeroes(from, piece.length) : this.#sendData(from, bytes));
        this.#sentRanges += piece.length;
      }
    }
  }

  async #sendData(offset: number, data: Buffer): Promise<void> {
    await this.#options.rate?.take(data.length);
    this.#sentBytes += data.length;
    await this.#message({ kind: 'sync', disk: this.#options.index, offset, data });
  }

  #sendZeroes(offset: number, length: number): Promise<void> {
    return this.#message({ kind: 'syncZero', disk: this.#options.index, offset, length });
  }

  #message(message: DiskMessage): Promise<void> {
    const { link } = this.#options;
    const { type, parts } = encodeDiskMessage(message);
    link.send(type, parts);
    return link.drained();
  }

  #setPhase(phase: ResyncProgress['phase']): void {
    if (this.#phase === phase) return;
    this.#phase = phase;
    this.#sinceUs = monotonicUs();
  }

  #remainingUs(): number | undefined {
    const { disk, rate } = this.#options;
    const sinceUs = this.#sinceUs;
    const nowUs = monotonicUs();
    const bytesPerUs = rate === undefined ? undefined : rate.bytesPerSecond / 1e6;
    if (this.#phase === 'waiting') return undefined;
    if (this.#phase !== 'comparing') {
      return remainingUs(
        { done: this.#sentRanges, left: disk.dirtyBytes, sinceUs },
        nowUs,
        bytesPerUs,
      );
    }
    const done = this.#comparer.compared;
    const comparing = remainingUs({ done, left: this.#candidateClusters - done, sinceUs }, nowUs);
    // What was found so far is sent afterwards, at the limit if there is one.
    const sending = bytesPerUs === undefined ? 0 : disk.dirtyBytes / bytesPerUs;
    return comparing === undefined ? undefined : comparing + sending;
  }
}
