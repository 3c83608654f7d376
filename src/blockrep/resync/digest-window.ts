/**
 * The source's side of asking for digests: what to ask for next, and whether an answer is one.
 *
 * In: candidates (a bitmap, emptied here in ascending order), answers. Out: requests, as long as
 * the window has room, and the pieces of answers that are exactly what was asked for. A target
 * answers in the order of the requests; anything else is a broken protocol.
 */
import { ProtocolError } from '../../lib/index.js';
import type { DirtyBitmap } from '../dirty-bitmap.js';
import { DIGEST_CLUSTERS_IN_FLIGHT_MAX, DIGEST_REQUEST_CLUSTERS_MAX } from '../limits.js';
import { runOfRange } from './clusters.js';
import type { ClusterRun, DigestAnswer, DigestPiece, DigestRequest } from './resync-wire.js';

export class DigestWindow {
  readonly #disk: number;
  readonly #epoch: number;
  readonly #candidates: DirtyBitmap;
  readonly #asked: DigestRequest[] = [];
  #nextRequest: number;
  #inFlight = 0;

  /** `firstRequest`: so that requests of one session have different numbers. */
  constructor(options: {
    disk: number;
    epoch: number;
    candidates: DirtyBitmap;
    firstRequest: number;
  }) {
    this.#disk = options.disk;
    this.#epoch = options.epoch;
    this.#candidates = options.candidates;
    this.#nextRequest = options.firstRequest;
  }

  /** Everything was asked for and answered. */
  get isDone(): boolean {
    return this.#candidates.dirtyClusters === 0 && this.#asked.length === 0;
  }

  get nextRequest(): number {
    return this.#nextRequest;
  }

  /** The next request to send; undefined while the window is full or nothing is left. */
  next(): DigestRequest | undefined {
    const room = DIGEST_CLUSTERS_IN_FLIGHT_MAX - this.#inFlight;
    if (room < DIGEST_REQUEST_CLUSTERS_MAX || this.#candidates.dirtyClusters === 0)
      return undefined;
    const runs = this.#candidates.take(DIGEST_REQUEST_CLUSTERS_MAX).map(runOfRange);
    this.#inFlight += clustersOf(runs);
    const request = this.#nextRequest;
    this.#nextRequest = (request + 1) >>> 0;
    const message: DigestRequest = {
      kind: 'digestRequest',
      disk: this.#disk,
      request,
      epoch: this.#epoch,
      runs,
    };
    this.#asked.push(message);
    return message;
  }

  /** Throws ProtocolError unless it answers the oldest request, whole and in order. */
  answer({ request, pieces }: DigestAnswer): readonly DigestPiece[] {
    const asked = this.#asked[0];
    if (asked?.request !== request) {
      throw new ProtocolError(`Digests came for request ${request}, which is not the next`);
    }
    if (!sameClusters(asked.runs, pieces)) {
      throw new ProtocolError(`Digests came for other clusters than request ${request} names`);
    }
    this.#asked.shift();
    this.#inFlight -= clustersOf(pieces);
    return pieces;
  }
}

export function clustersOf(runs: readonly ClusterRun[]): number {
  return runs.reduce((sum, run) => sum + run.count, 0);
}

/** Both ascend without overlaps; neighbours may be cut differently. */
function sameClusters(a: readonly ClusterRun[], b: readonly ClusterRun[]): boolean {
  const [left, right] = [joined(a), joined(b)];
  return (
    left.length === right.length &&
    left.every((run, i) => run.first === right[i]?.first && run.count === right[i]?.count)
  );
}

function joined(runs: readonly ClusterRun[]): ClusterRun[] {
  const result: { first: number; count: number }[] = [];
  for (const { first, count } of runs) {
    const last = result.at(-1);
    if (last !== undefined && last.first + last.count === first) last.count += count;
    else result.push({ first, count });
  }
  return result;
}
