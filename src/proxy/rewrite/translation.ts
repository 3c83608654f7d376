/**
 * One TCP connection whose remote end knows other numbers than this host's guest counts in: the
 * PVM's while this is the SVM, those of the host that the connection began with after a failover.
 *
 *     remote's number = guest's number + offset, modulo 2^32
 *
 * There are two offsets. That of the sequence space is fixed: the difference of the two ISNs. That
 * of the timestamps begins as the difference of the two first TSvals and may grow after a failover,
 * because the SVM's clock can be behind the PVM's and a remote end drops a TSval that is older than
 * the last it saw (PAWS, RFC 7323 section 5). It grows when the guest speaks:
 *
 *     first segment after the failover   by TIMESTAMP_MARGIN, if the connection was active
 *     TSval below the highest echo       to one above it (and the margin at the first segment)
 *
 * An echo of what was said before the offset grew is translated by the offset of then: a guest in
 * SYN_SENT resets a connection whose TSecr is not what it sent, and syncookies keep options in it.
 * One former offset is remembered, until something newer has been echoed.
 *
 * Once the guest speaks for itself the translation also follows the end of the connection.
 */
import { seqAdd, seqBefore, seqDistance, seqMax } from '../../lib/index.js';
import { TIMESTAMP_LEAD_MAX, TIMESTAMP_MARGIN } from '../limits.js';
import type { OpenedFlow } from '../opened-flow-wire.js';
import { hashKey, type Packet, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN } from '../packet.js';
import {
  FIN_ACKED,
  FIN_NONE,
  FIN_SENT,
  type FinState,
  type TranslationState,
} from '../translation-wire.js';

export class Translation {
  /** Owned by this; see packet.ts. */
  readonly key: Int32Array;
  readonly hash: number;
  /** The next translation in the same bucket of the table. */
  nextInBucket: Translation | undefined = undefined;
  /** Guest's ISN; undefined when the connection is older than the last checkpoint. */
  readonly isn: number | undefined;
  /** Remote's sequence numbers minus the guest's, unsigned. */
  readonly seqOffset: number;
  /** The same two offsets for what the former primary has mirrored, which is in its guest's numbers. */
  readonly mirroredSeqOffset: number;
  readonly mirroredTimestampOffset: number;
  /** The number of the sweep in which it was last used. */
  usedAt = 0;
  /** The next secondary has not been told of the present state. */
  changed = false;

  #timestampOffset = 0;
  /** The offset before it grew last; equal when it has not grown or this no longer matters. */
  #formerOffset = 0;
  /** First TSval, as the remote saw it, of the present offset. */
  #raisedAt = 0;
  #highestEcho = 0;
  #echoKnown = false;
  #marginDue = false;

  /** All in the remote's view of the sequence spaces; a position is one behind the FIN. */
  #guestFin: FinState = FIN_NONE;
  #guestFinEnd = 0;
  #remoteFin: FinState = FIN_NONE;
  #remoteFinEnd = 0;
  /** What the guest expects next from the remote, once it has said so. */
  #guestAck = 0;
  #guestAckKnown = false;
  #wasReset = false;

  /**
   * Without `state`: a connection from before the last checkpoint, of which all is equal. `former`
   * is what the former primary translated of the same connection; it is contained in `state`.
   */
  constructor(key: Int32Array, state?: TranslationState, former?: TranslationState) {
    this.key = Int32Array.from(key);
    this.hash = hashKey(key);
    this.isn = state?.isn;
    this.seqOffset = state?.seqOffset ?? 0;
    this.mirroredSeqOffset = former?.seqOffset ?? 0;
    this.mirroredTimestampOffset = former?.timestampOffset ?? 0;
    if (state === undefined) return;
    this.#timestampOffset = state.timestampOffset;
    this.#formerOffset = state.timestampOffset;
    this.#guestFin = state.guestFin;
    this.#guestFinEnd = state.guestFinEnd;
    this.#remoteFin = state.remoteFin;
    this.#remoteFinEnd = state.remoteFinEnd;
  }

  /** A connection that both guests have opened, each with numbers of its own. */
  static opened(flow: OpenedFlow): Translation {
    const { key, primaryIsn, secondaryIsn, timestamps } = flow;
    return new Translation(key, {
      isn: secondaryIsn,
      seqOffset: seqAdd(primaryIsn, -secondaryIsn),
      timestampOffset:
        timestamps === undefined ? 0 : seqAdd(timestamps.primary, -timestamps.secondary),
      guestFin: FIN_NONE,
      guestFinEnd: 0,
      remoteFin: FIN_NONE,
      remoteFinEnd: 0,
    });
  }

  /**
   * This connection after a failover, if `former` is what the primary itself translated of it: what
   * comes from the remote end is no longer mirrored in the primary's numbers, so the offsets add.
   */
  behind(former: Translation | undefined): Translation {
    // The primary has opened another connection of the same ports, which it does not translate.
    const replaced = this.isn !== undefined && former?.isReplacedByIsn(this.#mirroredIsn) === true;
    if (former === undefined || replaced) return new Translation(this.key, this.state);
    const base = former.state;
    const state: TranslationState = {
      ...base,
      isn: this.isn,
      seqOffset: seqAdd(base.seqOffset, this.seqOffset),
      timestampOffset: seqAdd(base.timestampOffset, this.#timestampOffset),
    };
    return new Translation(this.key, state, base);
  }

  /** For the next secondary. */
  get state(): TranslationState {
    return {
      isn: this.isn,
      seqOffset: this.seqOffset,
      timestampOffset: this.#timestampOffset,
      guestFin: this.#guestFin,
      guestFinEnd: this.#guestFinEnd,
      remoteFin: this.#remoteFin,
      remoteFinEnd: this.#remoteFinEnd,
    };
  }

  /** Nothing is translated (yet): forgetting this loses no connection. */
  get inert(): boolean {
    return this.isn === undefined && this.#timestampOffset === 0 && this.#formerOffset === 0;
  }

  get wasReset(): boolean {
    return this.#wasReset;
  }

  /** Both sides have said all and know it, or one has reset the connection. */
  get closed(): boolean {
    if (this.#wasReset) return true;
    return this.#guestFin === FIN_ACKED && this.#remoteFin === FIN_ACKED;
  }

  /** The connection was active since the last checkpoint: the next TSval gets the margin. */
  expectMargin(): void {
    this.#marginDue = true;
  }

  /** A TSecr as the SVM must see it. Zero means that there is none, and stays (RFC 7323 3.2). */
  echoToGuest(echo: number): number {
    if (echo === 0) return 0;
    if (this.#formerOffset !== this.#timestampOffset) {
      if (seqBefore(echo, this.#raisedAt)) return seqAdd(echo, -this.#formerOffset);
      this.#formerOffset = this.#timestampOffset;
    }
    return seqAdd(echo, -this.#timestampOffset);
  }

  /** A TSval as the remote must see it, after the failover: never before what it has echoed. */
  timestampToRemote(timestamp: number): number {
    const now = seqAdd(timestamp, this.#timestampOffset);
    let raise = this.#marginDue ? TIMESTAMP_MARGIN : 0;
    this.#marginDue = false;
    if (this.#echoKnown) {
      const behind = seqDistance(this.#highestEcho, now);
      // One more, so that this echo of the PVM's and later ones of the SVM's are told apart.
      if (behind > 0 && behind <= TIMESTAMP_LEAD_MAX) raise += behind + 1;
    }
    if (raise === 0) return now;
    this.#formerOffset = this.#timestampOffset;
    this.#timestampOffset = seqAdd(this.#timestampOffset, raise);
    this.#raisedAt = seqAdd(now, raise);
    this.changed = true;
    return this.#raisedAt;
  }

  /** The remote has seen this TSval, in its own view of it. */
  noteEcho(echo: number): void {
    this.#highestEcho = this.#echoKnown ? seqMax(this.#highestEcho, echo) : echo;
    this.#echoKnown = true;
  }

  /** The remote sent `packet`; `ack` is its acknowledgement as the remote said it. */
  noteInbound(packet: Packet, ack: number): void {
    const { flags, seq } = packet;
    if ((flags & TCP_RST) !== 0) {
      // One that the guest may not accept is perhaps forged, and the guest asks back.
      if (this.#isFatalReset(packet, ack)) this.#reset();
      return;
    }
    if ((flags & TCP_FIN) !== 0 && this.#remoteFin === FIN_NONE) {
      this.#remoteFin = FIN_SENT;
      this.#remoteFinEnd = seqAdd(seq, packet.sequenceBytes);
      this.changed = true;
    }
    const acks = (flags & TCP_ACK) !== 0 && this.#guestFin === FIN_SENT;
    if (!acks || seqBefore(ack, this.#guestFinEnd)) return;
    this.#guestFin = FIN_ACKED;
    this.changed = true;
  }

  /** The guest sent `packet`, whose sequence number is still its own. */
  noteOutbound(packet: Packet): void {
    const { flags, seq, ack } = packet;
    if ((flags & TCP_RST) !== 0) {
      this.#reset();
      return;
    }
    if ((flags & TCP_SYN) !== 0) this.#unfinish();
    if ((flags & TCP_FIN) !== 0 && this.#guestFin === FIN_NONE) {
      this.#guestFin = FIN_SENT;
      this.#guestFinEnd = seqAdd(seq, packet.sequenceBytes + this.seqOffset);
      this.changed = true;
    }
    if ((flags & TCP_ACK) === 0) return;
    this.#guestAck = ack;
    this.#guestAckKnown = true;
    if (this.#remoteFin === FIN_SENT && !seqBefore(ack, this.#remoteFinEnd)) {
      this.#remoteFin = FIN_ACKED;
      this.changed = true;
    }
  }

  /** The segment that the guest wants to send begins another connection of the same ports. */
  isReplacedBy(packet: Packet): boolean {
    return (packet.flags & TCP_SYN) !== 0 && this.isReplacedByIsn(packet.seq);
  }

  /** The same for a connection of which only the guest's initial sequence number is known. */
  isReplacedByIsn(isn: number): boolean {
    return this.isn === undefined ? this.closed : isn !== this.isn;
  }

  /** The PVM's ISN of a connection that both guests have opened. */
  get #mirroredIsn(): number {
    return seqAdd(this.isn ?? 0, this.seqOffset);
  }

  #reset(): void {
    if (this.#wasReset) return;
    this.#wasReset = true;
    this.changed = true;
  }

  #unfinish(): void {
    if (this.#guestFin === FIN_NONE && this.#remoteFin === FIN_NONE) return;
    this.#guestFin = FIN_NONE;
    this.#guestFinEnd = 0;
    this.#remoteFin = FIN_NONE;
    this.#remoteFinEnd = 0;
    this.changed = true;
  }

  /**
   * In SYN_SENT the acknowledgement must fit, later the sequence number exactly (RFC 5961 section
   * 3.2).
   */
  #isFatalReset(packet: Packet, ack: number): boolean {
    if (this.#guestAckKnown) return packet.seq === this.#guestAck;
    if (this.isn === undefined || (packet.flags & TCP_ACK) === 0) return false;
    return ack === seqAdd(this.isn, this.seqOffset + 1);
  }
}
