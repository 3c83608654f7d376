/**
 * What must be true of any frame that a comparer lets go, worked out naively: a list of all that
 * the SVM has said in the epoch and of all that has left, without flows' states or order. It knows
 * less than the comparer, so it can't tell that a frame should have left; but what leaves without
 * its consent was not confirmed.
 */
import {
  FLOW_KEY_WORDS,
  PACKET_FRAGMENT,
  PACKET_OPAQUE,
  PACKET_TCP,
  Packet,
} from '../../src/proxy/packet.js';
import { ACK, FIN, RST, SYN } from './packets.js';

/** What is known of one TCP flow: of the SVM's epoch, or of all that left. */
interface Said {
  /** `sequence number * 256 + value` of each byte. */
  readonly bytes: Set<number>;
  readonly acks: Set<number>;
  readonly fins: Set<number>;
  readonly syns: Set<number>;
  resets: number;
}

export class Oracle {
  readonly #vnetBytes: number;
  readonly #packet = new Packet();
  /** Units that the SVM has said: how often. */
  readonly #units = new Map<string, number>();
  readonly #svm = new Map<string, Said>();
  readonly #left = new Map<string, Said>();
  /** Differences of initial sequence numbers, PVM's minus SVM's, of the epoch. */
  readonly #deltas = new Map<string, number[]>();

  constructor(vnetBytes: number) {
    this.#vnetBytes = vnetBytes;
  }

  /** The SVM's host knows of this connection. */
  opened(key: Int32Array, delta: number): void {
    const name = nameOf(key);
    this.#deltas.set(name, [...(this.#deltas.get(name) ?? []), delta]);
  }

  secondary(frame: Buffer): void {
    const packet = this.#parse(frame);
    if (packet.kind !== PACKET_TCP) {
      const unit = this.#unitOf(frame, packet);
      this.#units.set(unit, (this.#units.get(unit) ?? 0) + 1);
      return;
    }
    this.#note(this.#svm, frame, packet);
  }

  /** Why the frame must not leave now, or ''. */
  released(frame: Buffer): string {
    const packet = this.#parse(frame);
    if (packet.kind !== PACKET_TCP) {
      const unit = this.#unitOf(frame, packet);
      const count = this.#units.get(unit) ?? 0;
      this.#units.set(unit, count - 1);
      return count > 0 ? '' : 'the SVM has said no such unit';
    }
    const fault = this.#faultOf(frame, packet);
    this.#note(this.#left, frame, packet);
    return fault;
  }

  /** The epoch ends, and these frames leave with it. */
  checkpoint(frames: readonly Buffer[]): void {
    for (const frame of frames) {
      const packet = this.#parse(frame);
      if (packet.kind === PACKET_TCP) this.#note(this.#left, frame, packet);
    }
    this.#units.clear();
    this.#svm.clear();
    this.#deltas.clear();
  }

  forget(): void {
    this.checkpoint([]);
    this.#left.clear();
  }

  #faultOf(frame: Buffer, packet: Packet): string {
    const name = nameOf(packet.key);
    const svm = this.#svm.get(name) ?? newSaid();
    const left = this.#left.get(name) ?? newSaid();
    const { flags, seq, ack } = packet;
    if ((flags & RST) !== 0) return svm.resets > 0 ? '' : 'the SVM has not reset';
    const deltas = [0, ...(this.#deltas.get(name) ?? [])];
    const isSyn = (flags & SYN) !== 0;
    if (isSyn && !left.syns.has(seq)) {
      const isKnown = deltas.slice(1).some((delta) => svm.syns.has((seq - delta) >>> 0));
      if (!isKnown) return 'the SVM has not opened, or its host does not know the number';
    }
    let at = (seq + (isSyn ? 1 : 0)) >>> 0;
    for (let index = packet.payloadAt; index < packet.end; index++, at = (at + 1) >>> 0) {
      const value = frame[index] as number;
      const isSaid = deltas.some((delta) => svm.bytes.has(((at - delta) >>> 0) * 256 + value));
      if (!isSaid && !left.bytes.has(at * 256 + value)) return `byte ${at} was not said`;
    }
    if ((flags & FIN) !== 0 && !left.fins.has(at)) {
      const isSaid = deltas.some((delta) => svm.fins.has((at - delta) >>> 0));
      if (!isSaid) return `no end was said at ${at}`;
    }
    if ((flags & ACK) === 0) return '';
    const reaches = (other: number) => ((other - ack) | 0) >= 0;
    const isAcked = [...svm.acks].some(reaches) || [...left.acks].some(reaches);
    return isAcked ? '' : `${ack} was not acknowledged`;
  }

  #note(all: Map<string, Said>, frame: Buffer, packet: Packet): void {
    const name = nameOf(packet.key);
    const said = all.get(name) ?? newSaid();
    all.set(name, said);
    const { flags, seq, ack } = packet;
    if ((flags & RST) !== 0) {
      said.resets++;
      return;
    }
    const isSyn = (flags & SYN) !== 0;
    if (isSyn) said.syns.add(seq);
    let at = (seq + (isSyn ? 1 : 0)) >>> 0;
    for (let index = packet.payloadAt; index < packet.end; index++, at = (at + 1) >>> 0) {
      said.bytes.add(at * 256 + (frame[index] as number));
    }
    if ((flags & FIN) !== 0) said.fins.add(at);
    if ((flags & ACK) !== 0) said.acks.add(ack);
  }

  #unitOf(frame: Buffer, packet: Packet): string {
    if (packet.kind === PACKET_OPAQUE) return frame.toString('latin1', this.#vnetBytes);
    const place =
      packet.kind === PACKET_FRAGMENT
        ? `${packet.fragmentOffset} ${packet.moreFragments}`
        : nameOf(packet.key);
    const addresses = nameOf(packet.key.subarray(3));
    const payload = frame.toString('latin1', packet.payloadAt, packet.end);
    return `${packet.kind} ${packet.protocol} ${addresses} ${place} ${payload}`;
  }

  #parse(frame: Buffer): Packet {
    this.#packet.parse(frame, Math.min(this.#vnetBytes, frame.length), frame.length, true);
    return this.#packet;
  }
}

function newSaid(): Said {
  return { bytes: new Set(), acks: new Set(), fins: new Set(), syns: new Set(), resets: 0 };
}

function nameOf(key: Int32Array): string {
  return key.subarray(0, FLOW_KEY_WORDS).join(' ');
}
