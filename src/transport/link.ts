/**
 * A link: one connection that carries frames both ways.
 *
 * In: a socket, connected or connecting, and frames to send. Out: frames received, in order, and
 * one reason when it is over. Back-pressure works both ways: a sender looks at `writable` and
 * awaits `drained()`; a receiver calls `pause()`. While no frame handler is attached the link
 * pauses by itself, so nothing that arrives early is lost.
 *
 * Invariants: the first reason wins and `onClose` handlers see it once; no frame is delivered after
 * it; handlers are never called from inside of a call that the owner makes. What is dropped (sends
 * on a closed link, received frames nobody took) is counted in `framesDropped`.
 *
 * A link can be handed to another thread (`detach`, attach-link.ts), since a descriptor is valid in
 * all of them. What stays behind carries no frames any more, but is still the link to its session:
 * it closes for the same reasons, now told by reports, and passes `close` and `destroy` on.
 */
import type { Socket } from 'node:net';
import { assert, describeError, type Logger, ProtocolError } from '../lib/index.js';
import { duplicateDescriptor } from '../linux/index.js';
import { type ErrorParcel, unpackError } from './error-parcel.js';
import { errorCode, LinkError } from './errors.js';
import { encodeFrame, FRAME_HEADER_BYTES, type Frame, FrameDecoder } from './frame-wire.js';
import { CLOSE_DEADLINE_MS, type LinkLimits } from './limits.js';
import { descriptorOf, takeUnread } from './stream.js';

/**
 * Why a link is over.
 * - `ended`: the peer closed it (FIN); with `error` when that was in the middle of a frame, as when
 *   a process is killed while it sends.
 * - `reset`: the peer's kernel refused our bytes (ECONNRESET, EPIPE, ECONNREFUSED): its end is
 *   gone.
 * - `protocol`: it sent something malformed; `error` is the ProtocolError.
 * - `timeout`: TCP gave up (ETIMEDOUT, no route): proves nothing about the peer.
 * - `overflow`: more than `queuedBytesMax` was queued.
 * - `local`: we closed it; with `error` if something here failed.
 */
export interface LinkCloseReason {
  readonly kind: 'ended' | 'reset' | 'protocol' | 'timeout' | 'overflow' | 'local';
  readonly error?: Error;
}

/** Totals since the link was made; bytes include frame headers. */
export interface LinkCounters {
  bytesSent: number;
  framesSent: number;
  bytesReceived: number;
  framesReceived: number;
  framesDropped: number;
}

export interface LinkOptions {
  readonly log: Logger;
  readonly limits: LinkLimits;
  /** For log lines. Default: the socket's own remote address and port. */
  readonly remoteAddress?: string;
  /** The link goes on where another one stopped. */
  readonly continued?: Pick<DetachedLink, 'fd' | 'leftover' | 'counters'>;
}

/**
 * A link between two threads: plain data, good for postMessage. Exactly one `attachLink` or
 * `discardLink` must follow, or the connection stays open and silent.
 */
export interface DetachedLink {
  /** Undefined if the peer has closed already, and only `leftover` remains to be delivered. */
  readonly fd: number | undefined;
  /** What came and was not delivered: whole frames, then maybe a part of one. */
  readonly leftover: Uint8Array;
  readonly limits: LinkLimits;
  readonly remoteAddress: string;
  /** Totals so far, without `leftover`; the next link goes on counting from here. */
  readonly counters: Readonly<LinkCounters>;
}

/** Whoever passes wishes on to the thread that drives a detached link. */
export interface LinkKeeper {
  /** The session closes in order: call `close` on the link there. */
  close(): void;
  /** The session is over: call `destroy` on the link there. Harmless if it is closed. */
  destroy(): void;
}

/** What the thread that drives a link tells of it; plain data. Made by `reportLink`. */
export interface LinkReport {
  readonly counters: Readonly<LinkCounters>;
  /** Present once the link is over. */
  readonly closed?: { readonly kind: LinkCloseReason['kind']; readonly error?: ErrorParcel };
}

interface Waiter {
  readonly resolve: () => void;
  readonly reject: (error: LinkError) => void;
}

const NO_COUNTS: LinkCounters = {
  bytesSent: 0,
  framesSent: 0,
  bytesReceived: 0,
  framesReceived: 0,
  framesDropped: 0,
};

type FrameHandler = (frame: Frame) => void;
type CloseHandler = (reason: LinkCloseReason) => void;

/** Frames up to this long are copied into one buffer: cheaper than a vector (1.5 times the rate of
 * 64 byte frames, measured); no difference from 1500 bytes on. */
const COPY_MAX_BYTES = 512;

const RESET_CODES = new Set(['ECONNRESET', 'EPIPE', 'ECONNREFUSED', 'ECONNABORTED']);
const TIMEOUT_CODES = new Set(['ETIMEDOUT', 'EHOSTUNREACH', 'ENETUNREACH', 'EHOSTDOWN']);

export class Link {
  readonly remoteAddress: string;
  readonly #socket: Socket;
  readonly #log: Logger;
  readonly #decoder: FrameDecoder;
  #limits: LinkLimits;
  readonly #counters: LinkCounters;
  #frameHandler: FrameHandler | undefined;
  readonly #closeHandlers: CloseHandler[] = [];
  /** Decoded: never more than the frames of what was read at once. Delivered up to `#inboxAt`. */
  #inbox: Frame[] = [];
  #inboxAt = 0;
  #delivering = false;
  #paused = false;
  /** The peer's FIN, and what was wrong with it, held back until the inbox is empty. */
  #end: LinkCloseReason | undefined;
  #closing: NodeJS.Timeout | undefined;
  #closeReason: LinkCloseReason | undefined;
  #drainWaiters: Waiter[] = [];
  #flushWaiters: Waiter[] = [];
  /** Set once another thread drives the link. */
  #keeper: LinkKeeper | undefined;

  /** The link owns `socket` from now on. */
  constructor(socket: Socket, options: LinkOptions) {
    this.#socket = socket;
    this.#log = options.log;
    this.#limits = options.limits;
    this.#counters = { ...(options.continued?.counters ?? NO_COUNTS) };
    this.#decoder = new FrameDecoder(options.limits);
    this.remoteAddress =
      options.remoteAddress ?? `${socket.remoteAddress ?? 'unknown'}:${socket.remotePort ?? 0}`;
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => this.#onData(chunk));
    socket.on('end', () => this.#onEnd());
    socket.on('error', (error) => this.#onError(error));
    socket.on('close', () => this.#onSocketClose());
    if (options.continued !== undefined) this.#goOn(options.continued);
  }

  /** This host's end, without port; empty once it is closed. */
  get localAddress(): string {
    return this.#socket.localAddress ?? '';
  }

  /** Bytes accepted by `send` and not yet taken by the kernel. */
  get queuedBytes(): number {
    return this.#socket.writableLength;
  }

  /** False when the queue is above high water, or the link is closed. A wish, not a barrier. */
  get writable(): boolean {
    return this.#isHere() && this.queuedBytes < this.#limits.highWaterBytes;
  }

  /** Set once the link is over. */
  get closeReason(): LinkCloseReason | undefined {
    return this.#closeReason;
  }

  /** Of a link that another thread drives: as of the last report. */
  get counters(): Readonly<LinkCounters> {
    return this.#counters;
  }

  /** Bounds from now on: a connection's first frame is held to tighter ones. */
  setLimits(limits: LinkLimits): void {
    this.#mustBeHere();
    this.#limits = limits;
    this.#decoder.setMaxPayloadBytes(limits.maxPayloadBytes);
  }

  /**
   * Queues one frame, written with one system call when nothing is queued before it. Count the
   * parts as not copied: they must not change until `queuedBytes` is 0. On a closed link the frame
   * is dropped and counted. Above `queuedBytesMax` the link is destroyed (`overflow`). `payloadCrc`
   * is for whoever knows the CRC-32C of the parts together.
   */
  send(type: number, parts: readonly Buffer[], payloadCrc?: number): void {
    if (!this.#isOpen()) {
      this.#counters.framesDropped += 1;
      return;
    }
    this.#mustBeHere();
    const buffers = encodeFrame(type, parts, payloadCrc);
    let bytes = 0;
    for (const buffer of buffers) bytes += buffer.length;
    const payloadBytes = bytes - FRAME_HEADER_BYTES;
    const { maxPayloadBytes, queuedBytesMax } = this.#limits;
    assert(
      payloadBytes <= maxPayloadBytes,
      `A payload of ${payloadBytes} bytes exceeds the channel's limit of ${maxPayloadBytes}`,
    );
    if (this.queuedBytes + bytes > queuedBytesMax) {
      this.#counters.framesDropped += 1;
      const queued = this.queuedBytes;
      this.#fail(
        'overflow',
        new LinkError('closed', `The peer does not read: ${queued} bytes are queued`),
      );
      return;
    }
    this.#counters.framesSent += 1;
    this.#counters.bytesSent += bytes;
    this.#write(buffers, bytes);
  }

  /** Resolves when `writable`, at once if it is. Rejects with LinkError when the link closes. */
  drained(): Promise<void> {
    if (!this.#isHere()) return Promise.reject(this.#closedError());
    if (this.writable) return Promise.resolve();
    return new Promise((resolve, reject) => this.#drainWaiters.push({ resolve, reject }));
  }

  /** Resolves when the kernel has taken everything. Rejects with LinkError when the link closes. */
  async flushed(): Promise<void> {
    while (this.queuedBytes > 0 && this.#isHere()) {
      await new Promise<void>((resolve, reject) => this.#flushWaiters.push({ resolve, reject }));
    }
    if (!this.#isHere()) throw this.#closedError();
  }

  /**
   * Who gets the frames, one by one, in order; the frames of one read follow each other in the same
   * turn of the event loop. Without a handler (undefined) they wait. If it throws ProtocolError the
   * link is dropped like for malformed bytes; any other exception is a bug and is not caught.
   */
  onFrame(handler: FrameHandler | undefined): void {
    this.#frameHandler = handler;
    if (handler === undefined) return;
    this.#mustBeHere();
    this.#scheduleDelivery();
  }

  /** Adds a handler, called once; soon, if the link is closed already. */
  onClose(handler: CloseHandler): void {
    const reason = this.#closeReason;
    if (reason === undefined) this.#closeHandlers.push(handler);
    else queueMicrotask(() => handler(reason));
  }

  /** Stops delivery, and thereby reading, until `resume()`: the peer feels it. */
  pause(): void {
    this.#mustBeHere();
    this.#paused = true;
    this.#socket.pause();
  }

  resume(): void {
    this.#mustBeHere();
    this.#paused = false;
    this.#scheduleDelivery();
  }

  /** Sends what is queued, then FIN, then waits for the peer's, bounded by CLOSE_DEADLINE_MS. Takes
   * no more frames either way. */
  close(): void {
    if (!this.#isOpen()) return;
    this.#closing = setTimeout(() => this.#finish({ kind: 'local' }), CLOSE_DEADLINE_MS);
    if (this.#keeper !== undefined) {
      this.#keeper.close();
      return;
    }
    this.#dropInbox();
    this.#socket.end();
    this.#socket.resume();
  }

  /** Ends the link now; what is queued may be lost. */
  destroy(): void {
    this.#finish({ kind: 'local' });
  }

  /**
   * Stops here, for another thread to go on with `attachLink`: no byte is lost, delivered twice or
   * out of order, and the peer notices nothing. Nothing may be queued (`flushed()`): what the
   * kernel has half of can't move. Good inside of a frame handler, too: the frames behind that one
   * go along. Throws LinkError if the link is closed, SystemCallError without free descriptors.
   */
  detach(keeper: LinkKeeper): DetachedLink {
    if (!this.#isHere()) throw this.#closedError();
    assert(this.queuedBytes === 0, `${this.queuedBytes} bytes are queued on a link to be detached`);
    const ended = this.#end !== undefined;
    const fd = ended ? undefined : duplicateDescriptor(descriptorOf(this.#socket));
    const unread = takeUnread(this.#socket);
    const counted: Buffer[] = [];
    for (const { type, payload } of this.#inbox.slice(this.#inboxAt)) {
      counted.push(...encodeFrame(type, [payload]));
    }
    counted.push(this.#decoder.takeRest());
    const countedBytes = counted.reduce((sum, { length }) => sum + length, 0);
    this.#inbox = [];
    this.#inboxAt = 0;
    this.#frameHandler = undefined;
    this.#keeper = keeper;
    this.#socket.destroy();
    this.#rejectWaiters();
    return {
      fd,
      leftover: Buffer.concat([...counted, ...unread]),
      limits: this.#limits,
      remoteAddress: this.remoteAddress,
      counters: {
        ...this.#counters,
        bytesReceived: this.#counters.bytesReceived - countedBytes,
      },
    };
  }

  /** What the thread that drives this detached link says; once it is over there, it is here. */
  reported(report: LinkReport): void {
    assert(this.#keeper !== undefined, 'A report came of a link that is not detached');
    Object.assign(this.#counters, report.counters);
    if (report.closed === undefined) return;
    const { kind, error } = report.closed;
    const reason = error === undefined ? { kind } : { kind, error: unpackError(error) };
    this.#finish(this.#closing === undefined ? reason : { kind: 'local' }, 'reported');
  }

  /** Neither closed nor closing. */
  #isOpen(): boolean {
    return this.#closeReason === undefined && this.#closing === undefined;
  }

  /** Open, and driven by this thread. */
  #isHere(): boolean {
    return this.#isOpen() && this.#keeper === undefined;
  }

  #mustBeHere(): void {
    assert(
      this.#keeper === undefined || !this.#isOpen(),
      `Another thread drives the link to ${this.remoteAddress}`,
    );
  }

  #goOn(detached: Pick<DetachedLink, 'fd' | 'leftover'>): void {
    const { buffer, byteOffset, length } = detached.leftover;
    if (length > 0) this.#onData(Buffer.from(buffer, byteOffset, length));
    if (detached.fd === undefined) this.#onEnd();
  }

  #write(buffers: readonly Buffer[], bytes: number): void {
    if (bytes <= COPY_MAX_BYTES) {
      this.#socket.write(Buffer.concat(buffers, bytes), this.#onWritten);
      return;
    }
    const last = buffers.length - 1;
    this.#socket.cork();
    for (let i = 0; i < last; i += 1) this.#socket.write(buffers[i] as Buffer);
    this.#socket.write(buffers[last] as Buffer, this.#onWritten);
    this.#socket.uncork();
  }

  readonly #onWritten = (): void => {
    if (this.writable) for (const { resolve } of this.#drainWaiters.splice(0)) resolve();
    if (this.queuedBytes === 0) for (const { resolve } of this.#flushWaiters.splice(0)) resolve();
  };

  #onData(chunk: Buffer): void {
    if (!this.#isOpen()) return;
    this.#counters.bytesReceived += chunk.length;
    try {
      const frames = this.#decoder.write(chunk);
      this.#inbox = this.#inbox.length === 0 ? frames : this.#inbox.concat(frames);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#fail('protocol', error);
      return;
    }
    this.#deliver();
  }

  #scheduleDelivery(): void {
    queueMicrotask(() => this.#deliver());
  }

  #deliver(): void {
    if (this.#delivering) return;
    this.#delivering = true;
    try {
      while (this.#inboxAt < this.#inbox.length && !this.#paused && this.#isHere()) {
        const handler = this.#frameHandler;
        if (handler === undefined) break;
        const frame = this.#inbox[this.#inboxAt] as Frame;
        this.#inboxAt += 1;
        this.#counters.framesReceived += 1;
        handler(frame);
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#fail('protocol', error);
    } finally {
      this.#delivering = false;
    }
    this.#inbox = this.#inboxAt === this.#inbox.length ? [] : this.#inbox.slice(this.#inboxAt);
    this.#inboxAt = 0;
    this.#afterDelivery();
  }

  #afterDelivery(): void {
    if (!this.#isOpen()) this.#dropInbox();
    else if (this.#keeper !== undefined) return;
    else if (this.#inbox.length > 0 || this.#paused) this.#socket.pause();
    else if (this.#end !== undefined) this.#finish(this.#end);
    else this.#socket.resume();
  }

  #dropInbox(): void {
    this.#counters.framesDropped += this.#inbox.length - this.#inboxAt;
    this.#inbox = [];
    this.#inboxAt = 0;
  }

  #onEnd(): void {
    if (!this.#isOpen()) return;
    this.#end = { kind: 'ended' };
    try {
      this.#decoder.end();
    } catch (error) {
      this.#end = { kind: 'ended', error: error as Error };
    }
    // Node may tell of the FIN while the socket is paused; the frames before it come first.
    if (this.#inbox.length === 0 && !this.#paused) this.#finish(this.#end);
  }

  #onError(error: Error): void {
    if (this.#closing !== undefined) this.#finish({ kind: 'local' });
    const code = errorCode(error) ?? '';
    if (RESET_CODES.has(code)) this.#finish({ kind: 'reset', error });
    else if (TIMEOUT_CODES.has(code)) this.#finish({ kind: 'timeout', error });
    else this.#finish({ kind: 'local', error });
  }

  #onSocketClose(): void {
    // After the peer's FIN Node closes the socket by itself; frames may still wait to be taken.
    if (this.#end !== undefined && this.#isOpen()) return;
    this.#finish({ kind: 'local' });
  }

  #fail(kind: 'protocol' | 'overflow', error: Error): void {
    if (!this.#isOpen()) return;
    this.#log.warn('Link dropped', {
      remote: this.remoteAddress,
      kind,
      reason: describeError(error),
    });
    this.#finish({ kind, error });
  }

  #finish(reason: LinkCloseReason, origin: 'here' | 'reported' = 'here'): void {
    if (this.#closeReason !== undefined) return;
    this.#closeReason = reason;
    clearTimeout(this.#closing);
    if (origin === 'here') this.#keeper?.destroy();
    this.#socket.destroy();
    this.#dropInbox();
    this.#rejectWaiters();
    const handlers = this.#closeHandlers.splice(0);
    queueMicrotask(() => {
      for (const handler of handlers) handler(reason);
    });
  }

  #rejectWaiters(): void {
    const waiters = [...this.#drainWaiters.splice(0), ...this.#flushWaiters.splice(0)];
    for (const { reject } of waiters) reject(this.#closedError());
  }

  #closedError(): LinkError {
    if (this.#keeper !== undefined && this.#isOpen()) {
      return new LinkError('closed', `Another thread drives the link to ${this.remoteAddress}`);
    }
    const kind = this.#closeReason?.kind ?? 'local';
    const options =
      this.#closeReason?.error === undefined ? {} : { cause: this.#closeReason.error };
    return new LinkError(
      'closed',
      `The link to ${this.remoteAddress} is closed (${kind})`,
      options,
    );
  }
}
