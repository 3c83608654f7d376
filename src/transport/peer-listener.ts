/**
 * The listening side: takes connections, reads what each is for, and gathers five of one session id
 * into a session.
 *
 * A connection is `pending` from accept until it belongs to a complete session or has been
 * answered. Pending connections are few (PENDING_CONNECTIONS_MAX, the oldest goes first),
 * short-lived (ATTACH_DEADLINE_MS) and may send one small frame, so that strangers cost little and
 * a session that runs notices nothing of them.
 *
 * Invariant: a connection, or incomplete session, that is dropped is told in exactly one log line.
 */
import type { Server, Socket } from 'node:net';
import { describeError, type Logger, ProtocolError } from '../lib/index.js';
import { duplicateDescriptor } from '../linux/index.js';
import {
  type Attach,
  decodeAttach,
  encodeAttachOk,
  encodeAttachRefused,
  encodeProbeOk,
  FRAME_TYPES,
  negotiateVersion,
  PROTOCOL_VERSIONS,
  type ProbeAnswer,
} from './attach-wire.js';
import { CHANNELS, type Channel } from './channels.js';
import { LinkError } from './errors.js';
import { encodeFrame, type Frame } from './frame-wire.js';
import {
  ATTACH_DEADLINE_MS,
  CHANNEL_LIMITS,
  PENDING_CONNECTIONS_MAX,
  UNATTACHED_LIMITS,
} from './limits.js';
import { Link } from './link.js';
import type { LinkCloseReason } from './link-types.js';
import { ATTACH_PROTOCOL, decodeResume, linkOfProtocol } from './resume-wire.js';
import { awaitHello, PLAIN, secureServer } from './secure-stream.js';
import { certificateOfPeer, type LinkSecurity } from './security/link-security.js';
import { Session, type SessionInfo } from './session.js';
import { createStreamServer, descriptorOf, takeUnread } from './stream.js';

/** The owner's answer to a complete session. `reason` is told to the peer. */
export type AcceptDecision =
  | { readonly ok: true }
  | { readonly ok: false; readonly reason: string };

export interface PeerListenerOptions {
  readonly log: Logger;
  /** INSTANCE_BYTES that tell this role from any other one of this host; read for each probe. */
  readonly instance: Buffer;
  /** Decides about each complete session, such as to have only one. */
  readonly accept: (info: SessionInfo) => AcceptDecision;
  /** Right after `accept` said yes; frames wait until handlers are attached. */
  readonly onSession: (session: Session) => void;
  /** What a probe is told. Default: `idle`. */
  readonly probeAnswer?: () => ProbeAnswer;
  /** Someone asked whether we are here, and has been answered. */
  readonly onProbe?: (remoteAddress: string) => void;
  /** Sessions survive the loss of connections that are back within so many milliseconds. */
  readonly resumeWithinMs?: number;
  /** Default: plain. */
  readonly security?: LinkSecurity;
  /** Default ATTACH_DEADLINE_MS. */
  readonly attachDeadlineMs?: number;
}

interface Pending {
  readonly link: Link;
  readonly socket: Socket;
  /** The peer's address without port: all links of a session come from the same. */
  readonly host: string;
  deadline: NodeJS.Timeout | undefined;
  gathering: Gathering | undefined;
  /** Answered or dropped: it only remains to see its socket close. */
  settled: boolean;
}

/** A session with fewer than five links. */
interface Gathering {
  readonly info: SessionInfo;
  readonly members: Map<Channel, Pending>;
}

/** Nobody passes anything on to a connection that has become a link's. */
const NO_KEEPER = { close() {}, destroy() {}, reconnect() {}, renew() {} };

export class PeerListener {
  readonly #options: PeerListenerOptions;
  readonly #server: Server;
  /** In order of arrival. */
  readonly #pending = new Set<Pending>();
  readonly #gatherings = new Map<string, Gathering>();
  /** Connections whose first words are awaited, oldest first. */
  readonly #greeting = new Set<Socket>();
  /** Those that a peer may ask to resume, by id. */
  readonly #sessions = new Map<string, Session>();

  constructor(options: PeerListenerOptions) {
    this.#options = options;
    this.#server = createStreamServer((socket) => this.#onConnection(socket));
  }

  /** Resolves with the port, for those who asked for port 0. Rejects with LinkError `listen`. */
  listen(address: { readonly host: string; readonly port: number }): Promise<number> {
    return new Promise((resolve, reject) => {
      const { host, port } = address;
      const onError = (cause: Error) => {
        reject(new LinkError('listen', `Cannot listen at ${host}:${port}`, { cause }));
      };
      this.#server.once('error', onError);
      this.#server.listen({ host, port }, () => {
        this.#server.off('error', onError);
        // Such as EMFILE at an accept: that connection is lost, the server goes on.
        this.#server.on('error', (error) => {
          this.#options.log.error('Accept failed', { reason: describeError(error) });
        });
        const bound = this.#server.address();
        resolve(typeof bound === 'object' && bound !== null ? bound.port : port);
      });
    });
  }

  /** Stops listening and drops what is pending. Sessions belong to their owner and stay. */
  close(): void {
    this.#server.close();
    for (const socket of this.#greeting) socket.destroy();
    for (const pending of this.#pending) {
      this.#settle(pending);
      pending.link.destroy();
    }
    this.#gatherings.clear();
  }

  #onConnection(socket: Socket): void {
    const { security = PLAIN, attachDeadlineMs = ATTACH_DEADLINE_MS } = this.#options;
    if (security.kind === 'plain') {
      this.#onStream(socket, socket);
      return;
    }
    this.#greeting.add(socket);
    awaitHello(socket, attachDeadlineMs, {
      onHello: (protocol, leftover) => {
        this.#greeting.delete(socket);
        if (this.#routed(socket, protocol, leftover)) return;
        // One for a session that is not here is refused in its own words.
        const asked = linkOfProtocol(protocol) === undefined ? undefined : protocol;
        const hello = { protocol: asked ?? ATTACH_PROTOCOL, leftover };
        this.#onStream(secureServer(socket, security, hello), socket);
      },
      onFailure: (reason) => {
        this.#greeting.delete(socket);
        const remote = socket.remoteAddress ?? 'unknown';
        this.#options.log.warn('Connection dropped', { remote, reason, attached: 0 });
      },
    });
    const [oldest] = this.#greeting;
    if (this.#greeting.size > PENDING_CONNECTIONS_MAX) oldest?.destroy();
  }

  /** A connection for a link that is here goes to it as it is, and is secured in its thread. */
  #routed(socket: Socket, protocol: string | undefined, leftover: Buffer): boolean {
    const wanted = linkOfProtocol(protocol);
    const session = this.#sessions.get(wanted?.session ?? '');
    const channel = CHANNELS.find((name) => name === wanted?.channel);
    const isFromPeer = session?.remoteAddress === socket.remoteAddress;
    if (session === undefined || channel === undefined || !isFromPeer) return false;
    const fd = duplicateDescriptor(descriptorOf(socket));
    const all = Buffer.concat([leftover, ...takeUnread(socket)]);
    socket.destroy();
    session.reconnect(channel, { fd, leftover: all, attempt: undefined });
    return true;
  }

  #onStream(socket: Socket, connection: Socket): void {
    const { log, attachDeadlineMs = ATTACH_DEADLINE_MS } = this.#options;
    const { remoteAddress: host = 'unknown', remotePort = 0 } = connection;
    const remoteAddress = `${host}:${remotePort}`;
    const link = new Link(socket, { log, limits: UNATTACHED_LIMITS, remoteAddress });
    const pending: Pending = {
      link,
      socket,
      host,
      deadline: undefined,
      gathering: undefined,
      settled: false,
    };
    pending.deadline = setTimeout(() => {
      this.#drop(pending, `Not attached within ${attachDeadlineMs} ms`);
    }, attachDeadlineMs);
    this.#pending.add(pending);
    link.onFrame((frame) => this.#onFrame(pending, frame));
    link.onClose((reason) => this.#onPendingClosed(pending, reason));
    if (this.#pending.size > PENDING_CONNECTIONS_MAX) {
      const [oldest] = this.#pending;
      if (oldest !== undefined) this.#evict(oldest);
    }
  }

  #evict(oldest: Pending): void {
    this.#drop(oldest, `More than ${PENDING_CONNECTIONS_MAX} connections wait to be attached`);
    // It may have been answered and wait for its FIN: room is needed now.
    oldest.link.destroy();
    this.#pending.delete(oldest);
  }

  #onFrame(pending: Pending, frame: Frame): void {
    if (pending.settled) return;
    if (frame.type === FRAME_TYPES.resume && pending.gathering === undefined) {
      this.#resume(pending, frame);
      return;
    }
    if (frame.type !== FRAME_TYPES.attach) {
      throw new ProtocolError(`The first frame is of type ${frame.type} instead of an attach`);
    }
    if (pending.gathering !== undefined) throw new ProtocolError('A second attach came');
    const attach = decodeAttach(frame.payload);
    const version = negotiateVersion(PROTOCOL_VERSIONS, attach.versions);
    if (version === undefined) this.#refuseVersion(pending, attach);
    else if (attach.purpose === 'probe') this.#answerProbe(pending);
    else this.#join(pending, attach, version);
  }

  #answerProbe(pending: Pending): void {
    this.#settle(pending);
    const { probeAnswer, instance } = this.#options;
    const answer = probeAnswer?.() ?? 'idle';
    pending.link.send(FRAME_TYPES.probeOk, [encodeProbeOk({ answer, instance })]);
    pending.link.close();
    this.#options.log.debug('Probe answered', { remote: pending.link.remoteAddress });
    this.#options.onProbe?.(pending.host);
  }

  /** The link itself answers, in whichever thread it is. */
  #resume(pending: Pending, frame: Frame): void {
    const resume = decodeResume(frame.payload);
    const session = this.#sessions.get(resume.sessionId.toString('hex'));
    this.#settle(pending);
    const isSecured = this.#options.security?.kind === 'tls';
    if (session === undefined || session.remoteAddress !== pending.host || isSecured) {
      const reason = 'There is no such session here';
      this.#options.log.info('Resume refused', { remote: pending.link.remoteAddress, reason });
      pending.link.send(FRAME_TYPES.resumeRefused, [encodeAttachRefused(reason)]);
      pending.link.close();
      return;
    }
    this.#pending.delete(pending);
    const { fd, leftover } = pending.link.detach(NO_KEEPER);
    if (fd === undefined) return;
    const asked = Buffer.concat([...encodeFrame(frame.type, [frame.payload]), leftover]);
    session.reconnect(resume.channel, { fd, leftover: asked, attempt: undefined });
  }

  #refuseVersion(pending: Pending, attach: Attach): void {
    const [ours, theirs] = [PROTOCOL_VERSIONS, attach.versions];
    const reason = `This side speaks session versions ${ours.min} to ${ours.max}, the peer ${theirs.min} to ${theirs.max}`;
    this.#logDropped(pending, reason);
    this.#refuse(pending, reason);
  }

  #join(pending: Pending, attach: Attach, version: number): void {
    const id = attach.sessionId.toString('hex');
    let gathering = this.#gatherings.get(id);
    if (gathering === undefined) {
      const peerCertificate = certificateOfPeer(pending.socket);
      const info = {
        ...{ id, remoteAddress: pending.host, protocolVersion: version },
        peerCertificate,
      };
      gathering = { info, members: new Map() };
      this.#gatherings.set(id, gathering);
    }
    const { info, members } = gathering;
    if (info.remoteAddress !== pending.host || info.protocolVersion !== version) {
      throw new ProtocolError('An attach differs from the others of its session');
    }
    if (members.has(attach.channel)) {
      throw new ProtocolError(`Channel ${attach.channel} is attached twice`);
    }
    members.set(attach.channel, pending);
    pending.gathering = gathering;
    if (members.size === CHANNELS.length) this.#complete(gathering);
  }

  #complete(gathering: Gathering): void {
    const { info, members } = gathering;
    this.#gatherings.delete(info.id);
    const decision = this.#options.accept(info);
    if (!decision.ok) {
      this.#options.log.warn('Session refused', {
        remote: info.remoteAddress,
        reason: decision.reason,
      });
      for (const pending of members.values()) this.#refuse(pending, decision.reason);
      return;
    }
    const { resumeWithinMs, security = PLAIN } = this.#options;
    const resumes = resumeWithinMs !== undefined;
    const sessionId = Buffer.from(info.id, 'hex');
    const links = {} as Record<Channel, Link>;
    for (const [channel, pending] of members) {
      this.#settle(pending);
      this.#pending.delete(pending);
      pending.link.onFrame(undefined);
      pending.link.setLimits(CHANNEL_LIMITS[channel]);
      pending.link.send(FRAME_TYPES.attachOk, [encodeAttachOk(info.protocolVersion)]);
      pending.link.join({ sessionId, channel, resumes }, security);
      links[channel] = pending.link;
    }
    const session = new Session(info, links, resumes ? { withinMs: resumeWithinMs } : undefined);
    if (resumes) {
      this.#sessions.set(info.id, session);
      session.onClose(() => this.#sessions.delete(info.id));
    }
    this.#options.onSession(session);
  }

  #refuse(pending: Pending, reason: string): void {
    this.#settle(pending);
    pending.link.send(FRAME_TYPES.attachRefused, [encodeAttachRefused(reason)]);
    pending.link.close();
  }

  #onPendingClosed(pending: Pending, reason: LinkCloseReason): void {
    this.#pending.delete(pending);
    if (pending.settled) return;
    // The link itself has told of malformed bytes and of a full queue.
    const told = reason.kind === 'protocol' || reason.kind === 'overflow';
    if (!told) this.#logDropped(pending, closeText(reason));
    this.#abandon(pending);
  }

  #drop(pending: Pending, why: string): void {
    if (pending.settled) return;
    this.#logDropped(pending, why);
    this.#abandon(pending);
  }

  #logDropped(pending: Pending, reason: string): void {
    const attached = pending.gathering?.members.size ?? 0;
    const message = attached === 0 ? 'Connection dropped' : 'Incomplete session dropped';
    this.#options.log.warn(message, { remote: pending.link.remoteAddress, reason, attached });
  }

  /** Ends a pending connection and those of its incomplete session. */
  #abandon(pending: Pending): void {
    const { gathering } = pending;
    if (gathering !== undefined) this.#gatherings.delete(gathering.info.id);
    const members = gathering === undefined ? [pending] : gathering.members.values();
    for (const member of members) {
      this.#settle(member);
      member.link.destroy();
    }
  }

  #settle(pending: Pending): void {
    pending.settled = true;
    clearTimeout(pending.deadline);
  }
}

function closeText(reason: LinkCloseReason): string {
  return reason.error === undefined
    ? reason.kind
    : `${reason.kind}: ${describeError(reason.error)}`;
}
