/**
 * A TCP end for models: one connection, a stream each way, and a strict eye on what arrives. It
 * retransmits when told to, and throws where a real stack would reset, stall or misunderstand.
 *
 * Positions count from the initial sequence number: 0 is the SYN, 1 the first byte.
 */
import { seqAdd, seqDistance } from '../../../../src/lib/index.js';
import { ACK, FIN, type Numbers, type Segment, SYN, timestamps } from '../../../support/packets.js';

const SEGMENT_BYTES_MAX = 40;

export interface StackOptions {
  readonly isn: number;
  /** TSval of now. */
  readonly clock: () => number;
  /** Sends the first SYN. */
  readonly active: boolean;
}

export class Stack {
  isn: number;
  readonly #clock: () => number;
  #active: boolean;
  #out = Buffer.alloc(0);
  #finAt: number | undefined;
  #received = Buffer.alloc(0);
  #finReceived = false;
  #remoteIsn: number | undefined;
  #acked = 0;
  #next = 0;
  #highest = 0;
  #ackDue = false;
  #recent = 0;
  /** TSval of the first SYN sent. */
  synTimestamp: number | undefined;
  /** Segments dropped because their TSval was older than the last. */
  staleSegments = 0;

  constructor(options: StackOptions) {
    this.isn = options.isn;
    this.#clock = options.clock;
    this.#active = options.active;
  }

  /** Becomes what `other` is now, as by a checkpoint; the clock stays its own. */
  become(other: Stack): void {
    this.isn = other.isn;
    this.#active = other.#active;
    this.#out = other.#out;
    this.#finAt = other.#finAt;
    this.#received = other.#received;
    this.#finReceived = other.#finReceived;
    this.#remoteIsn = other.#remoteIsn;
    this.#acked = other.#acked;
    this.#next = other.#next;
    this.#highest = other.#highest;
    this.#ackDue = other.#ackDue;
    this.#recent = other.#recent;
    this.synTimestamp = other.synTimestamp;
  }

  get received(): Buffer {
    return this.#received;
  }

  /** Sent at least once, and received in order: positions. */
  get sentPosition(): number {
    return this.#highest;
  }

  get receivedPosition(): number {
    if (this.#remoteIsn === undefined) return 0;
    return 1 + this.#received.length + (this.#finReceived ? 1 : 0);
  }

  get established(): boolean {
    return this.#acked > 0 && this.#remoteIsn !== undefined;
  }

  /** Everything said, FIN included, has been said and acknowledged both ways. */
  get finished(): boolean {
    return this.#finAt !== undefined && this.#acked > this.#finAt && this.#finReceived;
  }

  get finReceived(): boolean {
    return this.#finReceived;
  }

  send(bytes: Uint8Array): void {
    this.#out = Buffer.concat([this.#out, bytes]);
  }

  /** No more is sent after this. */
  close(): void {
    this.#finAt ??= 1 + this.#out.length;
  }

  /** What the end has to say now; `again`: all that is not acknowledged once more. */
  poll(again: boolean): Segment[] {
    if (again) this.#next = this.#acked;
    const segments: Segment[] = [];
    const opens = this.#active || this.#remoteIsn !== undefined;
    if (this.#next === 0 && opens) {
      segments.push(this.#segment({ position: 0, flags: SYN }));
      this.synTimestamp ??= this.#clock();
      this.#advance(1);
    }
    while (this.#acked > 0 && this.#next <= this.#out.length) {
      const at = this.#next - 1;
      const payload = this.#out.subarray(at, at + SEGMENT_BYTES_MAX);
      segments.push(this.#segment({ position: this.#next, flags: 0, payload }));
      this.#advance(this.#next + payload.length);
    }
    if (this.#acked > 0 && this.#next === this.#finAt) {
      segments.push(this.#segment({ position: this.#next, flags: FIN }));
      this.#advance(this.#next + 1);
    }
    if (segments.length === 0 && this.#ackDue) {
      segments.push(this.#segment({ position: this.#next, flags: 0 }));
    }
    this.#ackDue = false;
    return segments;
  }

  /** True when the segment's TSval is what this end echoes from now on. */
  receive(numbers: Numbers): boolean {
    const { seq, flags, value = 0, payload } = numbers;
    if ((flags & SYN) !== 0) {
      if (this.#remoteIsn === undefined) this.#recent = value;
      else if (this.#remoteIsn !== seq) throw new Error('A second SYN has another number');
      this.#remoteIsn = seq;
      this.#ackDue = true;
    } else if (this.#remoteIsn === undefined) {
      throw new Error('Data arrives without a connection');
    }
    if (seqDistance(value, this.#recent) < 0) {
      this.staleSegments++;
      this.#ackDue = true;
      return false;
    }
    if ((flags & ACK) !== 0) this.#receiveAck(numbers.ack);
    const position = seqDistance(seq, this.#remoteIsn) + ((flags & SYN) !== 0 ? 1 : 0);
    const expected = this.receivedPosition;
    if (payload.length > 0 || (flags & FIN) !== 0) this.#ackDue = true;
    if (position > expected) {
      this.#ackDue = true;
      return false;
    }
    this.#recent = value;
    this.#receivePayload(position, payload);
    const isFin = (flags & FIN) !== 0;
    if (isFin && position + payload.length === this.receivedPosition) this.#finReceived = true;
    return true;
  }

  #receiveAck(ack: number): void {
    const position = seqDistance(ack, this.isn);
    if (position < 0 || position > this.#highest) {
      throw new Error(`Position ${position} is acknowledged, ${this.#highest} were sent`);
    }
    this.#acked = Math.max(this.#acked, position);
    this.#next = Math.max(this.#next, this.#acked);
  }

  #receivePayload(position: number, payload: Buffer): void {
    const at = position - 1;
    const known = this.#received.subarray(at, at + payload.length);
    if (!known.equals(payload.subarray(0, known.length))) {
      throw new Error(`The bytes at ${at} differ from those that came before`);
    }
    if (this.#finReceived && known.length < payload.length) throw new Error('Data follows a FIN');
    this.#received = Buffer.concat([this.#received, payload.subarray(known.length)]);
  }

  #advance(position: number): void {
    this.#next = position;
    this.#highest = Math.max(this.#highest, position);
  }

  #segment(parts: { position: number; flags: number; payload?: Buffer }): Segment {
    const { position, flags, payload = Buffer.alloc(0) } = parts;
    const known = this.#remoteIsn !== undefined;
    return {
      seq: seqAdd(this.isn, position),
      ack: known ? seqAdd(this.#remoteIsn ?? 0, this.receivedPosition) : 0,
      flags: flags | (known ? ACK : 0),
      options: timestamps(this.#clock(), known ? this.#recent : 0),
      payload,
    };
  }
}
