/**
 * Compares one disk with the secondary's image for a committed epoch, while the guest runs.
 *
 * At the epoch's edge, in the pause, `beginPass` starts to note every cluster that is written from
 * then on. Any other cluster is on both hosts what it was at the edge: here because nobody wrote
 * it, there because only a later write of it could have changed it. Clusters that were written are
 * left to a later pass with another edge. A target that has not applied the epoch yet answers when
 * it has.
 */

import { assert, ProtocolError } from '../../lib/index.js';
import type { ByteRange } from '../block-layer-shell.js';
import { DirtyBitmap } from '../dirty-bitmap.js';
import type { WriteMarks } from '../generation/change-map.js';
import { VERIFY_PASSES_MAX, VERIFY_RANGES_MAX } from '../limits.js';
import { clusterCount, rangeOfRun } from './clusters.js';
import {
  type ClusterVerdict,
  type ComparedDisk,
  Comparer,
  type ResyncLink,
} from './comparer-shell.js';
import type { DigestAnswer } from './resync-wire.js';

/** What is needed of a ReplicatedDisk that forwards. */
export interface VerifiedDisk extends ComparedDisk {
  watchWrites(watch: WriteMarks | undefined): void;
  markDirty(range: ByteRange): void;
}

export interface VerifierOptions {
  readonly index: number;
  readonly disk: VerifiedDisk;
  readonly link: ResyncLink;
}

export interface VerifyResult {
  readonly passes: number;
  /** Of the whole disk, a count; so are the following ones. */
  readonly clusters: number;
  readonly equal: number;
  readonly differing: number;
  /** Where they are: ascending, whole clusters, neighbours joined. The first 1024 ranges. */
  readonly differingRanges: readonly ByteRange[];
  /** Clusters that were written during every pass so far, or not reached yet. */
  readonly notCompared: number;
}

export class DiskVerifier {
  readonly #options: VerifierOptions;
  readonly #written: DirtyBitmap;
  readonly #differing: DirtyBitmap;
  #left: DirtyBitmap;
  #comparer: Comparer | undefined;
  #passes = 0;
  #firstRequest = 0;
  #equal = 0;
  #failure: Error | undefined;

  constructor(options: VerifierOptions) {
    this.#options = options;
    const { sizeBytes } = options.disk;
    this.#written = new DirtyBitmap(sizeBytes);
    this.#differing = new DirtyBitmap(sizeBytes);
    this.#left = new DirtyBitmap(sizeBytes);
    this.#left.mark(0, sizeBytes);
  }

  /** There is something left to compare, and another pass may do it. */
  get wantsPass(): boolean {
    return this.#left.dirtyClusters > 0 && this.#passes < VERIFY_PASSES_MAX;
  }

  get result(): VerifyResult {
    const clusters = clusterCount(this.#options.disk.sizeBytes);
    const equal = this.#equal;
    const differing = this.#differing.dirtyClusters;
    const differingRanges: ByteRange[] = [];
    for (const range of this.#differing.ranges()) {
      if (differingRanges.length === VERIFY_RANGES_MAX) break;
      differingRanges.push(range);
    }
    const notCompared = clusters - equal - differing;
    return { passes: this.#passes, clusters, equal, differing, differingRanges, notCompared };
  }

  /** `epoch` ends now: the guest is paused and no write is in progress. `run` follows. */
  beginPass(epoch: number): void {
    const { index, disk, link } = this.#options;
    this.#passes += 1;
    this.#written.clear();
    disk.watchWrites(this.#written);
    const candidates = this.#left;
    this.#left = new DirtyBitmap(disk.sizeBytes);
    this.#comparer = new Comparer({
      index,
      disk,
      link,
      candidates,
      epoch,
      firstRequest: this.#firstRequest,
      exact: true,
      skip: (cluster) => this.#written.isDirty(cluster),
      onVerdict: (cluster, verdict) => this.#judged(cluster, verdict),
    });
    if (this.#failure !== undefined) this.#comparer.fail(this.#failure);
  }

  /** Resolves at the end of the pass; rejects when the link or the disk failed. */
  async run(): Promise<void> {
    const comparer = this.#comparer;
    assert(comparer !== undefined, 'No pass of the verification has begun');
    try {
      await comparer.run();
    } finally {
      this.#options.disk.watchWrites(undefined);
      this.#firstRequest = comparer.nextRequest;
    }
  }

  /** Throws ProtocolError when nobody asked for it. */
  onMessage(answer: DigestAnswer): void {
    if (this.#comparer === undefined) throw new ProtocolError('Nobody asked for digests');
    this.#comparer.onAnswer(answer);
  }

  /** The session is over. */
  fail(error: Error): void {
    this.#failure ??= error;
    this.#comparer?.fail(error);
  }

  /**
   * Marks what differs, so that the caller sends it as writes of the next epoch in a pause. Returns
   * its size, bytes.
   */
  repair(): number {
    let bytes = 0;
    for (const range of this.#differing.ranges()) {
      this.#options.disk.markDirty(range);
      bytes += range.length;
    }
    return bytes;
  }

  #judged(cluster: number, verdict: ClusterVerdict): void {
    if (verdict === 'equal') {
      this.#equal += 1;
      return;
    }
    const { offset, length } = rangeOfRun(
      { first: cluster, count: 1 },
      this.#options.disk.sizeBytes,
    );
    const bitmap = verdict === 'differing' ? this.#differing : this.#left;
    bitmap.mark(offset, length);
  }
}
