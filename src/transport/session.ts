/**
 * A session: the one logical connection of two agents, made of four links, one per channel.
 *
 * The four live and die together: when one is lost the others are destroyed, and the owner hears of
 * it once, with the channel and the reason. A session carries no promise about frames that were
 * under way when it ended, not even across channels: whoever needs to know asks by messages.
 */
import { CHANNELS, type Channel } from './channels.js';
import type { DetachedLink, Link, LinkCloseReason, LinkKeeper } from './link.js';

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
}

export class Session implements SessionInfo {
  readonly id: string;
  readonly remoteAddress: string;
  readonly protocolVersion: number;
  readonly links: Readonly<Record<Channel, Link>>;
  #closing = false;
  #openLinks = CHANNELS.length;
  #closeReason: SessionCloseReason | undefined;
  readonly #closeHandlers: ((reason: SessionCloseReason) => void)[] = [];

  /** All links are attached. Made by `connectSession` and `PeerListener`. */
  constructor(info: SessionInfo, links: Readonly<Record<Channel, Link>>) {
    this.id = info.id;
    this.remoteAddress = info.remoteAddress;
    this.protocolVersion = info.protocolVersion;
    this.links = links;
    for (const channel of CHANNELS) {
      links[channel].onClose((reason) => this.#onLinkClosed(channel, reason));
    }
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

  #onLinkClosed(channel: Channel, reason: LinkCloseReason): void {
    this.#openLinks -= 1;
    if (!this.#closing) this.#finish({ ...reason, channel });
    else if (this.#openLinks === 0) this.#finish({ kind: 'local' });
  }

  #finish(reason: SessionCloseReason): void {
    if (this.#closeReason !== undefined) return;
    this.#closeReason = reason;
    for (const channel of CHANNELS) this.links[channel].destroy();
    const handlers = this.#closeHandlers.splice(0);
    queueMicrotask(() => {
      for (const handler of handlers) handler(reason);
    });
  }
}
