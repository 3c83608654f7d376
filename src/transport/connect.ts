/**
 * The connecting side: `connectSession` opens the five links of a session, `probePeer` asks whether
 * a peer's process is there. Each connection sends an attach and waits for the answer.
 */
import { randomBytes, type X509Certificate } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { deferred, type Logger, ProtocolError } from '../lib/index.js';
import {
  type Attach,
  decodeAttachOk,
  decodeAttachRefused,
  decodeProbeOk,
  encodeAttach,
  FRAME_TYPES,
  PROTOCOL_VERSIONS,
  SESSION_ID_BYTES,
} from './attach-wire.js';
import { CHANNELS, type Channel } from './channels.js';
import { connectErrorKind, LinkError } from './errors.js';
import type { Frame } from './frame-wire.js';
import { CHANNEL_LIMITS, PROBE_PAUSE_MS, UNATTACHED_LIMITS } from './limits.js';
import { Link } from './link.js';
import type { LinkCloseReason } from './link-types.js';
import { ATTACH_PROTOCOL } from './resume-wire.js';
import { PLAIN, secureClient } from './secure-stream.js';
import { certificateOfPeer, type LinkSecurity } from './security/link-security.js';
import { Session } from './session.js';
import { type Endpoint, openStream } from './stream.js';

export interface ConnectOptions extends Endpoint {
  /** For all five connections together. */
  readonly timeoutMs: number;
  readonly log: Logger;
  readonly signal?: AbortSignal;
  /** The session survives the loss of connections if they are back within so many milliseconds. */
  readonly resumeWithinMs?: number;
  /** Default: plain. */
  readonly security?: LinkSecurity;
}

/**
 * A session with the peer that listens there. Rejects with LinkError (`kind` says why) or, when the
 * peer's answer is malformed or of another version, with ProtocolError; then nothing stays open.
 */
export async function connectSession(options: ConnectOptions): Promise<Session> {
  const { host, port, timeoutMs, log, signal, resumeWithinMs, security = PLAIN } = options;
  const where = `${host}:${port}`;
  const sessionId = randomBytes(SESSION_ID_BYTES);
  const opened: Link[] = [];
  let version = 0;
  let remoteAddress = host;
  let peerCertificate: X509Certificate | undefined;
  const attachChannel = async (channel: Channel): Promise<[Channel, Link]> => {
    const socket = secureClient(openStream(endpointOf(options)), security, ATTACH_PROTOCOL);
    const link = new Link(socket, {
      log,
      limits: CHANNEL_LIMITS[channel],
      remoteAddress: where,
    });
    opened.push(link);
    const attach: Attach = { sessionId, channel, purpose: 'session', versions: PROTOCOL_VERSIONS };
    const answer = await askAttach(link, attach);
    version = readAttachAnswer(answer, where);
    remoteAddress = socket.remoteAddress ?? host;
    peerCertificate = certificateOfPeer(socket);
    return [channel, link];
  };
  const interruption = interruptAfter(timeoutMs, where, signal);
  try {
    const links = await Promise.race([
      Promise.all(CHANNELS.map(attachChannel)),
      interruption.promise,
    ]);
    const id = sessionId.toString('hex');
    const info = { id, remoteAddress, protocolVersion: version, peerCertificate };
    const resumes = resumeWithinMs !== undefined;
    for (const [channel, link] of links) link.join({ sessionId, channel, resumes }, security);
    const record = Object.fromEntries(links) as Record<Channel, Link>;
    const endpoint = endpointOf(options);
    return new Session(info, record, resumes ? { withinMs: resumeWithinMs, endpoint } : undefined);
  } catch (error) {
    for (const link of opened) link.destroy();
    throw error;
  } finally {
    interruption.cancel();
  }
}

function endpointOf({ host, port, localAddress }: Endpoint): Endpoint {
  return localAddress === undefined ? { host, port } : { host, port, localAddress };
}

/**
 * - `alive`: a Colo agent answered, and has nothing of the guest.
 * - `leading`, `shared`, `following`: as `alive`, and its images say who had the guest last.
 * - `holding`: one that keeps a state of the guest which it might take over from, or that has not
 *   let go of the guest yet: to be asked again.
 * - `serving`: a Colo agent answered that speaks for the guest.
 * - `refused`: the host answered that nothing listens (ECONNREFUSED): its kernel runs and the peer
 *   process does not, unless a firewall answers in its place.
 * - `unreachable`: no way to the host.
 * - `replaced`: as `alive`, but by another instance than the one that was asked for: that role is
 *   over, with its process or before.
 * - `silent`: no answer in time, or none that makes sense. Proves nothing.
 */
export type ProbeResult =
  | 'alive'
  | 'replaced'
  | 'leading'
  | 'shared'
  | 'following'
  | 'holding'
  | 'serving'
  | 'refused'
  | 'unreachable'
  | 'silent';

export interface ProbeOptions extends Endpoint {
  readonly timeoutMs: number;
  /** Of the process that is asked for; any, if left out. */
  readonly instance?: Buffer;
  /** Default: plain. */
  readonly security?: LinkSecurity;
}

/**
 * Never rejects, and does not disturb a session that is there. Asks again while the connection is
 * closed without an answer: the kernel closes the sockets of a killed process one by one, and the
 * listening one may come last (seen on Linux 6.18).
 */
export async function probePeer(options: ProbeOptions): Promise<ProbeResult> {
  const interruption = interruptAfter(options.timeoutMs, `${options.host}:${options.port}`);
  try {
    for (;;) {
      const result = await probeOnce(options, interruption.promise);
      if (result !== 'lost') return result;
      await Promise.race([delay(PROBE_PAUSE_MS), interruption.promise]);
    }
  } catch (error) {
    if (error instanceof LinkError && error.kind === 'timeout') return 'silent';
    throw error;
  } finally {
    interruption.cancel();
  }
}

async function probeOnce(
  options: ProbeOptions,
  timeout: Promise<never>,
): Promise<ProbeResult | 'lost'> {
  const socket = secureClient(openStream(options), options.security ?? PLAIN, ATTACH_PROTOCOL);
  const link = new Link(socket, {
    log: SILENT,
    limits: UNATTACHED_LIMITS,
    remoteAddress: `${options.host}:${options.port}`,
  });
  const attach: Attach = {
    sessionId: randomBytes(SESSION_ID_BYTES),
    channel: 'control',
    purpose: 'probe',
    versions: PROTOCOL_VERSIONS,
  };
  try {
    const answer = await Promise.race([askAttach(link, attach), timeout]);
    if (answer.type !== FRAME_TYPES.probeOk) return 'silent';
    const { answer: has, instance } = decodeProbeOk(answer.payload);
    if (has === 'serving' || has === 'holding') return has;
    if (options.instance?.equals(instance) === false) return 'replaced';
    return has === 'idle' ? 'alive' : has;
  } catch (error) {
    if (error instanceof ProtocolError) return 'silent';
    if (!(error instanceof LinkError)) throw error;
    if (error.kind === 'refused' || error.kind === 'unreachable') return error.kind;
    return error.kind === 'lost' ? 'lost' : 'silent';
  } finally {
    link.destroy();
  }
}

/** Sends the attach; resolves with the first frame, and leaves those behind it on the link. */
function askAttach(link: Link, attach: Attach): Promise<Frame> {
  return new Promise((resolve, reject) => {
    link.onFrame((frame) => {
      link.onFrame(undefined);
      resolve(frame);
    });
    link.onClose((reason) => reject(attachFailure(link.remoteAddress, reason)));
    link.send(FRAME_TYPES.attach, [encodeAttach(attach)]);
  });
}

function attachFailure(where: string, reason: LinkCloseReason): Error {
  if (reason.kind === 'protocol' && reason.error !== undefined) return reason.error;
  const kind = reason.error === undefined ? 'lost' : connectErrorKind(reason.error);
  const text = {
    refused: `Nothing listens at ${where}`,
    unreachable: `There is no way to ${where}`,
    timeout: `${where} did not answer`,
    lost: `${where} closed the connection before it answered`,
  }[kind];
  return new LinkError(kind, text, { cause: reason.error });
}

function readAttachAnswer(frame: Frame, where: string): number {
  if (frame.type === FRAME_TYPES.attachOk) return decodeAttachOk(frame.payload, PROTOCOL_VERSIONS);
  if (frame.type !== FRAME_TYPES.attachRefused) {
    throw new ProtocolError(`${where} answered an attach with a frame of type ${frame.type}`);
  }
  throw new LinkError('rejected', `${where} refused: ${decodeAttachRefused(frame.payload)}`);
}

/** A promise that only ever rejects: after `timeoutMs` or by `signal`. */
function interruptAfter(
  timeoutMs: number,
  where: string,
  signal?: AbortSignal,
): { promise: Promise<never>; cancel(): void } {
  const { promise, reject } = deferred<never>();
  const timer = setTimeout(() => {
    reject(new LinkError('timeout', `${where} did not answer within ${timeoutMs} ms`));
  }, timeoutMs);
  const onAbort = () => {
    reject(new LinkError('aborted', `The connection to ${where} was given up`));
  };
  if (signal?.aborted === true) onAbort();
  signal?.addEventListener('abort', onAbort);
  return {
    promise,
    cancel(): void {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    },
  };
}

/** A probe's result is its answer; there is nothing to log beside it. */
const SILENT: Logger = { debug() {}, info() {}, warn() {}, error() {} };
