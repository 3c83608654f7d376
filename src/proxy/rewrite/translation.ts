/**
 * One TCP connection whose remote end knows the PVM's numbers while the SVM counts in its own.
 *
 *     remote's number = SVM's number + offset, modulo 2^32
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

/** No, sent, acknowledged. */
const FIN_NONE = 0;
const FIN_SENT = 1;
const FIN_ACKED = 2;

export class Translation {
  /** Owned by this; see packet.ts. */
  readonly key: Int32Array;
  readonly hash: number;
  /** The next translation in the same bucket of the table. */
  nextInBucket: Translation | undefined = undefined;
  /** SVM's ISN; undefined when the connection is older than the last checkpoint. */
  readonly isn: number | undefined;
  /** Remote's sequence numbers minus SVM's, unsigned. */
  readonly seqOffset: number;

  #timestampOffset = 0;
  /** The offset before it grew last; equal when it has not grown or this no longer matters. */
  #formerOffset = 0;
  /** First TSval, as the remote saw it, of the present offset. */
  #raisedAt = 0;
  #highestEcho = 0;
  #echoKnown = false;
  #marginDue = false;

  /** All in the remote's view of the sequence spaces; a position is one behind the FIN. */
  #guestFin = FIN_NONE;
  #guestFinEnd = 0;
  #remoteFin = FIN_NONE;
  #remoteFinEnd = 0;
  /** What the guest expects next from the remote, once it has said so. */
  #guestAck = 0;
  #guestAckKnown = false;
  #wasReset = false;

  /** Without `opened`: a connection from before the last checkpoint, of which all is equal. */
  constructor(key: Int32Array, opened?: OpenedFlow) {
    this.key = Int32Array.from(key);
    this.hash = hashKey(key);
    this.isn = opened?.secondaryIsn;
    this.seqOffset = opened === undefined ? 0 : seqAdd(opened.primaryIsn, -opened.secondaryIsn);
    const timestamps = opened?.timestamps;
    if (timestamps !== undefined) {
      this.#timestampOffset = seqAdd(timestamps.primary, -timestamps.secondary);
      this.#formerOffset = this.#timestampOffset;
    }
  }

  /** Nothing is translated (yet): forgetting this loses no connection. */
  get inert(): boolean {
    return this.isn === undefined && this.#timestampOffset === 0 && this.#formerOffset === 0;
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
    return this.#raisedAt;
  }

  /** The remote has seen this TSval, in its own view of it. */
  noteEcho(echo: number): void {
    this.#highestEcho = this.#echoKnown ? seqMax(this.#highestEcho, echo) : echo;
    this.#echoKnown = true;
  }

  /** The remote sent `packet`, as it came. */
  noteInbound(packet: Packet): void {
    const { flags, seq, ack } = packet;
    if ((flags & TCP_RST) !== 0) {
      // One that the guest may not accept is perhaps forged, and the guest asks back.
      if (this.#isFatalReset(packet)) this.#wasReset = true;
      return;
    }
    if ((flags & TCP_FIN) !== 0 && this.#remoteFin === FIN_NONE) {
      this.#remoteFin = FIN_SENT;
      this.#remoteFinEnd = seqAdd(seq, packet.sequenceBytes);
    }
    const acks = (flags & TCP_ACK) !== 0 && this.#guestFin === FIN_SENT;
    if (acks && !seqBefore(ack, this.#guestFinEnd)) this.#guestFin = FIN_ACKED;
  }

  /** The guest sent `packet`, whose sequence number is still its own. */
  noteOutbound(packet: Packet): void {
    const { flags, seq, ack } = packet;
    if ((flags & TCP_RST) !== 0) {
      this.#wasReset = true;
      return;
    }
    if ((flags & TCP_SYN) !== 0) {
      this.#guestFin = FIN_NONE;
      this.#remoteFin = FIN_NONE;
    }
    if ((flags & TCP_FIN) !== 0 && this.#guestFin === FIN_NONE) {
      this.#guestFin = FIN_SENT;
      this.#guestFinEnd = seqAdd(seq, packet.sequenceBytes + this.seqOffset);
    }
    if ((flags & TCP_ACK) === 0) return;
    this.#guestAck = ack;
    this.#guestAckKnown = true;
    if (this.#remoteFin === FIN_SENT && !seqBefore(ack, this.#remoteFinEnd)) {
      this.#remoteFin = FIN_ACKED;
    }
  }

  /** The segment that the guest wants to send begins another connection of the same ports. */
  isReplacedBy(packet: Packet): boolean {
    if ((packet.flags & TCP_SYN) === 0) return false;
    return this.isn === undefined ? this.closed : packet.seq !== this.isn;
  }

  /**
   * In SYN_SENT the acknowledgement must fit, later the sequence number exactly (RFC 5961 section
   * 3.2).
   */
  #isFatalReset(packet: Packet): boolean {
    if (this.#guestAckKnown) return packet.seq === this.#guestAck;
    if (this.isn === undefined || (packet.flags & TCP_ACK) === 0) return false;
    return packet.ack === seqAdd(this.isn, this.seqOffset + 1);
  }
}
