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
 * A link of a session (`join`) can outlive its connection: resume-core.ts. When that is lost without
 * the peer's `bye`, the link is interrupted: it keeps what is sent, and goes on when somebody gives
 * it another connection (`reconnect`), with every frame delivered once and in order. Who waits for
 * `drained` and `flushed` just waits longer.
 *
 * A link can be handed to another thread (`detach`, attach-link.ts), since a descriptor is valid in
 * all of them. What stays behind carries no frames any more, but is still the link to its session:
 * it closes for the same reasons, now told by reports, and passes `close` and `destroy` on.
 */
import type { Socket } from 'node:net';
import { assert, describeError, type Logger, ProtocolError } from '../lib/index.js';
import { duplicateDescriptor } from '../linux/index.js';
import { Acknowledger } from './acknowledger.js';
import { FRAME_TYPES } from './attach-wire.js';
import { LinkError, lossKind } from './errors.js';
import { FrameInbox } from './frame-inbox.js';
import { encodeFrame, FRAME_HEADER_BYTES, type Frame, FrameDecoder } from './frame-wire.js';
import { type Decode, kept, moveInPlace, readStream } from './in-place-stream.js';
import { CLOSE_DEADLINE_MS, type LinkLimits } from './limits.js';
import { LinkResumption } from './link-resumption.js';
import {
  type DetachedLink,
  type LinkCloseReason,
  type LinkConnection,
  type LinkCounters,
  type LinkKeeper,
  type LinkOptions,
  type LinkReport,
  NO_COUNTS,
} from './link-types.js';
import { closedError, endOfStream, unpackReason } from './reason-parcel.js';
import { type LinkIdentity, ResumeCore } from './resume-core.js';
import { PLAIN, streamError } from './secure-stream.js';
import type { LinkSecurity } from './security/link-security.js';
import { descriptorOf, joinShort, roundTripOf, takeUnread, writeAll } from './stream.js';
import { Waiters } from './waiters.js';

type FrameHandler = (frame: Frame) => void;
type CloseHandler = (reason: LinkCloseReason) => void;

const BYE = Buffer.concat(encodeFrame(FRAME_TYPES.bye, []));

export class Link {
  readonly remoteAddress: string;
  #socket: Socket;
  readonly #log: Logger;
  #decoder: FrameDecoder;
  #limits: LinkLimits;
  readonly #counters: LinkCounters;
  #frameHandler: FrameHandler | undefined;
  readonly #closeHandlers: CloseHandler[] = [];
  /** Never more than the frames of what was read at once. */
  readonly #inbox = new FrameInbox();
  #delivering = false;
  #paused = false;
  /** The peer's FIN, and what was wrong with it, held back until the inbox is empty. */
  #end: LinkCloseReason | undefined;
  #closing: NodeJS.Timeout | undefined;
  #closeReason: LinkCloseReason | undefined;
  readonly #drainWaiters = new Waiters();
  readonly #flushWaiters = new Waiters();
  /** Set once another thread drives the link. */
  #keeper: LinkKeeper | undefined;
  /** Of a link of a session. */
  #core: ResumeCore | undefined;
  #acknowledger: Acknowledger | undefined;
  readonly #resumption: LinkResumption;

  /** The link owns `socket` from now on. */
  constructor(socket: Socket, options: LinkOptions) {
    this.#socket = socket;
    this.#log = options.log;
    this.#limits = options.limits;
    this.#counters = { ...(options.continued?.counters ?? NO_COUNTS) };
    this.#decoder = new FrameDecoder(options.limits);
    this.remoteAddress =
      options.remoteAddress ?? `${socket.remoteAddress ?? 'unknown'}:${socket.remotePort ?? 0}`;
    this.#resumption = new LinkResumption({
      log: options.log,
      remoteAddress: this.remoteAddress,
      takesConnections: () => this.#isHere() && this.#end === undefined,
      isOver: () => this.#closeReason !== undefined,
      use: (next) => this.#replaceSocket(next),
      write: (buffers) => this.#write(buffers),
      goOn: () => {
        this.#onWritten();
        this.#afterDelivery();
      },
    });
    const state = options.continued?.resume;
    if (state !== undefined) this.#setCore(new ResumeCore(state));
    this.#resumption.security = options.continued?.security ?? PLAIN;
    this.#listenTo(socket);
    if (options.continued !== undefined) this.#goOn(options.continued);
  }

  /** This host's end, without port; empty once it is closed. */
  get localAddress(): string {
    return this.#socket.localAddress ?? '';
  }

  /** Microseconds, as TCP measures it of late; 0 while there is no connection. */
  get roundTripUs(): number {
    return this.#isHere() ? roundTripOf(this.#socket) : 0;
  }

  /** Bytes accepted by `send` and not yet taken by the kernel. */
  get queuedBytes(): number {
    const core = this.#core;
    return core === undefined || core.live ? this.#socket.writableLength : core.heldBytes;
  }

  /** Bytes that may still be read here, to be sent or sent again: nobody may change them. */
  get heldBytes(): number {
    return Math.max(this.#core?.heldBytes ?? 0, this.#socket.writableLength);
  }

  /** False when the queue is above high water, or the link is closed. A wish, not a barrier. */
  get writable(): boolean {
    if (!this.#isHere() || this.queuedBytes >= this.#limits.highWaterBytes) return false;
    return this.#core === undefined || this.#core.heldBytes < this.#limits.queuedBytesMax / 2;
  }

  /** Why the link waits for another connection, while it does. */
  get interruption(): LinkCloseReason | undefined {
    return this.#resumption.interruption;
  }

  /** Connections that were lost so far. */
  get interruptions(): number {
    return this.#resumption.interruptions;
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
   * parts as not copied: they must not change until `heldBytes` is 0. On a closed link the frame
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
    const queued = this.heldBytes;
    if (queued + bytes > queuedBytesMax) {
      this.#counters.framesDropped += 1;
      this.#fail(
        'overflow',
        new LinkError('closed', `The peer does not read: ${queued} bytes are queued`),
      );
      return;
    }
    this.#counters.framesSent += 1;
    this.#counters.bytesSent += bytes;
    const written = joinShort(buffers, bytes);
    this.#core?.sent(written, bytes);
    if (this.#core === undefined || this.#core.live) this.#write(written);
  }

  /**
   * The link belongs to a session from now on: what is sent and comes is numbered, also what has
   * come and was not taken. Both ends do it right after the attach.
   */
  join(identity: LinkIdentity, security: LinkSecurity = PLAIN): void {
    this.#mustBeHere();
    this.#resumption.security = security;
    const { socket, unread } = moveInPlace(this.#socket);
    if (socket !== this.#socket) this.#listenTo(socket);
    const core = this.#setCore(new ResumeCore(identity));
    this.#sieved(core, this.#inbox.takeAll());
    for (const chunk of unread) this.#decode(kept(chunk), chunk.length);
    this.#scheduleDelivery();
  }

  /** Adds a handler, called for each connection that is lost and for which another is wanted. */
  onInterrupted(handler: CloseHandler): void {
    this.#resumption.interruptedHandlers.push(handler);
  }

  /** Adds a handler, called when an interrupted link goes on. */
  onResumed(handler: () => void): void {
    this.#resumption.resumedHandlers.push(handler);
  }

  /** Gives the connection up, for another one: it may be dead without anybody having said so. */
  renew(): void {
    if (!this.#isOpen()) return;
    if (this.#keeper !== undefined) this.#keeper.renew();
    else if (this.#core?.resumes === true && this.#core.live) this.#lose({ kind: 'timeout' });
  }

  /** The link goes on over this connection, once both sides have agreed; it may fail to. */
  reconnect(connection: LinkConnection): void {
    const keeper = this.#isOpen() ? this.#keeper : undefined;
    if (keeper !== undefined) keeper.reconnect(connection);
    else this.#resumption.reconnect(this.#core, connection);
  }

  /** Resolves when `writable`, at once if it is. Rejects with LinkError when the link closes. */
  drained(): Promise<void> {
    if (!this.#isHere()) return Promise.reject(this.#closedError());
    if (this.writable) return Promise.resolve();
    return this.#drainWaiters.wait();
  }

  /** Resolves when the kernel has taken everything. Rejects with LinkError when the link closes. */
  async flushed(): Promise<void> {
    while (this.queuedBytes > 0 && this.#isHere()) await this.#flushWaiters.wait();
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
    if (this.#core?.asking !== true) this.#socket.pause();
  }

  resume(): void {
    this.#mustBeHere();
    this.#paused = false;
    this.#scheduleDelivery();
  }

  /** Sends what is queued, then FIN, then waits for the peer's, bounded by CLOSE_DEADLINE_MS. Takes
   * no more frames either way. An interrupted link ends at once. */
  close(): void {
    if (!this.#isOpen()) return;
    if (this.interruption !== undefined) {
      this.#finish({ kind: 'local' });
      return;
    }
    this.#closing = setTimeout(() => this.#finish({ kind: 'local' }), CLOSE_DEADLINE_MS);
    if (this.#keeper !== undefined) {
      this.#keeper.close();
      return;
    }
    this.#dropInbox();
    if (this.#core !== undefined) this.#socket.write(BYE);
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
    // What TLS knows of its connection can't go along: the link goes on over another one.
    const isPlain = this.#resumption.security.kind === 'plain';
    assert(isPlain || this.#core?.resumes === true, 'A secured link needs to be resumed');
    const ended = this.#end !== undefined || this.#core?.live === false || !isPlain;
    const fd = ended ? undefined : duplicateDescriptor(descriptorOf(this.#socket));
    const unread = takeUnread(this.#socket);
    const inbox = this.#inbox.takeAll();
    const counted = inbox.flatMap(({ type, payload }) => encodeFrame(type, [payload]));
    const rest = this.#decoder.takeRest();
    const more = isPlain ? [rest, ...unread] : [];
    const countedBytes = counted.reduce((sum, { length }) => sum + length, rest.length);
    const bytesReceived = this.#counters.bytesReceived - countedBytes;
    this.#frameHandler = undefined;
    this.#keeper = keeper;
    // Counted afresh where it goes on.
    this.#resumption.interruptions = 0;
    this.#socket.destroy();
    this.#stopTimers();
    this.#rejectWaiters();
    return {
      fd,
      leftover: Buffer.concat([...counted, ...more]),
      limits: this.#limits,
      remoteAddress: this.remoteAddress,
      counters: { ...this.#counters, bytesReceived },
      resume: this.#core?.state(inbox.length),
      security: this.#resumption.security,
    };
  }

  /** What the thread that drives this detached link says; once it is over there, it is here. */
  reported(report: LinkReport): void {
    assert(this.#keeper !== undefined, 'A report came of a link that is not detached');
    Object.assign(this.#counters, report.counters);
    if (report.closed === undefined) {
      this.#resumption.reported(report.interrupted);
      return;
    }
    const reason = unpackReason(report.closed);
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

  #setCore(core: ResumeCore): ResumeCore {
    this.#core = core;
    this.#acknowledger = new Acknowledger(core, this.#socket, this.#onWritten);
    return core;
  }

  /** What an older socket still has to say is of no interest. */
  #listenTo(socket: Socket): void {
    this.#socket = socket;
    const ifPresent = (handle: () => void): void => {
      if (this.#socket === socket) handle();
    };
    socket.setNoDelay(true);
    readStream(socket, {
      decoder: () => (this.#socket === socket ? this.#decoder : undefined),
      came: (decode, bytes) => ifPresent(() => this.#onBytes(decode, bytes)),
    });
    socket.on('end', () => ifPresent(() => this.#onEnd()));
    socket.on('error', (error) => ifPresent(() => this.#onError(streamError(error, socket))));
    socket.on('close', () => ifPresent(() => this.#onSocketClose()));
  }

  #replaceSocket(connection: Socket): Socket {
    const old = this.#socket;
    const { socket, unread } = moveInPlace(connection);
    this.#decoder = new FrameDecoder(this.#limits);
    old.destroy();
    this.#stopTimers();
    this.#acknowledger?.moveTo(socket);
    this.#listenTo(socket);
    // After what is to be said first.
    queueMicrotask(() => {
      if (this.#socket !== socket) return;
      for (const chunk of unread) this.#onBytes(kept(chunk), chunk.length);
    });
    socket.resume();
    return socket;
  }

  /** The connection is gone. */
  #lose(reason: LinkCloseReason): void {
    const core = this.#core;
    if (core?.resumes !== true || !this.#isOpen()) {
      this.#finish(this.#closing === undefined ? reason : { kind: 'local' });
      return;
    }
    this.#stopTimers();
    this.#socket.destroy();
    this.#decoder = new FrameDecoder(this.#limits);
    this.#resumption.lost(core, reason);
  }

  #stopTimers(): void {
    this.#resumption.stop();
    this.#acknowledger?.stop();
  }

  #goOn(detached: Pick<DetachedLink, 'fd' | 'leftover'>): void {
    const { buffer, byteOffset, length } = detached.leftover;
    if (length > 0) this.#onBytes(kept(Buffer.from(buffer, byteOffset, length)), length);
    if (detached.fd === undefined) this.#onEnd();
    else this.#scheduleDelivery();
  }

  #write(buffers: readonly Buffer[]): void {
    writeAll(this.#socket, buffers, this.#onWritten);
  }

  /** Something has left, or is acknowledged. */
  readonly #onWritten = (): void => {
    if (this.writable) this.#drainWaiters.resolveAll();
    if (this.queuedBytes === 0) this.#flushWaiters.resolveAll();
  };

  #onBytes(decode: Decode, bytes: number): void {
    if (this.#isOpen()) this.#decode(decode, bytes);
    if (!this.#isOpen()) return;
    this.#deliver();
    this.#acknowledger?.received();
  }

  /** If they are malformed the link is over. */
  #decode(decode: Decode, bytes: number): void {
    this.#counters.bytesReceived += bytes;
    const core = this.#core;
    try {
      const frames = decode(this.#decoder);
      if (core !== undefined) this.#sieved(core, frames);
      else for (const frame of frames) this.#inbox.add(frame);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#fail('protocol', error);
    }
  }

  /** Takes out what is not the user's. */
  #sieved(core: ResumeCore, frames: readonly Frame[]): void {
    for (const frame of frames) {
      const arrival = core.came(frame);
      switch (arrival.kind) {
        case 'deliver':
          this.#inbox.add(frame);
          break;
        case 'nothing':
          this.#onWritten();
          break;
        case 'resumed':
          this.#resumption.resumed(core);
          break;
        case 'refused':
          this.#log.info('Session not resumed', {
            remote: this.remoteAddress,
            reason: arrival.reason,
          });
          this.#finish(this.interruption ?? { kind: 'ended' });
          return;
        case 'bye':
          this.#end = { kind: 'ended' };
          return;
      }
    }
  }

  #scheduleDelivery(): void {
    queueMicrotask(() => this.#deliver());
  }

  #deliver(): void {
    if (this.#delivering) return;
    this.#delivering = true;
    try {
      while (!this.#paused && this.#isHere()) {
        const handler = this.#frameHandler;
        const frame = handler && this.#inbox.next();
        if (handler === undefined || frame === undefined) break;
        this.#counters.framesReceived += 1;
        handler(frame);
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#fail('protocol', error);
    } finally {
      this.#delivering = false;
    }
    this.#afterDelivery();
  }

  #afterDelivery(): void {
    if (!this.#isOpen()) this.#dropInbox();
    else if (this.#keeper !== undefined) return;
    else if (this.#core?.asking === true) this.#socket.resume();
    else if (this.#inbox.size > 0 || this.#paused) this.#socket.pause();
    else if (this.#end !== undefined) this.#finish(this.#end);
    else this.#socket.resume();
  }

  #dropInbox(): void {
    this.#counters.framesDropped += this.#inbox.takeAll().length;
  }

  #onEnd(): void {
    if (!this.#isOpen() || this.#end !== undefined) return;
    const end = endOfStream(this.#decoder);
    if (this.#core?.resumes !== true) this.#end = end;
    // Node may tell of the FIN while the socket is paused; the frames before it come first.
    if (this.#end === undefined) this.#lose(end);
    else if (this.#inbox.size === 0 && !this.#paused) this.#finish(end);
  }

  #onError(error: Error): void {
    if (this.#closing !== undefined) this.#finish({ kind: 'local' });
    const kind = lossKind(error) ?? (this.#core?.asking === true ? 'reset' : undefined);
    if (kind === undefined) this.#finish({ kind: 'local', error });
    else this.#lose({ kind, error });
  }

  #onSocketClose(): void {
    // After the peer's FIN Node closes the socket by itself; frames may still wait to be taken.
    if (this.#end !== undefined && this.#isOpen()) return;
    if (this.interruption === undefined) this.#finish({ kind: 'local' });
  }

  #fail(kind: 'protocol' | 'overflow', error: Error): void {
    if (!this.#isOpen()) return;
    const reason = describeError(error);
    this.#log.warn('Link dropped', { remote: this.remoteAddress, kind, reason });
    this.#finish({ kind, error });
  }

  #finish(reason: LinkCloseReason, origin: 'here' | 'reported' = 'here'): void {
    if (this.#closeReason !== undefined) return;
    this.#closeReason = reason;
    clearTimeout(this.#closing);
    this.#stopTimers();
    if (origin === 'here') this.#keeper?.destroy();
    this.#sayBye();
    this.#socket.destroy();
    this.#core?.forget();
    this.#dropInbox();
    this.#rejectWaiters();
    const handlers = this.#closeHandlers.splice(0);
    queueMicrotask(() => {
      for (const handler of handlers) handler(reason);
    });
  }

  /** Without it the peer would wait. It has no place behind what may be cut in the middle. */
  #sayBye(): void {
    const said = this.#closing !== undefined || this.#end !== undefined;
    if (said || this.#keeper !== undefined || this.#core?.live !== true) return;
    if (this.#socket.writable && this.#socket.writableLength === 0) this.#socket.write(BYE);
  }

  #rejectWaiters(): void {
    this.#drainWaiters.rejectAll(() => this.#closedError());
    this.#flushWaiters.rejectAll(() => this.#closedError());
  }

  #closedError(): LinkError {
    if (this.#keeper !== undefined && this.#isOpen()) {
      return new LinkError('closed', `Another thread drives the link to ${this.remoteAddress}`);
    }
    return closedError(this.remoteAddress, this.#closeReason ?? { kind: 'local' });
  }
}
