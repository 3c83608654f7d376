/**
 * Compares clusters of the source's disk with the target's, by digests.
 *
 * Out: requests on the link, and one verdict for each candidate. In: answers (`onAnswer`). What is
 * a hole on both sides is not read.
 */
import type { ByteRange } from '../block-layer-shell.js';
import type { DirtyBitmap } from '../dirty-bitmap.js';
import {
  DIGEST_ANSWER_MS_MAX,
  DIGEST_BYTES,
  DIGEST_READ_CLUSTERS,
  DIRTY_CLUSTER_BYTES,
} from '../limits.js';
import { isZero, rangeOfRun } from './clusters.js';
import { clusterDigest, dataClusters } from './digest-shell.js';
import { DigestWindow } from './digest-window.js';
import { Mailbox } from './mailbox-shell.js';
import { type DigestAnswer, type DigestPiece, encodeResyncMessage } from './resync-wire.js';

/** What of a transport link is needed here. */
export interface ResyncLink {
  send(type: number, parts: readonly Buffer[]): void;
  /** Resolves when there is room; rejects when the link is over. */
  drained(): Promise<void>;
}

export interface ComparedDisk {
  readonly sizeBytes: number;
  read(offset: number, length: number): Promise<Buffer>;
  dataRanges(): ByteRange[];
}

export interface ComparerOptions {
  readonly index: number;
  readonly disk: ComparedDisk;
  readonly link: ResyncLink;
  /** Emptied as they are asked for. */
  readonly candidates: DirtyBitmap;
  /** 0: the target's image as it is. */
  readonly epoch: number;
  readonly firstRequest: number;
  /**
   * False: data here where the target has zeroes is different without a look. It may be zeroes,
   * too, but is going to be read for sending anyway.
   */
  readonly exact: boolean;
  /** Asked after the cluster was read: it was written, and nothing can be said of it. */
  skip(cluster: number): boolean;
  onVerdict(cluster: number, verdict: ClusterVerdict): void;
}

export type ClusterVerdict = 'equal' | 'differing' | 'skipped';

export class Comparer {
  readonly #options: ComparerOptions;
  readonly #window: DigestWindow;
  readonly #answers = new Mailbox<readonly DigestPiece[]>(DIGEST_ANSWER_MS_MAX);
  #data: DirtyBitmap | undefined;
  #compared = 0;

  constructor(options: ComparerOptions) {
    this.#options = options;
    const { index: disk, epoch, candidates, firstRequest } = options;
    this.#window = new DigestWindow({ disk, epoch, candidates, firstRequest });
  }

  /** Clusters with a verdict. */
  get compared(): number {
    return this.#compared;
  }

  get nextRequest(): number {
    return this.#window.nextRequest;
  }

  /** Throws ProtocolError when nobody asked for it. */
  onAnswer(answer: DigestAnswer): void {
    this.#answers.push(this.#window.answer(answer));
  }

  /** The session is over. */
  fail(error: Error): void {
    this.#answers.fail(error);
  }

  /** Resolves when every candidate has its verdict; rejects when the link or the disk fails. */
  async run(): Promise<void> {
    const { disk, link } = this.#options;
    this.#data = dataClusters(disk.sizeBytes, disk.dataRanges());
    for (;;) {
      for (let next = this.#window.next(); next !== undefined; next = this.#window.next()) {
        const { type, parts } = encodeResyncMessage(next);
        link.send(type, parts);
      }
      await link.drained();
      if (this.#window.isDone && this.#answers.length === 0) return;
      const pieces = await this.#answers.next('digests');
      for (const piece of pieces) await this.#comparePiece(piece);
    }
  }

  async #comparePiece({ first, count, digests }: DigestPiece): Promise<void> {
    for (let done = 0; done < count; done += DIGEST_READ_CLUSTERS) {
      const part = {
        first: first + done,
        count: Math.min(DIGEST_READ_CLUSTERS, count - done),
        digests: digests?.subarray(done * DIGEST_BYTES),
      };
      await this.#comparePart(part);
    }
  }

  async #comparePart(part: DigestPiece): Promise<void> {
    const { disk, exact, skip, onVerdict } = this.#options;
    const { first, count, digests } = part;
    const clusters = Array.from({ length: count }, (_, i) => first + i);
    const needsData =
      (exact || digests !== undefined) &&
      !clusters.every((cluster) => this.#isHole(cluster) || skip(cluster));
    const { offset, length } = rangeOfRun(part, disk.sizeBytes);
    const data = needsData ? await disk.read(offset, length) : undefined;
    for (const [i, cluster] of clusters.entries()) {
      this.#compared += 1;
      if (skip(cluster)) {
        onVerdict(cluster, 'skipped');
        continue;
      }
      const own = data?.subarray(i * DIRTY_CLUSTER_BYTES, (i + 1) * DIRTY_CLUSTER_BYTES);
      const theirs = digests?.subarray(i * DIGEST_BYTES, (i + 1) * DIGEST_BYTES);
      onVerdict(cluster, this.#isEqual(cluster, own, theirs) ? 'equal' : 'differing');
    }
  }

  #isEqual(cluster: number, read: Buffer | undefined, theirs: Buffer | undefined): boolean {
    const isHole = this.#isHole(cluster);
    if (read === undefined && !isHole) return false;
    if (theirs === undefined) return isHole || (read !== undefined && isZero(read));
    const { length } = rangeOfRun({ first: cluster, count: 1 }, this.#options.disk.sizeBytes);
    return clusterDigest(read ?? Buffer.alloc(length)).equals(theirs);
  }

  #isHole(cluster: number): boolean {
    return this.#data?.isDirty(cluster) === false;
  }
}
