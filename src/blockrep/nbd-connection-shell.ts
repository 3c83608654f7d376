/**
 * One NBD client: moves bytes between its socket and its session, and requests from the session to
 * the export's layer. Requests run concurrently and are answered as soon as they are done, except
 * that overlapping writes keep their order (the export's range queue).
 *
 * Back-pressure: at the bounds of limits.ts no further request is taken from the session and the
 * socket is not read, until something has been answered.
 */
import fs from 'node:fs';
import type { Socket } from 'node:net';
import { describeError, type Logger, ProtocolError } from '../lib/index.js';
import { sendFileNow, sendNow } from '../linux/index.js';
import { descriptorOf } from '../transport/index.js';
import { type BlockLayer, readInto } from './block-layer-shell.js';
import { errnoOf } from './errors.js';
import {
  NBD_BYTES_IN_FLIGHT_MAX,
  NBD_CLOSE_MS_MAX,
  NBD_EXTENTS_MAX,
  NBD_KEPT_BYTES_MAX,
  NBD_NEGOTIATION_MS_MAX,
  NBD_REPLY_BYTES_MAX,
  NBD_REQUESTS_IN_FLIGHT_MAX,
  NBD_SEND_CACHED_BYTES_MAX,
  NBD_SEND_CACHED_BYTES_MIN,
} from './limits.js';
import { BufferPool, type ReceiveBuffer } from './nbd-buffers.js';
import { encodeExtents } from './nbd-extents.js';
import { PartedWrite } from './nbd-parted-write.js';
import { type ClientMemory, encodeFileReference } from './nbd-references.js';
import {
  encodeReplyHead,
  type NbdInstruction,
  type NbdRequest,
  NbdSession,
  type WritePart,
} from './nbd-session.js';
import { NBD_ERROR, type NbdError } from './nbd-wire.js';
import type { RangeQueue, RangeTicket } from './range-queue.js';

/** One disk as the server offers it; shared by the export's connections. */
export interface ServedExport {
  readonly name: string;
  readonly layer: BlockLayer;
  readonly writes: RangeQueue;
  readonly stats: NbdExportStats;
}

type WriteRequest = Extract<NbdRequest, { kind: 'write' }>;
/** Called once, when the request is done or has failed. */
type Done = (failure?: { readonly error: unknown }) => void;
type ChangeRequest = Exclude<NbdRequest, { kind: 'read' | 'blockStatus' | 'flush' }>;

/**
 * Counters since the start, except for those named `inFlight`. Reads that the client need not ask
 * for (nbd-references.ts) are not among them.
 */
export interface NbdExportStats {
  requests: number;
  bytesRead: number;
  bytesWritten: number;
  flushes: number;
  /** Requests that the layer failed. */
  errors: number;
  requestsInFlight: number;
  bytesInFlight: number;
}

/** Memory of the process at the other end of the socket `fd`. Throws if it can't be had. */
export type BorrowMemory = (fd: number) => ClientMemory & { close(): void };

export interface NbdConnectionOptions {
  readonly socket: Socket;
  /** Where the socket is read to; whoever reads it says `received`. */
  readonly receive: ReceiveBuffer;
  readonly exports: ReadonlyMap<string, ServedExport>;
  /** What the client may refer to, as soon as it does; undefined: nothing. */
  readonly borrowMemory: BorrowMemory | undefined;
  /** The client can open this process's files, and may be told of those that are disks. */
  readonly lendsFiles: boolean;
  readonly log: Logger;
  onProtocolError(): void;
  /** The socket is gone and nothing of this client is in progress any more. */
  onClosed(): void;
}

export class NbdConnection {
  readonly #options: NbdConnectionOptions;
  readonly #socket: Socket;
  readonly #session: NbdSession;
  readonly #buffers = new BufferPool(NBD_KEPT_BYTES_MAX);
  #export: ServedExport | undefined;
  #memory: ReturnType<BorrowMemory> | undefined;
  /** The write of which a part is under way or has still to come. */
  #parted: PartedWrite | undefined;
  #requestsInFlight = 0;
  #bytesInFlight = 0;
  #pumping = false;
  #ending = false;
  #socketClosed = false;
  #deadline: NodeJS.Timeout;
  #corked = false;
  #uncork: NodeJS.Immediate | undefined;

  constructor(options: NbdConnectionOptions) {
    const { socket, exports, receive } = options;
    this.#options = options;
    this.#socket = socket;
    const infos = new Map([...exports].map(([name, served]) => [name, served.layer] as const));
    const { borrowMemory, lendsFiles } = options;
    const memory = borrowMemory === undefined ? undefined : () => this.#borrow(borrowMemory);
    this.#session = new NbdSession(infos, {
      allocate: (length) => this.#buffers.take(length),
      memory,
      lendsFiles,
    });
    receive.session = this.#session;
    this.#deadline = setTimeout(() => this.#negotiationTimeout(), NBD_NEGOTIATION_MS_MAX);
    socket.on('drain', () => this.#pump());
    socket.on('error', (error) => this.#drop('NBD connection failed', describeError(error)));
    socket.on('close', () => {
      clearTimeout(this.#deadline);
      this.#socketClosed = true;
      this.#ending = true;
      this.#memory?.close();
      this.#abandonParted();
      this.#finishWhenIdle();
    });
    this.#pump();
  }

  #borrow(borrowMemory: BorrowMemory): ClientMemory {
    if (this.#memory !== undefined) return this.#memory;
    try {
      this.#memory = borrowMemory(descriptorOf(this.#socket));
    } catch (error) {
      throw new ProtocolError(`The client's memory can not be had: ${describeError(error)}`);
    }
    return this.#memory;
  }

  /** Bytes have come, and the session has them. */
  received(): void {
    this.#pump();
  }

  /** Takes no further request, answers what is in progress, then closes. */
  end(): void {
    if (this.#ending) return;
    this.#ending = true;
    this.#socket.pause();
    clearTimeout(this.#deadline);
    this.#deadline = setTimeout(() => this.#socket.destroy(), NBD_CLOSE_MS_MAX);
    this.#abandonParted();
    this.#finishWhenIdle();
  }

  #negotiationTimeout(): void {
    if (this.#session.negotiated) return;
    this.#drop('NBD connection dropped', 'No export was chosen in time');
  }

  /** Carries out what the session has, up to the bounds; then reads on or stops reading. */
  #pump(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    let starved = false;
    while (!this.#ending && !starved && !this.#atBound()) {
      const instruction = this.#next();
      if (instruction === undefined) starved = true;
      else this.#carryOut(instruction);
    }
    this.#pumping = false;
    if (this.#ending) return;
    if (!starved) this.#socket.pause();
    else if (this.#socket.isPaused()) this.#socket.resume();
  }

  #atBound(): boolean {
    return (
      this.#requestsInFlight >= NBD_REQUESTS_IN_FLIGHT_MAX ||
      this.#bytesInFlight >= NBD_BYTES_IN_FLIGHT_MAX ||
      this.#socket.writableLength >= NBD_REPLY_BYTES_MAX
    );
  }

  #next(): NbdInstruction | undefined {
    try {
      return this.#session.next();
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#options.onProtocolError();
      this.#drop('NBD connection dropped', describeError(error));
      return undefined;
    }
  }

  #carryOut(instruction: NbdInstruction): void {
    switch (instruction.kind) {
      case 'send':
        this.#send(instruction.bytes);
        return;
      case 'attach':
        this.#export = this.#options.exports.get(instruction.name);
        this.#options.log.info('NBD client attached', { export: instruction.name });
        return;
      case 'request':
        this.#start(instruction.request);
        return;
      case 'end':
        this.end();
    }
  }

  #start(request: NbdRequest): void {
    const served = this.#export as ServedExport;
    const { stats } = served;
    if (request.kind === 'write' && request.part !== undefined) {
      this.#startPart(served, request, request.part);
      return;
    }
    const length = request.kind === 'flush' ? 0 : request.length;
    const payload = request.kind === 'read' || 'data' in request ? length : 0;
    const leave = this.#enter(stats, payload);
    const done = (error: NbdError | 0, data?: Buffer, head?: 'sent') => {
      if (head !== 'sent') this.#send(encodeReplyHead(request, error, data?.length ?? 0), data);
      leave();
    };
    if (length === 0 && request.kind !== 'flush') {
      done(0);
      return;
    }
    switch (request.kind) {
      case 'read':
        stats.bytesRead += length;
        this.#startRead(served, request, done);
        return;
      case 'blockStatus':
        try {
          done(0, blockStatus(served, request));
        } catch (error) {
          done(this.#failed(served, error));
        }
        return;
      case 'flush':
        stats.flushes += 1;
        served.layer.flush().then(
          () => done(0),
          (error) => done(this.#failed(served, error)),
        );
        return;
      default:
        this.#startChange(served, request, (failure) => {
          done(failure === undefined ? 0 : this.#failed(served, failure.error));
        });
    }
  }

  /** Counts a request that is under way; what is returned says that it is no more. */
  #enter(stats: NbdExportStats, payload: number): () => void {
    this.#requestsInFlight += 1;
    this.#bytesInFlight += payload;
    stats.requests += 1;
    stats.requestsInFlight += 1;
    stats.bytesInFlight += payload;
    return () => {
      this.#requestsInFlight -= 1;
      this.#bytesInFlight -= payload;
      stats.requestsInFlight -= 1;
      stats.bytesInFlight -= payload;
      if (this.#socket.isPaused()) this.#pump();
      this.#finishWhenIdle();
    };
  }

  /** The parts are one request to whoever counts or waits. */
  #startPart(served: ServedExport, request: WriteRequest, part: WritePart): void {
    if (part.first) this.#parted = this.#beginParted(served, request, part);
    const parted = this.#parted as PartedWrite;
    if (part.last) this.#parted = undefined;
    if (parted.begin(part)) this.#startChange(served, request, (failure) => parted.end(failure));
  }

  #beginParted(served: ServedExport, request: WriteRequest, { whole }: WritePart): PartedWrite {
    const leave = this.#enter(served.stats, whole.length);
    return new PartedWrite((outcome) => {
      if (outcome.kind !== 'abandoned') {
        const error = outcome.kind === 'failed' ? this.#failed(served, outcome.error) : 0;
        this.#send(encodeReplyHead(request, error, 0));
        if (served.layer.keepsData === false) this.#buffers.giveWhole(whole);
      }
      leave();
    });
  }

  #abandonParted(): void {
    this.#parted?.abandon();
    this.#parted = undefined;
  }

  #startRead(
    served: ServedExport,
    request: Extract<NbdRequest, { kind: 'read' }>,
    done: (error: NbdError | 0, data?: Buffer, head?: 'sent') => void,
  ): void {
    const { offset, length } = request;
    if (this.#sendCached(served, request, done)) return;
    const data = this.#buffers.take(length);
    readInto(served.layer, offset, data).then(
      () => done(0, data),
      (error) => done(this.#failed(served, error)),
    );
  }

  /** A large read of what is in the page cache needs no copy here. */
  #sendCached(
    served: ServedExport,
    request: Extract<NbdRequest, { kind: 'read' }>,
    done: (error: NbdError | 0, data?: Buffer, head?: 'sent') => void,
  ): boolean {
    const { offset, length } = request;
    if (length < NBD_SEND_CACHED_BYTES_MIN || length > NBD_SEND_CACHED_BYTES_MAX) return false;
    if (this.#socket.destroyed) return false;
    const file = served.layer.cachedFile?.(offset, length);
    if (file === undefined) return false;
    const { fd, serial, isWhole } = file;
    if (request.mayRefer && serial !== undefined) {
      this.#send(encodeFileReference(request, { fd, serial, isWhole }));
    } else {
      if (this.#socket.writableLength > 0) return false;
      this.#sendFile(request, fd);
    }
    done(0, undefined, 'sent');
    return true;
  }

  /**
   * From the page cache to the client. Only while nothing else waits to be sent: this goes past the
   * stream's queue. What the socket has no room for is read and queued at once, so that no other
   * reply comes in between.
   */
  #sendFile(request: Extract<NbdRequest, { kind: 'read' }>, file: number): void {
    const { offset, length } = request;
    const head = encodeReplyHead(request, 0, length);
    try {
      const range = { offset, length };
      const hasRoom = this.#passQueue(head);
      const sent = hasRoom ? sendFileNow(descriptorOf(this.#socket), file, range) : 0;
      if (sent < length) this.#queueRest(file, offset + sent, length - sent);
    } catch (error) {
      // Part of the reply may be with the client already.
      this.#drop('NBD connection failed', describeError(error));
    }
  }

  /** Cached as it is, to read it takes no time. */
  #queueRest(file: number, offset: number, length: number): void {
    const rest = this.#buffers.take(length);
    for (let at = 0; at < length; ) {
      const count = fs.readSync(file, rest, at, length - at, offset + at);
      if (count === 0) throw new Error('Unexpected end of file');
      at += count;
    }
    this.#socket.write(rest, (error) => {
      if (!error) this.#buffers.giveWhole(rest);
    });
  }

  #startChange(served: ServedExport, request: ChangeRequest, done: Done): void {
    const ticket = served.writes.enter(request.offset, request.length, true);
    const leave = () => {
      for (const free of served.writes.leave(ticket) as RangeTicket[]) free.resume?.();
    };
    const run = (now: ChangeRequest) => {
      this.#change(served, now).then(
        () => {
          leave();
          done();
        },
        (error: unknown) => {
          leave();
          done({ error });
        },
      );
    };
    if (ticket.blockers > 0) {
      // The client may be gone by then, and its memory with it.
      const kept = request.kind === 'lentWrite' ? this.#copied(request) : request;
      ticket.resume = () => run(kept);
    } else if (this.#writtenNow(served, request)) {
      leave();
      done();
    } else {
      run(request);
    }
  }

  /** Whether it has been done, without a copy and without waiting. */
  #writtenNow({ layer, stats }: ServedExport, request: ChangeRequest): boolean {
    if (request.kind !== 'lentWrite' || request.fua) return false;
    if (layer.writeLent?.(request.offset, request.data) !== true) return false;
    stats.bytesWritten += request.length;
    return true;
  }

  async #change({ layer, stats }: ServedExport, request: ChangeRequest): Promise<void> {
    const { offset, length, fua } = request;
    stats.bytesWritten += length;
    switch (request.kind) {
      case 'lentWrite':
        return this.#write(layer, this.#copied(request));
      case 'write':
        return this.#write(layer, request);
      case 'writeZeroes':
        return layer.writeZeroes(offset, length, request);
      case 'trim':
        await layer.trim(offset, length);
        if (fua) await layer.flush();
    }
  }

  #copied(request: Extract<NbdRequest, { kind: 'lentWrite' }>): WriteRequest {
    const data = this.#buffers.take(request.length);
    request.data.copyTo(data);
    return { ...request, kind: 'write', data };
  }

  async #write(layer: BlockLayer, { offset, data, fua }: WriteRequest): Promise<void> {
    await layer.write(offset, data, fua);
    if (layer.keepsData === false) this.#giveBack(data);
  }

  #giveBack(data: Buffer): void {
    this.#buffers.giveWhole(data);
    this.#options.receive.giveBack(data);
  }

  /** The answer to a failed request; the first failure of an export is logged, all are counted. */
  #failed(served: ServedExport, error: unknown): NbdError {
    served.stats.errors += 1;
    if (served.stats.errors === 1) {
      const fields = { export: served.name, reason: describeError(error) };
      this.#options.log.error('A disk request failed; further failures are only counted', fields);
    }
    return nbdError(error);
  }

  /**
   * Replies of one turn of the event loop leave in one system call. That of the last request under
   * way does not wait for the end of the turn.
   */
  #send(bytes: Buffer, data?: Buffer): void {
    if (this.#socketClosed || this.#socket.destroyed) return;
    const isLast = this.#requestsInFlight <= 1;
    if (isLast && data === undefined && this.#socket.writableLength === 0) {
      this.#sendAtOnce(bytes);
      return;
    }
    if (!this.#corked) {
      this.#corked = true;
      this.#socket.cork();
    }
    if (isLast) process.nextTick(() => this.#sendCorked());
    else this.#uncork ??= setImmediate(() => this.#sendCorked());
    this.#socket.write(bytes);
    if (data === undefined) return;
    this.#socket.write(data, (error) => {
      if (!error) this.#buffers.giveWhole(data);
    });
  }

  #sendAtOnce(bytes: Buffer): void {
    try {
      this.#passQueue(bytes);
    } catch (error) {
      this.#drop('NBD connection failed', describeError(error));
    }
  }

  /**
   * Sends past the stream's queue, in which there must be nothing. False: there was no room for
   * all, and the rest is queued. Throws SystemCallError.
   */
  #passQueue(bytes: Buffer): boolean {
    const sent = sendNow(descriptorOf(this.#socket), bytes);
    if (sent < bytes.length) this.#socket.write(bytes.subarray(sent));
    return sent === bytes.length;
  }

  #sendCorked(): void {
    if (!this.#corked) return;
    this.#corked = false;
    clearImmediate(this.#uncork);
    this.#uncork = undefined;
    this.#socket.uncork();
  }

  /** One log line, then the socket is gone. */
  #drop(message: string, reason: string): void {
    if (this.#socket.destroyed) return;
    this.#ending = true;
    this.#options.log.warn(message, { export: this.#export?.name, reason });
    this.#socket.destroy();
  }

  #finishWhenIdle(): void {
    if (this.#requestsInFlight > 0) return;
    if (this.#socketClosed) {
      this.#options.onClosed();
      return;
    }
    // `end` sends what is still corked; what the client sends from now on is not read.
    if (this.#ending && !this.#socket.writableEnded) {
      this.#socket.end(() => this.#socket.destroy());
    }
  }
}

function blockStatus(
  { layer }: ServedExport,
  request: Extract<NbdRequest, { kind: 'blockStatus' }>,
): Buffer {
  const { offset, length, one } = request;
  const countMax = one ? 1 : NBD_EXTENTS_MAX;
  const ranges = layer.dataRanges?.({ offset, length, countMax }) ?? [{ offset, length }];
  return encodeExtents({ offset, length }, ranges, { countMax, one });
}

function nbdError(error: unknown): NbdError {
  switch (errnoOf(error)) {
    case 'ENOSPC':
    case 'EDQUOT':
    case 'EFBIG':
      return NBD_ERROR.ENOSPC;
    case 'EPERM':
    case 'EROFS':
      return NBD_ERROR.EPERM;
    case 'ENOMEM':
      return NBD_ERROR.ENOMEM;
    default:
      return NBD_ERROR.EIO;
  }
}
