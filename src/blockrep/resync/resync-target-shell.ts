/**
 * The target of resynchronisations and verifications of one disk.
 *
 * In: the messages `sync`, `syncZero` and `digestRequest` of one session, in their order, and the
 * epochs that are applied. Out: `changed` at the start, `digests` in the order of the requests.
 * Digests are computed beside the stream of writes, so that a verification holds up no checkpoint.
 */
import { describeError, ProtocolError } from '../../lib/index.js';
import type { ByteRange } from '../block-layer-shell.js';
import type { DirtyBitmap } from '../dirty-bitmap.js';
import type { DiskMessage } from '../disk-wire.js';
import {
  CHANGED_RUNS_MAX,
  DIGEST_CLUSTERS_IN_FLIGHT_MAX,
  DIGEST_READ_CLUSTERS,
  DIRTY_CLUSTER_BYTES,
} from '../limits.js';
import { checkRun, isZero, rangeOfRun, runOfRange } from './clusters.js';
import type { ResyncLink } from './comparer-shell.js';
import { clusterDigest, dataClusters } from './digest-shell.js';
import { clustersOf } from './digest-window.js';
import {
  type ClusterRun,
  type DigestPiece,
  type DigestRequest,
  encodeResyncMessage,
  type ResyncMessage,
} from './resync-wire.js';

/** What is needed of a SecondaryDisk: its image, below the overlay. */
export interface ResyncTargetDisk {
  readonly sizeBytes: number;
  readImage(offset: number, length: number): Promise<Buffer>;
  /** Ranges of the image that are no holes. */
  imageRanges(): ByteRange[];
  syncWrite(offset: number, data: Buffer): Promise<void>;
  syncZero(offset: number, length: number): Promise<void>;
}

export interface ResyncTargetOptions {
  readonly index: number;
  readonly disk: ResyncTargetDisk;
  readonly link: ResyncLink;
  /** What this host changed itself since the last common epoch, and whether that is all. */
  readonly changed: { readonly trusted: boolean; readonly ranges: Iterable<ByteRange> };
  /** Digests can't be told: the image or the link failed. Once. */
  onFailure(reason: string): void;
}

type SyncMessage = Extract<DiskMessage, { kind: 'sync' | 'syncZero' }>;

export class ResyncTarget {
  readonly #options: ResyncTargetOptions;
  /** Requests that are not answered yet, in order. */
  readonly #held: DigestRequest[] = [];
  #heldClusters = 0;
  #appliedEpoch = 0;
  #answering: Promise<void> | undefined;
  #stopped = false;
  /** Clusters of the image with data, as of the epoch that is being looked at. */
  #data: { readonly epoch: number; readonly clusters: DirtyBitmap } | undefined;

  constructor(options: ResyncTargetOptions) {
    this.#options = options;
  }

  /** Tells the source what this host has changed. To be called once, before anything else. */
  async announce(): Promise<void> {
    const { changed, index } = this.#options;
    const { trusted } = changed;
    let runs: ClusterRun[] = [];
    for (const range of trusted ? changed.ranges : []) {
      if (runs.length === CHANGED_RUNS_MAX) {
        await this.#send({ kind: 'changed', disk: index, last: false, trusted, runs });
        runs = [];
      }
      runs.push(runOfRange(range));
    }
    await this.#send({ kind: 'changed', disk: index, last: true, trusted, runs });
  }

  /** Resolves when it is in the image. Throws ProtocolError for a range outside of the disk. */
  async sync(message: SyncMessage): Promise<void> {
    const { disk } = this.#options;
    if (message.kind === 'sync') {
      // Before: digests that are computed meanwhile must not take it for a hole.
      this.#data?.clusters.mark(message.offset, message.data.length);
      await disk.syncWrite(message.offset, message.data);
    } else {
      await disk.syncZero(message.offset, message.length);
    }
  }

  /** Answers as soon as its epoch has been applied. Throws ProtocolError when it asks too much. */
  request(message: DigestRequest): void {
    for (const run of message.runs) checkRun(run, this.#options.disk.sizeBytes);
    this.#heldClusters += clustersOf(message.runs);
    if (this.#heldClusters > DIGEST_CLUSTERS_IN_FLIGHT_MAX) {
      throw new ProtocolError(
        `Digests of ${this.#heldClusters} clusters are asked for at once, ` +
          `more than ${DIGEST_CLUSTERS_IN_FLIGHT_MAX}`,
      );
    }
    this.#held.push(message);
    this.#answerHeld();
  }

  /** The image has this epoch now. */
  applied(epoch: number): void {
    this.#appliedEpoch = Math.max(this.#appliedEpoch, epoch);
    this.#answerHeld();
  }

  /** The session is over; resolves when the image is not read any more. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#answering;
  }

  #answerHeld(): void {
    if (!this.#canAnswer()) return;
    this.#answering ??= this.#answerAll()
      .catch((error) => {
        // A link that ended is told by the link.
        if (!this.#stopped) this.#options.onFailure(`No digests: ${describeError(error)}`);
        this.#stopped = true;
      })
      .finally(() => {
        this.#answering = undefined;
        // It may have become possible after the last look.
        if (this.#canAnswer()) this.#answerHeld();
      });
  }

  #canAnswer(): boolean {
    const epoch = this.#held[0]?.epoch;
    return !this.#stopped && epoch !== undefined && epoch <= this.#appliedEpoch;
  }

  async #answerAll(): Promise<void> {
    for (;;) {
      const request = this.#held[0];
      if (request === undefined || !this.#canAnswer()) return;
      const pieces = await this.#digest(request);
      this.#held.shift();
      this.#heldClusters -= clustersOf(request.runs);
      const { index: disk } = this.#options;
      await this.#send({ kind: 'digests', disk, request: request.request, pieces });
    }
  }

  async #digest({ epoch, runs }: DigestRequest): Promise<DigestPiece[]> {
    const { disk } = this.#options;
    // What is written from now on is marked, or belongs to an epoch that the source skips.
    if (this.#data?.epoch !== epoch) {
      this.#data = { epoch, clusters: dataClusters(disk.sizeBytes, disk.imageRanges()) };
    }
    const { clusters } = this.#data;
    const pieces = new PieceBuilder();
    for (const { first, count } of runs) {
      for (let at = first; at < first + count; ) {
        const end = Math.min(first + count, at + DIGEST_READ_CLUSTERS);
        if (!clusters.isDirty(at)) {
          pieces.add(at, undefined);
          at += 1;
          continue;
        }
        let next = at + 1;
        while (next < end && clusters.isDirty(next)) next += 1;
        const { offset, length } = rangeOfRun({ first: at, count: next - at }, disk.sizeBytes);
        const data = await disk.readImage(offset, length);
        for (let done = 0; done < length; done += DIRTY_CLUSTER_BYTES) {
          const cluster = data.subarray(done, done + DIRTY_CLUSTER_BYTES);
          pieces.add(at, isZero(cluster) ? undefined : clusterDigest(cluster));
          at += 1;
        }
      }
    }
    return pieces.finish();
  }

  async #send(message: ResyncMessage): Promise<void> {
    const { type, parts } = encodeResyncMessage(message);
    this.#options.link.send(type, parts);
    await this.#options.link.drained();
  }
}

/** Joins neighbours of one kind. */
class PieceBuilder {
  readonly #pieces: { first: number; count: number; digests: Buffer[] }[] = [];

  /** In ascending order. `digest` undefined: zeroes. */
  add(cluster: number, digest: Buffer | undefined): void {
    const last = this.#pieces.at(-1);
    const joins =
      last !== undefined &&
      last.first + last.count === cluster &&
      last.digests.length > 0 === (digest !== undefined);
    if (joins) {
      last.count += 1;
      if (digest !== undefined) last.digests.push(digest);
      return;
    }
    const digests = digest === undefined ? [] : [digest];
    this.#pieces.push({ first: cluster, count: 1, digests });
  }

  finish(): DigestPiece[] {
    return this.#pieces.map(({ first, count, digests }) => ({
      first,
      count,
      digests: digests.length === 0 ? undefined : Buffer.concat(digests),
    }));
  }
}
