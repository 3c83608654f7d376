/**
 * What is said of links, and what crosses from thread to thread.
 */
import type { Logger } from '../lib/index.js';
import type { ErrorParcel } from './error-parcel.js';
import type { LinkLimits } from './limits.js';
import type { ResumeState } from './resume-core.js';
import type { LinkSecurity } from './security/link-security.js';

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

export const NO_COUNTS: Readonly<LinkCounters> = {
  bytesSent: 0,
  framesSent: 0,
  bytesReceived: 0,
  framesReceived: 0,
  framesDropped: 0,
};

export interface LinkOptions {
  readonly log: Logger;
  readonly limits: LinkLimits;
  /** For log lines. Default: the socket's own remote address and port. */
  readonly remoteAddress?: string;
  /** The link goes on where another one stopped. */
  readonly continued?: Pick<DetachedLink, 'fd' | 'leftover' | 'counters' | 'resume' | 'security'>;
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
  /** Of a link of a session. */
  readonly resume: ResumeState | undefined;
  readonly security: LinkSecurity;
}

/** Another connection for a link; plain data. Whoever gets it must use or close `fd`. */
export interface LinkConnection {
  readonly fd: number;
  /** What came on it and was not looked at. */
  readonly leftover: Uint8Array;
  /** Of the connecting side: the number of this attempt. Undefined: the peer asks. */
  readonly attempt: number | undefined;
}

/** Whoever passes wishes on to the thread that drives a detached link. */
export interface LinkKeeper {
  /** The session closes in order: call `close` on the link there. */
  close(): void;
  /** The session is over: call `destroy` on the link there. Harmless if it is closed. */
  destroy(): void;
  /** Call `reconnect` on the link there; if it is not there any more, close the descriptor. */
  reconnect(connection: LinkConnection): void;
  /** Call `renew` on the link there. */
  renew(): void;
}

/** What the thread that drives a link tells of it; plain data. Made by `reportLink`. */
export interface LinkReport {
  readonly counters: Readonly<LinkCounters>;
  /** The link waits for another connection since so many were lost, the last one for this. */
  readonly interrupted?: { readonly count: number; readonly reason: ReasonParcel };
  /** Present once the link is over. */
  readonly closed?: ReasonParcel;
}

/** A LinkCloseReason as plain data. */
export interface ReasonParcel {
  readonly kind: LinkCloseReason['kind'];
  readonly error?: ErrorParcel;
}
