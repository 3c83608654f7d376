/**
 * Messages by which two hosts find out what differs between their images: payloads only, on the
 * disk channel. Big-endian; `disk` as in disk-wire.ts. Clusters are of 64 KiB; the last one of a
 * disk may be shorter.
 *
 *   0x0136 changed        target to source
 *                         disk u16, flags u8 (1 last message, 2 trusted), runs to the end
 *   0x0137 digestRequest  source to target
 *                         disk u16, request u32, epoch u64, runs to the end
 *   0x0138 digests        target to source
 *                         disk u16, request u32, then pieces to the end
 *
 *   run    first cluster u64, clusters u32
 *   piece  run, kind u8: 0 zeroes; 1 data, and 16 bytes follow for each cluster
 *
 * A digest is the first 16 bytes of the cluster's SHA-256. Epoch 0 asks for the image as it is,
 * another one for the image when that epoch or a later one has been applied. Runs ascend and do
 * not overlap. Whether they lie inside the disk is for the receiver to check.
 */
import { ByteReader, ByteWriter, ProtocolError, unreachable } from '../../lib/index.js';
import type { EncodedDiskMessage } from '../disk-wire.js';
import {
  CHANGED_RUNS_MAX,
  DIGEST_BYTES,
  DIGEST_REQUEST_CLUSTERS_MAX,
  DIRTY_CLUSTER_BYTES,
  DISKS_MAX,
} from '../limits.js';

export const RESYNC_MESSAGE_TYPE = {
  changed: 0x0136,
  digestRequest: 0x0137,
  digests: 0x0138,
} as const;

/** Clusters that follow each other. */
export interface ClusterRun {
  readonly first: number;
  readonly count: number;
}

/** `digests`: of each cluster one after the other, borrowed; undefined: all are zeroes. */
export interface DigestPiece extends ClusterRun {
  readonly digests: Buffer | undefined;
}

export interface ChangedMessage {
  readonly kind: 'changed';
  readonly disk: number;
  /** No more of them follow for this disk. */
  readonly last: boolean;
  /** False: the runs say nothing, and anything may have changed. */
  readonly trusted: boolean;
  readonly runs: readonly ClusterRun[];
}

export interface DigestRequest {
  readonly kind: 'digestRequest';
  readonly disk: number;
  readonly request: number;
  readonly epoch: number;
  readonly runs: readonly ClusterRun[];
}

export interface DigestAnswer {
  readonly kind: 'digests';
  readonly disk: number;
  readonly request: number;
  readonly pieces: readonly DigestPiece[];
}

export type ResyncMessage = ChangedMessage | DigestRequest | DigestAnswer;

const CLUSTERS_MAX = Math.floor(Number.MAX_SAFE_INTEGER / DIRTY_CLUSTER_BYTES);
const RUN_BYTES = 12;

/** Whether a type of the disk channel is one of this file's. */
export function isResyncType(type: number): boolean {
  return type >= RESYNC_MESSAGE_TYPE.changed && type <= RESYNC_MESSAGE_TYPE.digests;
}

export function encodeResyncMessage(message: ResyncMessage): EncodedDiskMessage {
  const type = RESYNC_MESSAGE_TYPE[message.kind];
  const writer = new ByteWriter(256).uint16(message.disk);
  switch (message.kind) {
    case 'changed':
      writer.uint8((message.last ? 1 : 0) | (message.trusted ? 2 : 0));
      for (const run of message.runs) writer.uint53(run.first).uint32(run.count);
      break;
    case 'digestRequest':
      writer.uint32(message.request).uint53(message.epoch);
      for (const run of message.runs) writer.uint53(run.first).uint32(run.count);
      break;
    case 'digests':
      writer.uint32(message.request);
      for (const { first, count, digests } of message.pieces) {
        writer.uint53(first).uint32(count);
        if (digests === undefined) writer.uint8(0);
        else writer.uint8(1).bytes(digests);
      }
      break;
    default:
      return unreachable(message);
  }
  return { type, parts: [writer.finish()] };
}

/** Throws ProtocolError on an unknown type and on anything malformed. */
export function decodeResyncMessage(type: number, payload: Buffer): ResyncMessage {
  const reader = new ByteReader(payload);
  const disk = reader.uint16();
  if (disk >= DISKS_MAX) throw new ProtocolError(`Disk ${disk} is not below ${DISKS_MAX}`);
  switch (type) {
    case RESYNC_MESSAGE_TYPE.changed: {
      const flags = reader.uint8();
      if (flags > 3) throw new ProtocolError(`Changed clusters with unknown flags ${flags}`);
      const [last, trusted] = [(flags & 1) !== 0, (flags & 2) !== 0];
      const runs = readRuns(reader, { runsMax: CHANGED_RUNS_MAX, clustersMax: CLUSTERS_MAX });
      return { kind: 'changed', disk, last, trusted, runs };
    }
    case RESYNC_MESSAGE_TYPE.digestRequest: {
      const request = reader.uint32();
      const epoch = reader.uint53();
      const max = DIGEST_REQUEST_CLUSTERS_MAX;
      const runs = readRuns(reader, { runsMax: max, clustersMax: max });
      if (runs.length === 0) throw new ProtocolError('A request for no digests');
      return { kind: 'digestRequest', disk, request, epoch, runs };
    }
    case RESYNC_MESSAGE_TYPE.digests:
      return { kind: 'digests', disk, request: reader.uint32(), pieces: readPieces(reader) };
    default:
      throw new ProtocolError(`Unknown message type 0x${type.toString(16)} of the disk channel`);
  }
}

function readRuns(
  reader: ByteReader,
  { runsMax, clustersMax }: { runsMax: number; clustersMax: number },
): ClusterRun[] {
  if (reader.remaining > runsMax * RUN_BYTES) {
    throw new ProtocolError(`More than ${runsMax} runs of clusters in a message`);
  }
  const order = new RunOrder(clustersMax);
  const runs: ClusterRun[] = [];
  while (reader.remaining > 0) runs.push(order.read(reader));
  return runs;
}

function readPieces(reader: ByteReader): DigestPiece[] {
  const order = new RunOrder(DIGEST_REQUEST_CLUSTERS_MAX);
  const pieces: DigestPiece[] = [];
  while (reader.remaining > 0) {
    const run = order.read(reader);
    const kind = reader.uint8();
    if (kind > 1) throw new ProtocolError(`Digests of unknown kind ${kind}`);
    const digests = kind === 1 ? reader.bytes(run.count * DIGEST_BYTES) : undefined;
    pieces.push({ ...run, digests });
  }
  return pieces;
}

/** Reads runs that must ascend, and together have no more than `clustersMax` clusters. */
class RunOrder {
  readonly #clustersMax: number;
  #next = 0;
  #clusters = 0;

  constructor(clustersMax: number) {
    this.#clustersMax = clustersMax;
  }

  read(reader: ByteReader): ClusterRun {
    const first = reader.uint53();
    const count = reader.uint32();
    if (count === 0 || first < this.#next || first + count > CLUSTERS_MAX) {
      throw new ProtocolError(`A run of ${count} clusters at ${first} is out of order or range`);
    }
    this.#next = first + count;
    this.#clusters += count;
    if (this.#clusters > this.#clustersMax) {
      throw new ProtocolError(`More than ${this.#clustersMax} clusters in a message`);
    }
    return { first, count };
  }
}
