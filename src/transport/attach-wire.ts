/**
 * The attach handshake: what a connection is for, said once in its first frame.
 *
 * attach (type 0x0001), connecting side; this layout is the same in every version, so that two
 * versions can tell each other which they are:
 *
 * | field      | offset | size | order | meaning                                       | limit         |
 * | sessionId  | 0      | 16   |       | random, the same on a session's channels      |               |
 * | channel    | 16     | 1    |       | 1 control, 2 ram, 3 disk, 4 network, 5 faults | 1..5          |
 * | purpose    | 17     | 1    |       | 1 session, 2 probe                            | 1..2          |
 * | versionMin | 18     | 2    | be    | oldest session protocol spoken                | >= 1          |
 * | versionMax | 20     | 2    | be    | newest session protocol spoken                | >= versionMin |
 *
 * attachOk (0x0002): version, 2 bytes be: the session protocol that both will speak.
 * attachRefused (0x0003): reason, be32 length and UTF-8, at most REFUSAL_TEXT_MAX_BYTES.
 * probeOk (0x0004): answer, 1 byte: 0 idle, 1 serving, 2 holding, 3 leading, 4 shared,
 * 5 following; see ProbeAnswer. Then the instance, 16 random bytes that the answering node has
 * chosen for its present role.
 */
import { ByteReader, ByteWriter, ProtocolError } from '../lib/index.js';
import { CHANNELS, type Channel } from './channels.js';
import { REFUSAL_TEXT_MAX_BYTES } from './limits.js';

export const FRAME_TYPES = {
  attach: 0x0001,
  attachOk: 0x0002,
  attachRefused: 0x0003,
  probeOk: 0x0004,
  ack: 0x0005,
  resume: 0x0006,
  resumeOk: 0x0007,
  resumeRefused: 0x0008,
  bye: 0x0009,
} as const;

/** From here on types are the user's, and their frames are numbered. */
export const USER_TYPES_MIN = 0x0100;

export const SESSION_ID_BYTES = 16;

/** Bytes by which a process is told from another one on the same host. */
export const INSTANCE_BYTES = 16;

const PURPOSES = ['session', 'probe'] as const;

/** A range of session protocol versions, both ends included. */
export interface VersionRange {
  readonly min: number;
  readonly max: number;
}

/** What this build speaks. */
export const PROTOCOL_VERSIONS: VersionRange = { min: 4, max: 4 };

/** The first frame of a connection. */
export interface Attach {
  readonly sessionId: Buffer;
  readonly channel: Channel;
  readonly purpose: (typeof PURPOSES)[number];
  readonly versions: VersionRange;
}

export function encodeAttach(attach: Attach): Buffer {
  return new ByteWriter(SESSION_ID_BYTES + 6)
    .bytes(attach.sessionId)
    .uint8(CHANNELS.indexOf(attach.channel) + 1)
    .uint8(PURPOSES.indexOf(attach.purpose) + 1)
    .uint16(attach.versions.min)
    .uint16(attach.versions.max)
    .finish();
}

/** The session id is a copy; throws ProtocolError. */
export function decodeAttach(payload: Buffer): Attach {
  const reader = new ByteReader(payload);
  const sessionId = Buffer.from(reader.bytes(SESSION_ID_BYTES));
  const channelCode = reader.uint8();
  const channel = CHANNELS[channelCode - 1];
  if (channel === undefined) throw new ProtocolError(`An attach names channel ${channelCode}`);
  const purposeCode = reader.uint8();
  const purpose = PURPOSES[purposeCode - 1];
  if (purpose === undefined) throw new ProtocolError(`An attach names purpose ${purposeCode}`);
  const versions = { min: reader.uint16(), max: reader.uint16() };
  if (versions.min < 1 || versions.max < versions.min) {
    throw new ProtocolError(`An attach names versions ${versions.min} to ${versions.max}`);
  }
  reader.end();
  return { sessionId, channel, purpose, versions };
}

/** The newest version in both ranges, if there is one. */
export function negotiateVersion(ours: VersionRange, theirs: VersionRange): number | undefined {
  const newest = Math.min(ours.max, theirs.max);
  return newest >= Math.max(ours.min, theirs.min) ? newest : undefined;
}

export function encodeAttachOk(version: number): Buffer {
  return new ByteWriter(2).uint16(version).finish();
}

/** The version; throws ProtocolError unless it is one of `offered`. */
export function decodeAttachOk(payload: Buffer, offered: VersionRange): number {
  const reader = new ByteReader(payload);
  const version = reader.uint16();
  reader.end();
  if (version < offered.min || version > offered.max) {
    throw new ProtocolError(
      `The peer chose version ${version}, offered were ${offered.min} to ${offered.max}`,
    );
  }
  return version;
}

/** A reason longer than the limit is cut. */
export function encodeAttachRefused(reason: string): Buffer {
  const text = Buffer.from(reason, 'utf8').subarray(0, REFUSAL_TEXT_MAX_BYTES);
  return new ByteWriter(4 + text.length).uint32(text.length).bytes(text).finish();
}

/** The reason, without control characters: it goes into a log. */
export function decodeAttachRefused(payload: Buffer): string {
  const reader = new ByteReader(payload);
  const reason = reader.text(REFUSAL_TEXT_MAX_BYTES);
  reader.end();
  return reason.replace(/\p{Cc}/gu, '?');
}

const PROBE_ANSWERS = ['idle', 'serving', 'holding', 'leading', 'shared', 'following'] as const;

/**
 * What a node has of the guest. `serving`: it may speak for it. `holding`: a state that it might
 * take over from. The others have neither, and their images say who had the guest last: `leading`
 * this host alone, `shared` this host with a peer, `following` a peer with this host; `idle`: they
 * say nothing.
 */
export type ProbeAnswer = (typeof PROBE_ANSWERS)[number];

/** What a probe is answered with, and by which process. */
export interface ProbeOk {
  readonly answer: ProbeAnswer;
  /** INSTANCE_BYTES, random, of the answering process. */
  readonly instance: Buffer;
}

export function encodeProbeOk({ answer, instance }: ProbeOk): Buffer {
  return new ByteWriter(1 + INSTANCE_BYTES)
    .uint8(PROBE_ANSWERS.indexOf(answer))
    .bytes(instance)
    .finish();
}

/** Throws ProtocolError unless the payload is that of a probeOk. The instance is a copy. */
export function decodeProbeOk(payload: Buffer): ProbeOk {
  const reader = new ByteReader(payload);
  const code = reader.uint8();
  const instance = Buffer.from(reader.bytes(INSTANCE_BYTES));
  reader.end();
  const answer = PROBE_ANSWERS[code];
  if (answer === undefined) throw new ProtocolError(`A probe is answered with code ${code}`);
  return { answer, instance };
}
