/**
 * What makes a link outlive its connections: which frames the peer has, which must be sent again.
 *
 * In: frames that are sent, frames that come, the loss of a connection, the beginning of another.
 * Out: what to do with each frame, and what to write first on a new connection. User frames are
 * numbered by counting them; both sides count alike, since a connection carries whole frames in
 * order and the part of a frame that was cut is forgotten. The sender keeps each frame until it is
 * acknowledged; a new connection begins with both sides saying what they have.
 *
 * Invariants: `acked <= sent`, the frames held are exactly those between the two; nothing is
 * delivered before the peer has said on this connection where it goes on from.
 */
import { assert, ProtocolError } from '../lib/index.js';
import { decodeAttachRefused, FRAME_TYPES, USER_TYPES_MIN } from './attach-wire.js';
import type { Channel } from './channels.js';
import { encodeFrame, FRAME_HEADER_BYTES, type Frame } from './frame-wire.js';
import { ACK_BYTES } from './limits.js';
import {
  decodeReceived,
  encodeReceived,
  encodeResume,
  type Resume,
  resumeProtocol,
} from './resume-wire.js';

/** Which link it is. */
export interface LinkIdentity {
  readonly sessionId: Uint8Array;
  readonly channel: Channel;
  /** False: the loss of its connection is its end, and nothing is kept. */
  readonly resumes: boolean;
}

/** A core that goes on in another thread; plain data. */
export interface ResumeState extends LinkIdentity {
  readonly sent: number;
  readonly acked: number;
  readonly received: number;
  readonly attempt: number;
  /** The frames between `acked` and `sent`, encoded. */
  readonly held: readonly Uint8Array[];
}

/** An encoded frame that the peer may not have. */
export interface HeldFrame {
  readonly buffers: readonly Buffer[];
  readonly bytes: number;
}

/**
 * What came: a frame for the user; nothing of interest; the answer to `ask`: the link is `resumed`
 * and `held` is to be written, or `refused`; the peer's last word.
 */
export type Arrival =
  | { readonly kind: 'deliver' | 'nothing' | 'resumed' | 'bye' }
  | { readonly kind: 'refused'; readonly reason: string };

const DELIVER: Arrival = { kind: 'deliver' };
const NOTHING: Arrival = { kind: 'nothing' };
const RESUMED: Arrival = { kind: 'resumed' };
const BYE: Arrival = { kind: 'bye' };

/** So many places of frames that are gone are closed up at once. */
const COMPACT_AT = 1024;

export class ResumeCore {
  readonly #identity: LinkIdentity;
  #connection: 'live' | 'lost' | 'asking' = 'live';
  #sent = 0;
  #acked = 0;
  #received = 0;
  #attempt = 0;
  /** From `#heldAt` on. */
  #held: (HeldFrame | undefined)[] = [];
  #heldAt = 0;
  #heldBytes = 0;
  /** Received and not acknowledged. */
  #owedBytes = 0;

  constructor(identity: LinkIdentity | ResumeState) {
    const { sessionId, channel, resumes } = identity;
    this.#identity = { sessionId, channel, resumes };
    if (!('sent' in identity)) return;
    this.#sent = identity.sent;
    this.#acked = identity.acked;
    this.#received = identity.received;
    this.#attempt = identity.attempt;
    for (const { buffer, byteOffset, length } of identity.held) {
      this.#held.push({ buffers: [Buffer.from(buffer, byteOffset, length)], bytes: length });
      this.#heldBytes += length;
    }
  }

  /** What a connection asks for, in clear, that is to be this link's next. */
  get protocol(): string {
    return resumeProtocol(this.#identity.sessionId, this.#identity.channel);
  }

  get resumes(): boolean {
    return this.#identity.resumes;
  }

  get live(): boolean {
    return this.#connection === 'live';
  }

  get asking(): boolean {
    return this.#connection === 'asking';
  }

  /** Sent and not acknowledged: nobody may change these bytes. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** What the peer may not have, oldest first. */
  get held(): readonly HeldFrame[] {
    return this.#held.slice(this.#heldAt) as HeldFrame[];
  }

  /** Something came that the peer has not been told of. */
  get owesAck(): boolean {
    return this.#owedBytes > 0;
  }

  /** So much that it should be told now. */
  get owesAckNow(): boolean {
    return this.#owedBytes >= ACK_BYTES;
  }

  /** Of a core to go on elsewhere; `unread`: frames that came and go along, to come again there. */
  state(unread: number): ResumeState {
    return {
      ...this.#identity,
      sent: this.#sent,
      acked: this.#acked,
      received: this.#received - unread,
      attempt: this.#attempt,
      held: this.held.map(({ buffers }) => Uint8Array.from(Buffer.concat(buffers))),
    };
  }

  /** A user frame is sent; if the connection is live, to be written now. */
  sent(buffers: readonly Buffer[], bytes: number): void {
    this.#sent += 1;
    if (!this.#identity.resumes) return;
    this.#held.push({ buffers, bytes });
    this.#heldBytes += bytes;
  }

  /** A frame came on the present connection. Throws ProtocolError for what has no place here. */
  came(frame: Frame): Arrival {
    if (this.#connection === 'asking') return this.#answered(frame);
    if (frame.type >= USER_TYPES_MIN) {
      this.#received += 1;
      this.#owedBytes += FRAME_HEADER_BYTES + frame.payload.length;
      return DELIVER;
    }
    switch (frame.type) {
      case FRAME_TYPES.ack:
        this.#acknowledge(decodeReceived(frame.payload));
        return NOTHING;
      case FRAME_TYPES.bye:
        return BYE;
      default:
        throw new ProtocolError(`A frame of type ${frame.type} came inside of a session`);
    }
  }

  /** What tells the peer of all that has come. */
  ack(): Buffer[] {
    this.#owedBytes = 0;
    return encodeFrame(FRAME_TYPES.ack, [encodeReceived(this.#received)]);
  }

  /** The connection is gone, with all that was on its way. */
  lost(): void {
    this.#connection = 'lost';
    // The next one begins with it.
    this.#owedBytes = 0;
  }

  /** The link is over: nothing will be sent again. */
  forget(): void {
    this.#connection = 'lost';
    this.#held = [];
    this.#heldAt = 0;
    this.#heldBytes = 0;
  }

  /** The connecting side has another connection: what to write on it first. */
  ask(attempt: number): Buffer[] {
    assert(this.#connection !== 'live', 'A link that is connected can not ask to be resumed');
    this.#connection = 'asking';
    const { sessionId, channel } = this.#identity;
    const resume = {
      sessionId: Buffer.from(sessionId),
      channel,
      attempt,
      received: this.#received,
    };
    return encodeFrame(FRAME_TYPES.resume, [encodeResume(resume)]);
  }

  /**
   * The listening side is asked on another connection, which takes the place of the present one:
   * what to write first, before what is held. Throws ProtocolError, with nothing changed, if it can
   * not be.
   */
  answer(resume: Resume): Buffer[] {
    const { sessionId, channel } = this.#identity;
    if (!resume.sessionId.equals(sessionId) || resume.channel !== channel) {
      throw new ProtocolError('A resume is not for this link');
    }
    if (resume.attempt <= this.#attempt) {
      throw new ProtocolError(`Attempt ${resume.attempt} to resume is older than the last`);
    }
    this.#goOnFrom(resume.received);
    this.#attempt = resume.attempt;
    this.#connection = 'live';
    this.#owedBytes = 0;
    return encodeFrame(FRAME_TYPES.resumeOk, [encodeReceived(this.#received)]);
  }

  #answered(frame: Frame): Arrival {
    switch (frame.type) {
      case FRAME_TYPES.resumeOk:
        this.#goOnFrom(decodeReceived(frame.payload));
        this.#connection = 'live';
        return RESUMED;
      case FRAME_TYPES.resumeRefused:
        return { kind: 'refused', reason: decodeAttachRefused(frame.payload) };
      default:
        throw new ProtocolError(`A resume is answered with a frame of type ${frame.type}`);
    }
  }

  #goOnFrom(received: number): void {
    if (received < this.#acked || received > this.#sent) {
      throw new ProtocolError(
        `The peer goes on after frame ${received}, it has ${this.#acked} to ${this.#sent}`,
      );
    }
    this.#acknowledge(received);
  }

  #acknowledge(received: number): void {
    if (received > this.#sent) {
      throw new ProtocolError(`Frame ${received} is acknowledged, ${this.#sent} were sent`);
    }
    if (!this.#identity.resumes) return;
    while (this.#acked < received) {
      this.#heldBytes -= this.#held[this.#heldAt]?.bytes ?? 0;
      this.#held[this.#heldAt] = undefined;
      this.#heldAt += 1;
      this.#acked += 1;
    }
    if (this.#heldAt < this.#held.length && this.#heldAt < COMPACT_AT) return;
    this.#held = this.#held.slice(this.#heldAt);
    this.#heldAt = 0;
  }
}
