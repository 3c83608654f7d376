/**
 * What a link says about itself, beside the user's frames: acknowledgements, and the handshake by
 * which it goes on over another connection. These frames are not numbered and never replayed.
 *
 * ack (0x0005): received, 8 bytes be: user frames (type >= 0x0100) that came since the session
 * began.
 *
 * resume (0x0006), connecting side, the first frame of a connection:
 *
 * | field     | offset | size | order | meaning                                         | limit   |
 * | sessionId | 0      | 16   |       | as in the session's attach                      |         |
 * | channel   | 16     | 1    |       | 1 control, 2 ram, 3 disk, 4 network, 5 faults   | 1..5    |
 * | attempt   | 17     | 4    | be    | grows with each resume of the channel           |         |
 * | received  | 21     | 8    | be    | as in ack                                       | < 2^53  |
 *
 * resumeOk (0x0007): received, 8 bytes be. Both sides then send all from the frame after the other's
 * `received` on. resumeRefused (0x0008): reason, as in attachRefused. bye (0x0009), empty: the link
 * is closed for good, and the end of the connection follows.
 */
import { ByteReader, ByteWriter, ProtocolError } from '../lib/index.js';
import { SESSION_ID_BYTES } from './attach-wire.js';
import { CHANNELS, type Channel } from './channels.js';

export const RESUME_BYTES = SESSION_ID_BYTES + 13;

/** What a new session, or a probe, asks for. */
export const ATTACH_PROTOCOL = 'colo';

/** What a connection asks for on which a link is to go on: a hint where it goes, no proof. */
export function resumeProtocol(sessionId: Uint8Array, channel: Channel): string {
  return `colo/${Buffer.from(sessionId).toString('hex')}/${channel}`;
}

/** Which link a protocol is for, if it is for one. */
export function linkOfProtocol(
  protocol: string | undefined,
): { readonly session: string; readonly channel: string } | undefined {
  const [, session, channel] = /^colo\/([0-9a-f]{32})\/([a-z]+)$/.exec(protocol ?? '') ?? [];
  return session === undefined || channel === undefined ? undefined : { session, channel };
}

/** Asks to go on with a link over this connection. */
export interface Resume {
  readonly sessionId: Buffer;
  readonly channel: Channel;
  readonly attempt: number;
  readonly received: number;
}

export function encodeReceived(received: number): Buffer {
  return new ByteWriter(8).uint53(received).finish();
}

/** Of an ack or a resumeOk; throws ProtocolError. */
export function decodeReceived(payload: Buffer): number {
  const reader = new ByteReader(payload);
  const received = reader.uint53();
  reader.end();
  return received;
}

export function encodeResume({ sessionId, channel, attempt, received }: Resume): Buffer {
  return new ByteWriter(RESUME_BYTES)
    .bytes(sessionId)
    .uint8(CHANNELS.indexOf(channel) + 1)
    .uint32(attempt)
    .uint53(received)
    .finish();
}

/** The session id is a copy; throws ProtocolError. */
export function decodeResume(payload: Buffer): Resume {
  const reader = new ByteReader(payload);
  const sessionId = Buffer.from(reader.bytes(SESSION_ID_BYTES));
  const channelCode = reader.uint8();
  const channel = CHANNELS[channelCode - 1];
  if (channel === undefined) throw new ProtocolError(`A resume names channel ${channelCode}`);
  const resume = { sessionId, channel, attempt: reader.uint32(), received: reader.uint53() };
  reader.end();
  return resume;
}
