/**
 * A session: the one logical connection of two agents, made of five links, one per channel.
 *
 * The five live and die together: when one is lost the others are destroyed, and the owner hears of
 * it once, with the channel and the reason. A session carries no promise about frames that were
 * under way when it ended, not even across channels: whoever needs to know asks by messages.
 *
 * A session that was made to be resumed survives the loss of connections: the connecting side makes
 * others, each of the two for as long as its owner allows. Meanwhile the owner is told that it is
 * interrupted, since a peer that has died looks the same at first.
 */
import type { X509Certificate } from 'node:crypto';
import { describeError } from '../lib/index.js';
import { duplicateDescriptor } from '../linux/index.js';
import { CHANNELS, type Channel } from './channels.js';
import { connectAgain } from './connect-again.js';
import { LinkError } from './errors.js';
import { RESUME_PAUSE_MS, RESUME_PAUSE_MS_MAX } from './limits.js';
import type { Link } from './link.js';
import type { DetachedLink, LinkCloseReason, LinkConnection, LinkKeeper } from './link-types.js';
import { descriptorOf, type Endpoint, takeUnread } from './stream.js';

/** Why a session is over: why its first link was. `channel` is absent if we closed it ourselves. */
export interface SessionCloseReason extends LinkCloseReason {
  readonly channel?: Channel;
}

/** What both ends know about a session. */
export interface SessionInfo {
  /** 16 random bytes in hexadecimal, chosen by the connecting side. */
  readonly id: string;
  /** The peer's address, without port. */
  readonly remoteAddress: string;
  /** The session protocol that both ends speak. */
  readonly protocolVersion: number;
  /** What the peer has proved who it is by; undefined without TLS. */
  readonly peerCertificate: X509Certificate | undefined;
}

/** How a session is to be resumed. */
export interface SessionResumption {
  /** Milliseconds that a link may wait for another connection; then the session ends: `timeout`. */
  readonly withinMs: number;
  /** Of the connecting side: where to. */
  readonly endpoint?: Endpoint;
}

/** Told of an interruption and of its end; a session that ends tells only that. */
export interface InterruptionHandlers {
  /** The first connection that is lost, and why. */
  onInterrupted(reason: SessionCloseReason): void;
  /** All links go on. */
  onResumed(): void;
}

/** A link that waits for another connection. */
interface Interruption {
  readonly reason: LinkCloseReason;
  readonly limit: NodeJS.Timeout;
}

export class Session implements SessionInfo {
  readonly id: string;
  readonly remoteAddress: string;
  readonly protocolVersion: number;
  readonly peerCertificate: X509Certificate | undefined;
  readonly links: Readonly<Record<Channel, Link>>;
  #closing = false;
  #openLinks = CHANNELS.length;
  #closeReason: SessionCloseReason | undefined;
  readonly #closeHandlers: ((reason: SessionCloseReason) => void)[] = [];
  readonly #resumption: SessionResumption | undefined;
  readonly #interruptions = new Map<Channel, Interruption>();
  readonly #interruptionHandlers: InterruptionHandlers[] = [];
  /** Channels that are being connected again, and how often each has been. */
  readonly #connecting = new Set<Channel>();
  readonly #attempts = new Map<Channel, number>();
  /** Attempts of the present interruptions. */
  readonly #failures = new Map<Channel, number>();
  readonly #over = new AbortController();

  /**
   * All links are attached. Made by `connectSession` and `PeerListener`. Without `resumption` the
   * loss of a connection is the end.
   */
  constructor(
    info: SessionInfo,
    links: Readonly<Record<Channel, Link>>,
    resumption?: SessionResumption,
  ) {
    this.id = info.id;
    this.remoteAddress = info.remoteAddress;
    this.protocolVersion = info.protocolVersion;
    this.links = links;
    this.peerCertificate = info.peerCertificate;
    this.#resumption = resumption;
    for (const channel of CHANNELS) {
      links[channel].onClose((reason) => this.#onLinkClosed(channel, reason));
      links[channel].onInterrupted((reason) => this.#onInterrupted(channel, reason));
      links[channel].onResumed(() => this.#onResumed(channel));
    }
  }

  /** Some link waits for another connection. */
  get interrupted(): boolean {
    return this.#interruptions.size > 0;
  }

  /** Adds handlers; soon called, if the session is interrupted already. */
  onInterruption(handlers: InterruptionHandlers): void {
    this.#interruptionHandlers.push(handlers);
    const [first] = this.#interruptions;
    if (first === undefined) return;
    const [channel, { reason }] = first;
    queueMicrotask(() => {
      if (this.#closeReason === undefined) handlers.onInterrupted({ ...reason, channel });
    });
  }

  /**
   * The peer is silent, and may be reached by another connection sooner: the connecting side makes
   * all of them anew. It is an interruption, also for the owner.
   */
  renew(): void {
    if (this.#resumption?.endpoint === undefined) return;
    for (const channel of CHANNELS) this.links[channel].renew();
  }

  /** Another connection for one of the links; see Link.reconnect. */
  reconnect(channel: Channel, connection: LinkConnection): void {
    this.links[channel].reconnect(connection);
  }

  /** Set once the session is over. */
  get closeReason(): SessionCloseReason | undefined {
    return this.#closeReason;
  }

  /** Of all links, since the start. */
  get bytesSent(): number {
    return CHANNELS.reduce((sum, channel) => sum + this.links[channel].counters.bytesSent, 0);
  }

  get bytesReceived(): number {
    return CHANNELS.reduce((sum, channel) => sum + this.links[channel].counters.bytesReceived, 0);
  }

  /** Waits for the peer to close it, and makes sure that it is closed. */
  async closedWithin(timeoutMs: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.onClose(() => {
        clearTimeout(timer);
        resolve();
      });
    });
    this.destroy();
  }

  /** Adds a handler, called once; soon, if the session is over already. */
  onClose(handler: (reason: SessionCloseReason) => void): void {
    const reason = this.#closeReason;
    if (reason === undefined) this.#closeHandlers.push(handler);
    else queueMicrotask(() => handler(reason));
  }

  /**
   * Hands one link to another thread (see Link.detach) once it has sent what is queued; nobody may
   * send on it any more. It stays a part of the session: what ends it there, told to
   * `links[channel].reported`, ends the session with that channel and reason, and `keeper` hears
   * when the session ends. Rejects with LinkError if the link closes first.
   */
  async detachLink(channel: Channel, keeper: LinkKeeper): Promise<DetachedLink> {
    const link = this.links[channel];
    while (link.queuedBytes > 0) await link.flushed();
    return link.detach(keeper);
  }

  /** Closes every link gracefully (see Link.close); `onClose` follows when all are closed. */
  close(): void {
    if (this.#closeReason !== undefined) return;
    this.#closing = true;
    for (const channel of CHANNELS) this.links[channel].close();
  }

  /** Ends every link now; what is queued may be lost. */
  destroy(): void {
    this.#finish({ kind: 'local' });
  }

  #onInterrupted(channel: Channel, reason: LinkCloseReason): void {
    const resumption = this.#resumption;
    if (this.#closeReason !== undefined || resumption === undefined) return;
    if (!this.#interruptions.has(channel)) {
      const limit = setTimeout(() => this.#giveUp(channel, reason), resumption.withinMs);
      this.#interruptions.set(channel, { reason, limit });
      if (this.#interruptions.size === 1) {
        for (const { onInterrupted } of this.#interruptionHandlers) {
          onInterrupted({ ...reason, channel });
        }
      }
    }
    if (resumption.endpoint !== undefined) void this.#connectAgain(channel, resumption.endpoint);
  }

  #onResumed(channel: Channel): void {
    const interruption = this.#interruptions.get(channel);
    if (interruption === undefined) return;
    clearTimeout(interruption.limit);
    this.#interruptions.delete(channel);
    this.#failures.delete(channel);
    if (this.#interruptions.size > 0) return;
    for (const { onResumed } of this.#interruptionHandlers) onResumed();
  }

  #giveUp(channel: Channel, { kind, error }: LinkCloseReason): void {
    const why = error === undefined ? kind : `${kind}: ${describeError(error)}`;
    const within = `${this.#resumption?.withinMs} ms`;
    const text = `The link was not resumed within ${within} (${why})`;
    this.#finish({ kind: 'timeout', channel, error: new LinkError('timeout', text) });
  }

  /** One at a time; a connection that does not serve is followed by another. */
  async #connectAgain(channel: Channel, endpoint: Endpoint): Promise<void> {
    if (this.#connecting.has(channel)) return;
    this.#connecting.add(channel);
    const attempt = (this.#attempts.get(channel) ?? 0) + 1;
    this.#attempts.set(channel, attempt);
    const socket = await connectAgain(endpoint, {
      signal: this.#over.signal,
      pauseMs: this.#pauseMs(channel),
    });
    this.#connecting.delete(channel);
    const interruption = this.#interruptions.get(channel);
    if (socket === 'refused') {
      if (interruption !== undefined) this.#finish({ ...interruption.reason, channel });
      return;
    }
    if (socket === 'aborted') return;
    const fd = duplicateDescriptor(descriptorOf(socket));
    const leftover = Buffer.concat(takeUnread(socket));
    socket.destroy();
    this.reconnect(channel, { fd, leftover, attempt });
  }

  /** None before the first attempt. */
  #pauseMs(channel: Channel): number {
    const failures = this.#failures.get(channel) ?? 0;
    this.#failures.set(channel, failures + 1);
    if (failures === 0) return 0;
    return Math.min(RESUME_PAUSE_MS * 2 ** (failures - 1), RESUME_PAUSE_MS_MAX);
  }

  #onLinkClosed(channel: Channel, reason: LinkCloseReason): void {
    this.#openLinks -= 1;
    if (!this.#closing) this.#finish({ ...reason, channel });
    else if (this.#openLinks === 0) this.#finish({ kind: 'local' });
  }

  #finish(reason: SessionCloseReason): void {
    if (this.#closeReason !== undefined) return;
    this.#closeReason = reason;
    this.#over.abort();
    for (const { limit } of this.#interruptions.values()) clearTimeout(limit);
    this.#interruptions.clear();
    for (const channel of CHANNELS) this.links[channel].destroy();
    const handlers = this.#closeHandlers.splice(0);
    queueMicrotask(() => {
      for (const handler of handlers) handler(reason);
    });
  }
}
