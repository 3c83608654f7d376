/**
 * What differed, for people: which flow, where in its stream, and the bytes of both sides.
 *
 * The cores note a difference in a `Difference`, which is one object used again and again; only if
 * somebody wants to read it a `Mismatch` with its own copies is made.
 */
import { PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP } from '../packet.js';
import { firstDifference } from './bytes.js';
import { FRAGMENTED_TCP } from './fragments.js';
import { EXPLAINED_BYTES } from './limits.js';

/**
 * Why the two sides don't agree:
 *
 *     data            a byte of a TCP stream
 *     contradiction   the SVM repeats a byte with another value than it, or the client's copy, has
 *     fin, reset      where a stream ends
 *     opening         SYN or SYN-ACK: kind, acknowledgement or options
 *     datagram        payload or length of a datagram, or their order
 *     fragment        place of a fragment in its packet
 *     timeout         the other side has said nothing in time
 *     bound           no difference: a bound was reached
 */
export type MismatchKind =
  | 'data'
  | 'contradiction'
  | 'fin'
  | 'reset'
  | 'opening'
  | 'datagram'
  | 'fragment'
  | 'timeout'
  | 'bound';

export interface Mismatch {
  /** Protocol, addresses, ports and VLAN; empty for a bound. */
  readonly flow: string;
  readonly kind: MismatchKind;
  /** Of the first byte that differs: in the stream from its first byte on, else in the payload. */
  readonly offset: number;
  /** Up to 32 bytes around it, as the two sides have them. */
  readonly primary: Buffer;
  readonly secondary: Buffer;
  /** What the bytes don't show. */
  readonly note: string;
}

const NO_BYTES: Buffer = Buffer.alloc(0);
/** Bytes shown before the one that differs. */
const BEFORE_BYTES = EXPLAINED_BYTES / 2;

/** The last difference found; holds on to the batches until the next one or `clear`. */
export class Difference {
  kind: MismatchKind = 'bound';
  offset = 0;
  note = '';
  #primary = NO_BYTES;
  #primaryAt = 0;
  #primaryEnd = 0;
  #secondary = NO_BYTES;
  #secondaryAt = 0;
  #secondaryEnd = 0;

  /** `offset`: of the first byte compared, in the stream or payload. */
  set(kind: MismatchKind, offset: number, note = ''): void {
    this.clear();
    this.kind = kind;
    this.offset = offset;
    this.note = note;
  }

  primary(bytes: Buffer, at: number, end: number): this {
    this.#primary = bytes;
    this.#primaryAt = at;
    this.#primaryEnd = end;
    return this;
  }

  secondary(bytes: Buffer, at: number, end: number): this {
    this.#secondary = bytes;
    this.#secondaryAt = at;
    this.#secondaryEnd = end;
    return this;
  }

  clear(): void {
    this.#primary = NO_BYTES;
    this.#primaryAt = 0;
    this.#primaryEnd = 0;
    this.#secondary = NO_BYTES;
    this.#secondaryAt = 0;
    this.#secondaryEnd = 0;
  }

  /** For the flow with this key. */
  toMismatch(key: Int32Array | undefined): Mismatch {
    const primaryBytes = this.#primaryEnd - this.#primaryAt;
    const secondaryBytes = this.#secondaryEnd - this.#secondaryAt;
    const common = Math.min(primaryBytes, secondaryBytes);
    const equal = firstDifference(
      this.#primary,
      this.#primaryAt,
      this.#secondary,
      this.#secondaryAt,
      common,
    );
    const from = Math.max(0, equal - BEFORE_BYTES);
    return {
      flow: key === undefined ? '' : formatFlow(key),
      kind: this.kind,
      offset: this.offset + equal,
      primary: excerpt(this.#primary, this.#primaryAt + from, this.#primaryEnd),
      secondary: excerpt(this.#secondary, this.#secondaryAt + from, this.#secondaryEnd),
      note: this.note,
    };
  }
}

/** One line for logs and reports. */
export function formatMismatch(mismatch: Mismatch): string {
  const { flow, kind, offset, primary, secondary, note } = mismatch;
  if (kind === 'bound') return `bound: ${note}`;
  const bytes = `primary ${hex(primary)} secondary ${hex(secondary)}`;
  return `${flow}: ${kind} at offset ${offset}${note === '' ? '' : ` (${note})`}: ${bytes}`;
}

/** As in `tcp 10.0.0.1:80 - 10.0.0.2:40000 vlan 5`, the guest first. */
export function formatFlow(key: Int32Array): string {
  const word = (index: number): number => (key[index] ?? 0) >>> 0;
  const version = (word(0) >>> 8) & 0xff;
  if (version === 0) {
    const type = (word(4) & 0xffff).toString(16).padStart(4, '0');
    return `frame 0x${type} ${formatMac(word(3), word(4))} - ${formatMac(word(7), word(8))}`;
  }
  const protocol = word(0) & 0xff;
  const hasPorts = protocol === PROTOCOL_TCP || protocol === PROTOCOL_UDP;
  const [guestPort, remotePort] = [word(2) >>> 16, word(2) & 0xffff];
  const address = (first: number, port: number): string => {
    const text = version === 4 ? formatIpv4(word(first)) : formatIpv6(key, first);
    if (!hasPorts) return text;
    return version === 4 ? `${text}:${port}` : `[${text}]:${port}`;
  };
  const parts = [protocolName(protocol), address(3, guestPort), '-', address(7, remotePort)];
  if (!hasPorts && guestPort !== 0) parts.push(`id ${guestPort}`);
  if (word(1) !== 0) parts.push(`vlan ${word(1) & 0xfff}`);
  if (word(1) >>> 12 !== 0) parts.push(`inner vlan ${word(1) >>> 12}`);
  if ((word(0) & FRAGMENTED_TCP) !== 0) parts.push('in fragments');
  return parts.join(' ');
}

function excerpt(bytes: Buffer, at: number, end: number): Buffer {
  return Buffer.from(bytes.subarray(at, Math.max(at, Math.min(end, at + EXPLAINED_BYTES))));
}

function hex(bytes: Buffer): string {
  return bytes.length === 0 ? '-' : bytes.toString('hex');
}

function protocolName(protocol: number): string {
  switch (protocol) {
    case PROTOCOL_TCP:
      return 'tcp';
    case PROTOCOL_UDP:
      return 'udp';
    case PROTOCOL_ICMP:
      return 'icmp';
    case PROTOCOL_ICMPV6:
      return 'icmpv6';
    default:
      return `protocol ${protocol}`;
  }
}

function formatIpv4(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 0xff).join('.');
}

function formatIpv6(key: Int32Array, first: number): string {
  const groups: string[] = [];
  for (let word = first; word < first + 4; word++) {
    const value = (key[word] ?? 0) >>> 0;
    groups.push((value >>> 16).toString(16), (value & 0xffff).toString(16));
  }
  return groups.join(':');
}

function formatMac(high: number, low: number): string {
  const text = high.toString(16).padStart(8, '0') + (low >>> 16).toString(16).padStart(4, '0');
  return (text.match(/../g) ?? []).join(':');
}
