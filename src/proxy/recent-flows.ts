/**
 * The TCP connections whose remote ends were heard last, with what a nudge after a failover must
 * know of each (nudge-wire.ts).
 *
 * In: batches that remote ends sent, untrusted. Out: at most `RECENT_FLOWS_MAX` connections. A
 * connection that shares its place in the table with another one makes way for it: to forget one
 * only means that it comes back by its own timers. Nothing is allocated per frame.
 *
 * A connection that is only being opened, or that its remote end has closed or reset, is none: its
 * numbers say nothing, and a SYN_SENT ends at the error that wakes an established one (RFC 1122
 * section 4.2.3.9).
 */
import { seqAdd, seqMax } from '../lib/index.js';
import { LENGTH_BYTES } from './batch-wire.js';
import { RECENT_FLOWS_MAX, VNET_HEADER_BYTES } from './limits.js';
import {
  FLOW_KEY_WORDS,
  PACKET_TCP,
  Packet,
  TCP_ACK,
  TCP_FIN,
  TCP_RST,
  TCP_SYN,
} from './packet.js';

/** Ethernet with two VLAN tags. */
const LINK_HEADER_BYTES_MAX = 22;
const SOURCE_MAC_AT = 6;

/** What the remote end of a connection has said; all numbers as it said them. */
export interface RecentFlow {
  /** See packet.ts. */
  readonly key: Readonly<Int32Array>;
  /** The Ethernet header with its VLAN tags, from the remote end to the guest. */
  readonly link: Buffer;
  /** The sequence number behind all that it has sent. */
  readonly next: number;
  /** What it expects from the guest. */
  readonly acknowledged: number;
  readonly window: number;
  readonly timestamps: boolean;
  /** TSval and TSecr, if there are timestamps. */
  readonly timestamp: number;
  readonly echo: number;
}

class Slot implements RecentFlow {
  readonly key = new Int32Array(FLOW_KEY_WORDS);
  readonly #link = Buffer.alloc(LINK_HEADER_BYTES_MAX);
  #linkBytes = 0;
  /** `closed`: by its remote end, which may still acknowledge what the guest says. */
  state: 'free' | 'open' | 'closed' = 'free';
  next = 0;
  acknowledged = 0;
  window = 0;
  timestamps = false;
  timestamp = 0;
  echo = 0;

  get link(): Buffer {
    return this.#link.subarray(0, this.#linkBytes);
  }

  has(key: Int32Array): boolean {
    if (this.state === 'free') return false;
    for (let word = 0; word < FLOW_KEY_WORDS; word++) {
      if (this.key[word] !== key[word]) return false;
    }
    return true;
  }

  take(bytes: Buffer, packet: Packet): void {
    this.state = 'open';
    this.key.set(packet.key);
    this.#linkBytes = packet.ipAt - packet.frameAt;
    bytes.copy(this.#link, 0, packet.frameAt, packet.ipAt);
    this.window = packet.window;
    this.timestamps = packet.timestampsAt !== 0;
    this.timestamp = this.timestamps ? bytes.readUInt32BE(packet.timestampsAt) : 0;
    this.echo = this.timestamps ? bytes.readUInt32BE(packet.timestampsAt + 4) : 0;
  }
}

export class RecentFlows {
  readonly #slots: (Slot | undefined)[] = new Array(RECENT_FLOWS_MAX).fill(undefined);
  readonly #packet = new Packet();

  /** A well-formed batch from remote ends. */
  note(batch: Buffer): void {
    for (let at = 0; at < batch.length; ) {
      const start = at + LENGTH_BYTES + VNET_HEADER_BYTES;
      at += LENGTH_BYTES + batch.readUInt32BE(at);
      this.#packet.parse(batch, start, at, false);
      if (this.#packet.kind === PACKET_TCP) this.#noteSegment(batch);
    }
  }

  /** All that is known now; changes with the next batch. */
  flows(): RecentFlow[] {
    return this.#slots.filter((slot) => slot?.state === 'open') as Slot[];
  }

  #noteSegment(batch: Buffer): void {
    const packet = this.#packet;
    const index = packet.hash % RECENT_FLOWS_MAX;
    let slot = this.#slots[index];
    const known = slot?.has(packet.key) === true;
    if ((packet.flags & (TCP_SYN | TCP_FIN | TCP_RST)) !== 0) {
      const opens = (packet.flags & TCP_SYN) !== 0;
      if (known && slot !== undefined) slot.state = opens ? 'free' : 'closed';
      return;
    }
    if (known && slot?.state === 'closed') return;
    // No error goes to what is no single host (RFC 1122 section 3.2.2).
    const isGroup = (batch.readUInt8(packet.frameAt + SOURCE_MAC_AT) & 1) !== 0;
    if ((packet.flags & TCP_ACK) === 0 || isGroup) return;
    if (slot === undefined) {
      slot = new Slot();
      this.#slots[index] = slot;
    }
    // A segment may have been overtaken on its way, or be sent again.
    const next = seqAdd(packet.seq, packet.sequenceBytes);
    slot.next = known ? seqMax(next, slot.next) : next;
    slot.acknowledged = known ? seqMax(packet.ack, slot.acknowledged) : packet.ack;
    slot.take(batch, packet);
  }
}
