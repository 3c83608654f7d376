/**
 * Lets remote ends that speak with the PVM be understood by the SVM, and after a failover the SVM
 * by them.
 *
 * Between two checkpoints both guests open connections on their own, with different initial
 * sequence numbers and timestamps. The remote end knows only the PVM's. So, for those connections:
 *
 *     LAN -> SVM   acknowledgement, SACK blocks, TSecr; the sequence number that an ICMP error
 *                  quotes: from the PVM's numbers to the SVM's
 *     SVM -> LAN   after the failover: sequence number, TSval: from the SVM's numbers to the PVM's
 *
 * What the remote end itself counts (its sequence numbers and TSval, the SVM's acknowledgement and
 * TSecr) is equal for both guests and never touched. A checkpoint makes the SVM equal to the PVM
 * and ends all translations; a failover makes them last for the life of each connection, and adds
 * those whose timestamps must not run backwards: see translation.ts.
 *
 * In: batches (batch-wire.ts) with a virtio header of `vnetBytes` per frame. Out: the same. What
 * is malformed, a fragment, or of no known connection passes as it is. Checksums are adjusted, not
 * computed; a segment whose checksum the receiver of the frame has still to complete
 * (NEEDS_CSUM) holds only the sum of the pseudo-header, in which nothing changes.
 *
 * Known limits. Not translated: fragments of TCP segments; connections whose segments are signed
 * (TCP-AO, MD5), because the signature covers the numbers. Forgotten only by a checkpoint or when
 * the SVM uses the ports again: a translated connection whose FINs were exchanged before the
 * failover, or whose remote end vanished.
 */
import { assert, ProtocolError, seqAdd } from '../../lib/index.js';
import { LENGTH_BYTES } from '../batch-wire.js';
import {
  adjustChecksum32,
  NO_CHECKSUM,
  replaceUint16,
  replaceUint32,
  TCP_CHECKSUM_OFFSET,
} from '../checksum.js';
import { TRANSLATIONS_CLOSED_MAX, TRANSLATIONS_MAX } from '../limits.js';
import type { OpenedFlow } from '../opened-flow-wire.js';
import { PACKET_DATAGRAM, PACKET_TCP, Packet, TCP_ACK, TCP_RST } from '../packet.js';
import { QuotedSegment } from './quoted-segment.js';
import { Translation } from './translation.js';
import { TranslationTable } from './translation-table.js';

/** `vnetBytes`: length of the virtio header in front of each Ethernet header; 0: there is none. */
export interface FlowRewriterOptions {
  readonly vnetBytes: number;
  readonly flowsMax?: number;
}

/** Since the rewriter was made, except the first three, which are now. */
export interface FlowRewriterCounters {
  /** Connections in the table; those that have closed; those whose timestamps are only watched. */
  readonly flows: number;
  readonly closedFlows: number;
  readonly watchedFlows: number;
  readonly openedFlows: number;
  readonly inboundRewritten: number;
  readonly outboundRewritten: number;
  readonly errorsRewritten: number;
  /** Inbound segments of connections that the full table could not take in. */
  readonly unwatchedSegments: number;
}

/** VIRTIO_NET_HDR_F_NEEDS_CSUM in the first byte of the virtio header. */
const NEEDS_CSUM = 1;

export class FlowRewriter {
  readonly #vnetBytes: number;
  readonly #table: TranslationTable;
  readonly #packet = new Packet();
  readonly #quoted = new QuotedSegment();
  #takenOver = false;
  #openedFlows = 0;
  #inboundRewritten = 0;
  #outboundRewritten = 0;
  #errorsRewritten = 0;
  #unwatchedSegments = 0;

  constructor(options: FlowRewriterOptions) {
    this.#vnetBytes = options.vnetBytes;
    this.#table = new TranslationTable(
      options.flowsMax ?? TRANSLATIONS_MAX,
      TRANSLATIONS_CLOSED_MAX,
    );
  }

  get counters(): FlowRewriterCounters {
    return {
      flows: this.#table.size,
      closedFlows: this.#table.closedCount,
      watchedFlows: this.#table.inertCount,
      openedFlows: this.#openedFlows,
      inboundRewritten: this.#inboundRewritten,
      outboundRewritten: this.#outboundRewritten,
      errorsRewritten: this.#errorsRewritten,
      unwatchedSegments: this.#unwatchedSegments,
    };
  }

  /**
   * The primary says that both guests opened this connection: translates it from now on. A former
   * connection with the same key ends. Throws `ProtocolError` beyond the bound.
   */
  open(flow: OpenedFlow): void {
    const translation = new Translation(flow.key, flow);
    const former = this.#table.find(translation.key, translation.hash);
    if (former !== undefined) this.#table.remove(former);
    if (!this.#table.add(translation)) {
      throw new ProtocolError(`More than ${this.#table.size} flows are opened between checkpoints`);
    }
    this.#openedFlows++;
  }

  /**
   * A batch from the LAN as the SVM must see it: the same buffer when nothing changes, else a copy.
   */
  inbound(batch: Buffer): Buffer {
    if (this.#table.size === 0 && !this.#takenOver) return batch;
    const packet = this.#packet;
    let target = batch;
    for (let at = 0; at + LENGTH_BYTES <= batch.length; ) {
      const start = at + LENGTH_BYTES;
      at = start + batch.readUInt32BE(at);
      if (at > batch.length) break;
      packet.parse(batch, start + this.#vnetBytes, at, false);
      if (packet.kind === PACKET_TCP) target = this.#inboundSegment(batch, target, start);
      else if (packet.kind === PACKET_DATAGRAM) target = this.#inboundError(batch, target, start);
    }
    return target;
  }

  /** A batch from the SVM, after `takeOver`, as the LAN must see it: changed in place. */
  outbound(batch: Buffer): void {
    assert(this.#takenOver, 'The SVM is translated for the LAN before it has taken over');
    if (this.#table.size === 0) return;
    const packet = this.#packet;
    for (let at = 0; at + LENGTH_BYTES <= batch.length; ) {
      const start = at + LENGTH_BYTES;
      at = start + batch.readUInt32BE(at);
      if (at > batch.length) break;
      packet.parse(batch, start + this.#vnetBytes, at, true);
      if (packet.kind === PACKET_TCP) this.#outboundSegment(batch, start);
    }
  }

  /** The SVM has become equal to the PVM by a checkpoint: nothing is translated any more. */
  forget(): void {
    this.#table.clear();
    this.#takenOver = false;
  }

  /**
   * From now on the SVM speaks. `inbound` is what the LAN sent since the last checkpoint, as it
   * came: it tells which timestamps the remote ends have seen.
   */
  takeOver(inbound: Iterable<Buffer>): void {
    assert(!this.#takenOver, 'The SVM takes over twice');
    this.#takenOver = true;
    this.#table.forEach((translation) => {
      translation.expectMargin();
    });
    const packet = this.#packet;
    for (const batch of inbound) {
      for (let at = 0; at + LENGTH_BYTES <= batch.length; ) {
        const start = at + LENGTH_BYTES;
        at = start + batch.readUInt32BE(at);
        if (at > batch.length) break;
        packet.parse(batch, start + this.#vnetBytes, at, false);
        if (packet.kind === PACKET_TCP) this.#watch(batch, true);
      }
    }
  }

  #inboundSegment(batch: Buffer, target: Buffer, start: number): Buffer {
    const packet = this.#packet;
    const translation = this.#takenOver
      ? this.#watch(batch, false)
      : this.#table.find(packet.key, packet.hash);
    // Without the flag neither the acknowledgement nor SACK nor TSecr mean anything.
    if (translation === undefined || (packet.flags & TCP_ACK) === 0) return target;
    const { seqOffset } = translation;
    const { timestampsAt } = packet;
    const echo = timestampsAt === 0 ? 0 : batch.readUInt32BE(timestampsAt + 4);
    const guestEcho = translation.echoToGuest(echo);
    if (seqOffset === 0 && guestEcho === echo) return target;
    this.#inboundRewritten++;
    const out = target === batch ? Buffer.from(batch) : target;
    const checksumAt = this.#checksumAt(batch, start, packet.transportAt + TCP_CHECKSUM_OFFSET);
    if (seqOffset !== 0) {
      replaceUint32(out, packet.transportAt + 8, seqAdd(packet.ack, -seqOffset), checksumAt);
      for (let edge = 0; edge < packet.sackBlocks * 2; edge++) {
        const at = packet.sackAt + edge * 4;
        replaceUint32(out, at, seqAdd(batch.readUInt32BE(at), -seqOffset), checksumAt);
      }
    }
    if (guestEcho !== echo) replaceUint32(out, timestampsAt + 4, guestEcho, checksumAt);
    return out;
  }

  /** A host checks that an ICMP error quotes a sequence number that it has outstanding. */
  #inboundError(batch: Buffer, target: Buffer, start: number): Buffer {
    const quoted = this.#quoted;
    if (!quoted.parse(batch, this.#packet)) return target;
    const translation = this.#table.find(quoted.key, quoted.hash);
    if (translation === undefined || translation.seqOffset === 0) return target;
    this.#errorsRewritten++;
    const out = target === batch ? Buffer.from(batch) : target;
    const errorChecksumAt = this.#checksumAt(batch, start, quoted.errorChecksumAt);
    const seqAt = quoted.transportAt + 4;
    const checksumAt = quoted.transportAt + TCP_CHECKSUM_OFFSET;
    const seq = seqAdd(batch.readUInt32BE(seqAt), -translation.seqOffset);
    if (checksumAt + 2 <= quoted.end) {
      const checksum = batch.readUInt16BE(checksumAt);
      const adjusted = adjustChecksum32(checksum, batch.readUInt32BE(seqAt), seq);
      replaceUint16(out, checksumAt, adjusted, errorChecksumAt);
    }
    replaceUint32(out, seqAt, seq, errorChecksumAt);
    return out;
  }

  #outboundSegment(batch: Buffer, start: number): void {
    const packet = this.#packet;
    const { flags, seq, transportAt, timestampsAt } = packet;
    const translation = this.#table.find(packet.key, packet.hash);
    if (translation === undefined) return;
    if (translation.isReplacedBy(packet)) {
      this.#table.remove(translation);
      return;
    }
    const { seqOffset } = translation;
    let rewritten = false;
    const checksumAt = this.#checksumAt(batch, start, transportAt + TCP_CHECKSUM_OFFSET);
    const isReset = (flags & TCP_RST) !== 0;
    // The answer to a segment without ACK has no number of the guest's (RFC 9293 section 3.5.2).
    const isBareReset = isReset && seq === 0 && (flags & TCP_ACK) !== 0;
    if (seqOffset !== 0 && !isBareReset) {
      replaceUint32(batch, transportAt + 4, seqAdd(seq, seqOffset), checksumAt);
      rewritten = true;
    }
    if (timestampsAt !== 0) {
      const wasInert = translation.inert;
      const before = batch.readUInt32BE(timestampsAt);
      const after = translation.timestampToRemote(before);
      if (after !== before) {
        replaceUint32(batch, timestampsAt, after, checksumAt);
        rewritten = true;
      }
      if (wasInert && !translation.inert) this.#table.activate(translation);
    }
    if (rewritten) this.#outboundRewritten++;
    translation.noteOutbound(packet);
    if (translation.closed) this.#table.close(translation);
  }

  /**
   * Learns from an inbound segment, after the failover, what its sender has seen. Gives the
   * segment's translation, which is made if its sender has seen a timestamp.
   */
  #watch(bytes: Buffer, beforeFailover: boolean): Translation | undefined {
    const packet = this.#packet;
    const { flags, timestampsAt } = packet;
    const hasEcho = timestampsAt !== 0 && (flags & TCP_ACK) !== 0 && (flags & TCP_RST) === 0;
    const echo = hasEcho ? bytes.readUInt32BE(timestampsAt + 4) : 0;
    let translation = this.#table.find(packet.key, packet.hash);
    if (translation === undefined) {
      if (echo === 0) return undefined;
      translation = new Translation(packet.key);
      if (!this.#table.add(translation)) {
        this.#unwatchedSegments++;
        return undefined;
      }
      if (beforeFailover) translation.expectMargin();
    }
    if (echo !== 0) translation.noteEcho(echo);
    translation.noteInbound(packet);
    if (translation.closed) this.#table.close(translation);
    return translation;
  }

  /** Where the checksum lies, unless it is left to the receiver of the frame. */
  #checksumAt(bytes: Buffer, start: number, checksumAt: number): number {
    const needsCsum = this.#vnetBytes > 0 && (bytes.readUInt8(start) & NEEDS_CSUM) !== 0;
    return needsCsum ? NO_CHECKSUM : checksumAt;
  }
}
