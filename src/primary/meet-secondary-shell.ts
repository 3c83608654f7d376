/** The beginning of a session: connection, hello, the secondary's answer, the streams. */
import { randomBytes } from 'node:crypto';
import { parseAcceptedImages } from '../blockrep/index.js';
import type { Address, Configuration, NodeLogger } from '../config/index.js';
import {
  checkSpeech,
  type Guest,
  guestHello,
  type NodeIdentity,
  type Speech,
} from '../guest/index.js';
import { describeError, ProtocolError } from '../lib/index.js';
import { SALT_BYTES } from '../migration/index.js';
import {
  encodeControl,
  firstControlMessage,
  type Policy,
  parseHelloReply,
  type SpeechOffer,
} from '../replication/index.js';
import { connectSession, type Session } from '../transport/index.js';
import type { HeldOutput } from './held-output-shell.js';
import { CONNECT_TIMEOUT_MS, ROUND_TRIPS_PER_HOLD } from './limits.js';
import { SecondarysRam } from './secondarys-ram-shell.js';

export interface MeetOptions {
  readonly configuration: Configuration;
  readonly log: NodeLogger;
  readonly guest: Guest;
  readonly identity: NodeIdentity;
  readonly peer: Address;
  readonly speech: Speech | undefined;
  /** As it is now. */
  readonly policy: () => Policy;
  readonly epoch: number;
  /** Knows when the records of the disks are as they will be. */
  readonly held: Pick<HeldOutput, 'parted' | 'peering'>;
  readonly isLeaving: () => boolean;
}

/** A secondary that has launched its SVM; network and disks are attached to its session. */
export interface MetSecondary {
  readonly session: Session;
  /** Of the secondary's process. */
  readonly instance: Buffer;
  /** Null without a witness. */
  readonly speech: SpeechOffer | null;
  readonly qemuVersion: string;
  /** Undefined: it has none of this guest. */
  readonly ram: SecondarysRam | undefined;
}

/** `needsOperator`: it will refuse again until somebody has decided something. */
export interface NoSecondary {
  readonly reason: string;
  readonly needsOperator: boolean;
}

/** Never rejects. Without a session its streams may be attached, still; detaching is idempotent. */
export async function meetSecondary(options: MeetOptions): Promise<MetSecondary | NoSecondary> {
  const { configuration, guest, peer, speech, epoch } = options;
  let session: Session | undefined;
  let needsOperator = false;
  try {
    session = await connectSession({
      ...{ ...peer, timeoutMs: CONNECT_TIMEOUT_MS, log: options.log },
      resumeWithinMs: configuration.peerTimeoutUs / 1000,
      security: options.identity.security,
    });
    options.identity.met(session);
    checkRoundTrip(session.links.control.roundTripUs, configuration.holdLimitUs);
    if (options.isLeaving()) throw new Error('The node is leaving');
    const offer = (await speech?.offer(session)) ?? null;
    const reply = firstControlMessage(session);
    // A generation that begins in the middle of a session would be unknown to the secondary.
    await options.held.parted;
    const { identity } = options;
    const images = await guest.disks.images();
    const policy = options.policy();
    const salt = randomBytes(SALT_BYTES);
    const hello = { configuration, guest, images, identity, policy, speech: offer, epoch, salt };
    const { type, parts } = encodeControl({ kind: 'hello', json: guestHello(hello) });
    session.links.control.send(type, parts);
    const message = await reply;
    if (message.kind !== 'helloReply') throw new ProtocolError(`A ${message.kind} is no reply`);
    const answer = parseHelloReply(message.json);
    if (!answer.ok) {
      needsOperator = answer.needsOperator;
      throw new ProtocolError(`The secondary refused: ${answer.reason}`);
    }
    checkSpeech(speech, {
      host: answer.host,
      peerHas: answer.speech !== null,
      ownHost: configuration.host,
    });
    await guest.network.attach(session, { role: 'source', epoch });
    options.held.peering();
    await guest.disks.attachSource(session, {
      epoch,
      verdicts: parseAcceptedImages(answer.verdicts),
      resyncBytesPerSecond: configuration.resyncBytesPerSecond,
    });
    if (options.isLeaving()) throw new Error('The node is leaving');
    if (offer !== null) speech?.meet(session, offer.key, answer.speech?.ports ?? []);
    const instance = Buffer.from(answer.instance, 'hex');
    const { qemuVersion, ramDigests: hasRam = false } = answer;
    const ram = hasRam ? new SecondarysRam({ session, epoch, salt }) : undefined;
    return { session, instance, speech: offer, qemuVersion, ram };
  } catch (error) {
    session?.destroy();
    return { reason: describeError(error), needsOperator };
  }
}

/** With a link so slow each checkpoint would overrun. Throws `Error` with what to change. */
function checkRoundTrip(roundTripUs: number, holdLimitUs: number): void {
  const mostUs = holdLimitUs / ROUND_TRIPS_PER_HOLD;
  if (roundTripUs <= mostUs) return;
  const found = `found a round trip of ${Math.round(roundTripUs / 1000)} ms`;
  const expected = `expected at most ${Math.round(mostUs / 1000)} ms for the hold-limit`;
  throw new Error(`The replication link is slow: ${found}, ${expected}`);
}
