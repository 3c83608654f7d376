/**
 * Lets remote ends and this host's guest understand each other, when they count a connection in
 * different numbers.
 *
 * Between two checkpoints both guests open connections on their own, with different initial
 * sequence numbers and timestamps. The remote end knows only the PVM's. So, for those connections:
 *
 *     mirrored -> SVM   acknowledgement, SACK blocks, TSecr; the sequence number that an ICMP error
 *                       quotes: from the PVM's numbers to the SVM's
 *
 * What the remote end itself counts (its sequence numbers and TSval, the SVM's acknowledgement and
 * TSecr) is equal for both guests and never touched. A checkpoint makes the SVM equal to the PVM
 * and ends these translations (`forget`).
 *
 * After a failover (`takeOver`) the guest hears and is heard by the LAN itself:
 *
 *     LAN -> guest      as above, from the remote end's numbers to the guest's
 *     guest -> LAN      sequence number, TSval: from the guest's numbers to the remote end's
 *
 * These translations last for the life of each connection, whatever checkpoints there are: the
 * guest is the PVM of a next secondary then, which mirrors, compares and checkpoints in *its*
 * numbers. Connections whose timestamps must not run backwards are added: see translation.ts. The
 * next secondary is told of all of them (`records`, `onChange`) and keeps them aside (`keep`) until
 * it takes over in its turn; then the two kinds are one, their offsets added up.
 *
 * In: batches (batch-wire.ts) with a virtio header of `vnetBytes` per frame. Out: the same. What
 * is malformed, a fragment, or of no known connection passes as it is. Checksums are adjusted, not
 * computed; a segment whose checksum the receiver of the frame has still to complete
 * (NEEDS_CSUM) holds only the sum of the pseudo-header, in which nothing changes.
 *
 * Known limits. Not translated: fragments of TCP segments; connections whose segments are signed
 * (TCP-AO, MD5), because the signature covers the numbers. Forgotten only after days without use or
 * when the guest uses the ports again: a translated connection whose FINs were exchanged between
 * its opening and the failover, or whose remote end vanished.
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
import {
  TRANSLATION_IDLE_SWEEPS,
  TRANSLATION_WATCH_SWEEPS,
  TRANSLATIONS_CLOSED_MAX,
  TRANSLATIONS_MAX,
} from '../limits.js';
import type { OpenedFlow } from '../opened-flow-wire.js';
import { PACKET_DATAGRAM, PACKET_TCP, Packet, TCP_ACK, TCP_RST } from '../packet.js';
import type { TranslationRecord } from '../translation-wire.js';
import { QuotedSegment } from './quoted-segment.js';
import { Translation } from './translation.js';
import { TranslationTable } from './translation-table.js';

/** `vnetBytes`: length of the virtio header in front of each Ethernet header; 0: there is none. */
export interface FlowRewriterOptions {
  readonly vnetBytes: number;
  readonly flowsMax?: number;
}

/** Since the rewriter was made, except the first block, which is now. */
export interface FlowRewriterCounters {
  /** Opened since the last checkpoint: mirrored input is translated. */
  readonly mirroredFlows: number;
  /**
   * Translated for the LAN, now or after a failover; of these those that have closed, and those
   * whose timestamps are only watched.
   */
  readonly flows: number;
  readonly closedFlows: number;
  readonly watchedFlows: number;

  readonly openedFlows: number;
  readonly inboundRewritten: number;
  readonly outboundRewritten: number;
  readonly errorsRewritten: number;
  /** Inbound segments of connections that the full table could not take in. */
  readonly unwatchedSegments: number;
  /** Connections that were lost at a failover, because the table was full. */
  readonly lostFlows: number;
}

/** VIRTIO_NET_HDR_F_NEEDS_CSUM in the first byte of the virtio header. */
const NEEDS_CSUM = 1;

export class FlowRewriter {
  /**
   * A translation that outlives checkpoints has begun, changed or ended; called before the segment
   * that tells the remote end of it is given back.
   */
  onChange: ((record: TranslationRecord) => void) | undefined;

  readonly #vnetBytes: number;
  /** From the primary's numbers to this guest's, since the last checkpoint. */
  readonly #mirrored: TranslationTable;
  /** From the remote ends' numbers to the primary's; from `takeOver` on to this guest's. */
  readonly #lasting: TranslationTable;
  readonly #packet = new Packet();
  readonly #quoted = new QuotedSegment();
  #takenOver = false;
  /** Connections of which nothing is known are looked at: their timestamps may run backwards. */
  #watching = false;
  #watchSweeps = 0;
  #sweeps = 0;
  #openedFlows = 0;
  #inboundRewritten = 0;
  #outboundRewritten = 0;
  #errorsRewritten = 0;
  #unwatchedSegments = 0;
  #lostFlows = 0;

  constructor(options: FlowRewriterOptions) {
    const flowsMax = options.flowsMax ?? TRANSLATIONS_MAX;
    this.#vnetBytes = options.vnetBytes;
    this.#mirrored = new TranslationTable(flowsMax, TRANSLATIONS_CLOSED_MAX);
    this.#lasting = new TranslationTable(flowsMax, TRANSLATIONS_CLOSED_MAX);
  }

  get counters(): FlowRewriterCounters {
    return {
      mirroredFlows: this.#mirrored.size,
      flows: this.#lasting.size,
      closedFlows: this.#lasting.closedCount,
      watchedFlows: this.#lasting.inertCount,
      openedFlows: this.#openedFlows,
      inboundRewritten: this.#inboundRewritten,
      outboundRewritten: this.#outboundRewritten,
      errorsRewritten: this.#errorsRewritten,
      unwatchedSegments: this.#unwatchedSegments,
      lostFlows: this.#lostFlows,
    };
  }

  /**
   * The primary says that both guests opened this connection: translates what is mirrored of it
   * from now on. A former connection with the same key ends. Throws `ProtocolError` beyond the
   * bound. Not after `takeOver`: what the primary had not been told to be known never left.
   */
  open(flow: OpenedFlow): void {
    assert(!this.#takenOver, 'A guest that has taken over opens its connections alone');
    const translation = Translation.opened(flow);
    const { size } = this.#mirrored;
    if (!this.#replace(this.#mirrored, translation)) {
      throw new ProtocolError(`More than ${size} flows are opened between checkpoints`);
    }
    this.#openedFlows++;
  }

  /**
   * A batch that the primary has mirrored, as this guest must see it: the same buffer when nothing
   * changes, else a copy. After `takeOver`, too: there may be a rest.
   */
  mirrored(batch: Buffer): Buffer {
    if (this.#takenOver) this.#watchMirrored(batch);
    return this.#mirrored.size === 0 ? batch : this.#inward(batch, this.#mirrored);
  }

  /** This guest has become equal to the primary's by a checkpoint, or nothing is mirrored any more. */
  forget(): void {
    this.#mirrored.clear();
  }

  /**
   * The primary says what it translates itself; for the time after a failover. Throws
   * `ProtocolError` beyond the bound.
   */
  keep(record: TranslationRecord): void {
    assert(!this.#takenOver, 'A guest that has taken over has no primary');
    const { key, state } = record;
    const translation = new Translation(key, state, state);
    const former = this.#lasting.find(translation.key, translation.hash);
    if (state === undefined) {
      if (former !== undefined) this.#lasting.remove(former);
      return;
    }
    const { size } = this.#lasting;
    if (!this.#replace(this.#lasting, translation)) {
      throw new ProtocolError(`The primary translates more than ${size} flows`);
    }
    if (translation.closed) this.#lasting.close(translation);
  }

  /** Another primary, or none: what the last one said is void. */
  dropKept(): void {
    assert(!this.#takenOver, 'What is translated now is not dropped');
    this.#lasting.clear();
  }

  /**
   * From now on the guest speaks with the LAN. `mirrored` is what the primary has mirrored since
   * the last checkpoint, as it came: it tells which timestamps the remote ends have seen.
   */
  takeOver(mirrored: Iterable<Buffer>): void {
    assert(!this.#takenOver, 'The SVM takes over twice');
    this.#takenOver = true;
    this.#watching = true;
    this.#watchSweeps = 0;
    this.#mirrored.forEach((translation) => {
      this.#adopt(translation);
    });
    this.#lasting.forEach((translation) => {
      translation.expectMargin();
      translation.usedAt = this.#sweeps;
    });
    for (const batch of mirrored) this.#watchMirrored(batch);
  }

  /**
   * A batch from the LAN, after `takeOver`, as the guest must see it: the same buffer when nothing
   * changes, else a copy.
   */
  inbound(batch: Buffer): Buffer {
    assert(this.#takenOver, 'The LAN is heard before the guest has taken over');
    if (this.#lasting.size === 0 && !this.#watching) return batch;
    return this.#inward(batch, this.#lasting);
  }

  /** A batch from the guest, after `takeOver`, as the LAN must see it: changed in place. */
  outbound(batch: Buffer): void {
    assert(this.#takenOver, 'The SVM is translated for the LAN before it has taken over');
    if (this.#lasting.size === 0) return;
    const packet = this.#packet;
    for (let at = 0; at + LENGTH_BYTES <= batch.length; ) {
      const start = at + LENGTH_BYTES;
      at = start + batch.readUInt32BE(at);
      if (at > batch.length) break;
      packet.parse(batch, start + this.#vnetBytes, at, true);
      if (packet.kind === PACKET_TCP) this.#outboundSegment(batch, start);
    }
  }

  /** To be called every `TRANSLATION_SWEEP_MS` after `takeOver`: forgets what nobody uses. */
  sweep(): void {
    this.#sweeps++;
    this.#watchSweeps++;
    if (this.#watchSweeps >= TRANSLATION_WATCH_SWEEPS) this.#watching = false;
    const unused: Translation[] = [];
    this.#lasting.forEach((translation) => {
      const idle = this.#sweeps - translation.usedAt >= TRANSLATION_IDLE_SWEEPS;
      if (translation.inert ? !this.#watching : idle) unused.push(translation);
    });
    for (const translation of unused) this.#end(translation);
  }

  /** All that the next secondary must know. */
  records(): TranslationRecord[] {
    const records: TranslationRecord[] = [];
    this.#lasting.forEach((translation) => {
      if (translation.inert || translation.wasReset) return;
      records.push({ key: translation.key, state: translation.state });
    });
    return records;
  }

  /** A connection that was translated since the last checkpoint is so for its life. */
  #adopt(opened: Translation): void {
    const translation = opened.behind(this.#lasting.find(opened.key, opened.hash));
    translation.expectMargin();
    translation.usedAt = this.#sweeps;
    if (!this.#replace(this.#lasting, translation)) this.#lostFlows++;
  }

  #inward(batch: Buffer, table: TranslationTable): Buffer {
    const packet = this.#packet;
    let target = batch;
    for (let at = 0; at + LENGTH_BYTES <= batch.length; ) {
      const start = at + LENGTH_BYTES;
      at = start + batch.readUInt32BE(at);
      if (at > batch.length) break;
      packet.parse(batch, start + this.#vnetBytes, at, false);
      if (packet.kind === PACKET_TCP) {
        const known =
          table === this.#lasting ? this.#watch(batch, false) : table.find(packet.key, packet.hash);
        if (known !== undefined) target = this.#inboundSegment(batch, target, start, known);
      } else if (packet.kind === PACKET_DATAGRAM) {
        target = this.#inboundError(batch, target, start, table);
      }
    }
    return target;
  }

  // Plain arguments here and below: an object would be made for every segment.
  #inboundSegment(batch: Buffer, target: Buffer, start: number, translation: Translation): Buffer {
    const packet = this.#packet;
    // Without the flag neither the acknowledgement nor SACK nor TSecr mean anything.
    if ((packet.flags & TCP_ACK) === 0) return target;
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
  #inboundError(batch: Buffer, target: Buffer, start: number, table: TranslationTable): Buffer {
    const quoted = this.#quoted;
    if (!quoted.parse(batch, this.#packet)) return target;
    const translation = table.find(quoted.key, quoted.hash);
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
    const translation = this.#lasting.find(packet.key, packet.hash);
    if (translation === undefined) return;
    translation.usedAt = this.#sweeps;
    if (translation.isReplacedBy(packet)) {
      this.#end(translation);
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
      if (wasInert && !translation.inert) this.#lasting.activate(translation);
    }
    if (rewritten) this.#outboundRewritten++;
    translation.noteOutbound(packet);
    this.#settle(translation);
  }

  /** What the primary has mirrored, and in its guest's numbers: see `#watch`. */
  #watchMirrored(batch: Buffer): void {
    const packet = this.#packet;
    for (let at = 0; at + LENGTH_BYTES <= batch.length; ) {
      const start = at + LENGTH_BYTES;
      at = start + batch.readUInt32BE(at);
      if (at > batch.length) break;
      packet.parse(batch, start + this.#vnetBytes, at, false);
      if (packet.kind === PACKET_TCP) this.#watch(batch, true);
    }
  }

  /**
   * Learns from an inbound segment, after the failover, what its sender has seen. Gives the
   * segment's translation, which is made if its sender has seen a timestamp.
   */
  #watch(bytes: Buffer, mirrored: boolean): Translation | undefined {
    const packet = this.#packet;
    const { flags, timestampsAt } = packet;
    const hasEcho = timestampsAt !== 0 && (flags & TCP_ACK) !== 0 && (flags & TCP_RST) === 0;
    let echo = hasEcho ? bytes.readUInt32BE(timestampsAt + 4) : 0;
    let translation = this.#lasting.find(packet.key, packet.hash);
    if (translation === undefined) {
      if (echo === 0 || !this.#watching) return undefined;
      translation = new Translation(packet.key);
      if (!this.#lasting.add(translation)) {
        this.#unwatchedSegments++;
        return undefined;
      }
      if (mirrored) translation.expectMargin();
    }
    translation.usedAt = this.#sweeps;
    let { ack } = packet;
    if (mirrored) {
      ack = seqAdd(ack, translation.mirroredSeqOffset);
      if (echo !== 0) echo = seqAdd(echo, translation.mirroredTimestampOffset);
    }
    if (echo !== 0) translation.noteEcho(echo);
    translation.noteInbound(packet, ack);
    this.#settle(translation);
    return translation;
  }

  /** After whatever a segment has changed. */
  #settle(translation: Translation): void {
    if (translation.changed) {
      translation.changed = false;
      if (translation.wasReset) this.#tellEnd(translation);
      else if (!translation.inert) {
        this.onChange?.({ key: translation.key, state: translation.state });
      }
    }
    if (translation.closed) this.#lasting.close(translation);
  }

  #end(translation: Translation): void {
    this.#lasting.remove(translation);
    this.#tellEnd(translation);
  }

  #tellEnd(translation: Translation): void {
    if (!translation.inert) this.onChange?.({ key: translation.key, state: undefined });
  }

  /** Adds it in place of one with the same key; false when there is no room. */
  #replace(table: TranslationTable, translation: Translation): boolean {
    const former = table.find(translation.key, translation.hash);
    if (former !== undefined) table.remove(former);
    return table.add(translation);
  }

  /** Where the checksum lies, unless it is left to the receiver of the frame. */
  #checksumAt(bytes: Buffer, start: number, checksumAt: number): number {
    const needsCsum = this.#vnetBytes > 0 && (bytes.readUInt8(start) & NEEDS_CSUM) !== 0;
    return needsCsum ? NO_CHECKSUM : checksumAt;
  }
}
