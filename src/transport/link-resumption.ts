/**
 * How a link gets another connection: what resume-core.ts decides, done with sockets. Here is also
 * what is known of that when another thread drives the link.
 */
import type { Socket } from 'node:net';
import { describeError, type Logger, ProtocolError } from '../lib/index.js';
import { answerResume } from './answer-resume.js';
import { encodeAttachRefused, FRAME_TYPES } from './attach-wire.js';
import { encodeFrame } from './frame-wire.js';
import { RESUME_ANSWER_MS } from './limits.js';
import type { LinkCloseReason, LinkConnection, LinkReport } from './link-types.js';
import { unpackReason } from './reason-parcel.js';
import type { ResumeCore } from './resume-core.js';
import type { Resume } from './resume-wire.js';
import { PLAIN, secureClient, secureServer, streamError } from './secure-stream.js';
import type { LinkSecurity } from './security/link-security.js';
import { adoptStream } from './stream.js';

/** The link, as far as it is needed here. */
export interface ResumableLink {
  readonly log: Logger;
  readonly remoteAddress: string;
  /** It is open, driven here, and its peer has not taken leave. */
  takesConnections(): boolean;
  isOver(): boolean;
  /**
   * From now on over this connection, with nothing left of what was half read. What is returned is
   * the socket that stands for it from now on.
   */
  use(socket: Socket): Socket;
  write(buffers: readonly Buffer[]): void;
  /** The connection works: what waits for it goes on. */
  goOn(): void;
}

type Handler<Value> = (value: Value) => void;

export class LinkResumption {
  readonly #link: ResumableLink;
  /** Why the link waits for another connection; stays until it has one that works. */
  interruption: LinkCloseReason | undefined;
  /** Connections that were lost so far. */
  interruptions = 0;
  readonly interruptedHandlers: Handler<LinkCloseReason>[] = [];
  readonly resumedHandlers: Handler<undefined>[] = [];
  security: LinkSecurity = PLAIN;
  #answerTimer: NodeJS.Timeout | undefined;

  constructor(link: ResumableLink) {
    this.#link = link;
  }

  /** The connection is gone. */
  lost(core: ResumeCore, reason: LinkCloseReason): void {
    this.stop();
    core.lost();
    this.interruption ??= reason;
    this.interruptions += 1;
    this.#tell(this.interruptedHandlers, this.interruption);
  }

  /** Another one, once both sides have agreed; it may come to nothing. */
  reconnect(core: ResumeCore | undefined, connection: LinkConnection): void {
    const { leftover, attempt } = connection;
    const plain = adoptStream(connection.fd);
    const asks = attempt !== undefined;
    if (!this.#link.takesConnections() || core === undefined || (asks && core.live)) {
      discard(plain);
      return;
    }
    const { security } = this;
    const { buffer, byteOffset, length } = leftover;
    const hello = { protocol: core.protocol, leftover: Buffer.from(buffer, byteOffset, length) };
    if (asks) this.#ask(core, secureClient(plain, security, hello.protocol), attempt);
    else this.#beAsked(core, secureServer(plain, security, hello));
  }

  /** Both sides know where to go on. */
  resumed(core: ResumeCore): void {
    const wasInterrupted = this.interruption !== undefined;
    this.interruption = undefined;
    this.stop();
    for (const { buffers } of core.held) this.#link.write(buffers);
    if (wasInterrupted) this.#tell(this.resumedHandlers, undefined);
    this.#link.goOn();
  }

  /** What the thread that drives the link says of it. */
  reported(interrupted: LinkReport['interrupted']): void {
    if (interrupted === undefined) {
      const wasInterrupted = this.interruption !== undefined;
      this.interruption = undefined;
      if (wasInterrupted) this.#tell(this.resumedHandlers, undefined);
    } else if (interrupted.count !== this.interruptions) {
      this.interruptions = interrupted.count;
      this.interruption = unpackReason(interrupted.reason);
      this.#tell(this.interruptedHandlers, this.interruption);
    }
  }

  stop(): void {
    clearTimeout(this.#answerTimer);
  }

  /** Connecting side: the answer comes as the first frame. */
  #ask(core: ResumeCore, connection: Socket, attempt: number): void {
    const socket = this.#link.use(connection);
    this.#answerTimer = setTimeout(() => {
      socket.destroy();
      this.lost(core, { kind: 'timeout' });
    }, RESUME_ANSWER_MS);
    socket.write(Buffer.concat(core.ask(attempt)));
  }

  /** Listening side: the present connection stays until another one has proved to be the next. */
  #beAsked(core: ResumeCore, socket: Socket): void {
    answerResume(socket, {
      onResume: (resume) => this.#answer(core, socket, resume),
      onFailure: (error) => this.#logRefusal(streamError(error, socket)),
    });
  }

  #answer(core: ResumeCore, socket: Socket, resume: Resume): void {
    if (!this.#link.takesConnections()) {
      discard(socket);
      return;
    }
    let answer: Buffer[];
    try {
      answer = core.answer(resume);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#logRefusal(error);
      const refusal = encodeFrame(FRAME_TYPES.resumeRefused, [encodeAttachRefused(error.message)]);
      socket.on('error', () => {});
      socket.end(Buffer.concat(refusal));
      socket.resume();
      return;
    }
    this.#link.use(socket).write(Buffer.concat(answer));
    this.resumed(core);
  }

  #logRefusal(error: Error): void {
    const { log, remoteAddress } = this.#link;
    log.warn('Resume refused', { remote: remoteAddress, reason: describeError(error) });
  }

  /** Not if the link is over by then. */
  #tell<Value>(handlers: readonly Handler<Value>[], value: Value): void {
    queueMicrotask(() => {
      if (!this.#link.isOver()) for (const handler of handlers) handler(value);
    });
  }
}

function discard(socket: Socket): void {
  socket.on('error', () => {});
  socket.destroy();
}
