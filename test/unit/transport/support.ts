/** Helpers of the transport's tests: a log that is kept, links and sessions over loopback. */
import { once } from 'node:events';
import net from 'node:net';
import type { ExecutionContext } from 'ava';
import type { Logger } from '../../../src/lib/index.js';
import {
  CHANNEL_LIMITS,
  connectSession,
  type Frame,
  INSTANCE_BYTES,
  Link,
  type LinkCloseReason,
  PeerListener,
  type PeerListenerOptions,
  type Session,
  type SessionCloseReason,
} from '../../../src/transport/index.js';

export interface LogLine {
  readonly level: 'info' | 'warn' | 'error';
  readonly message: string;
  readonly fields: Record<string, unknown>;
}

/** Keeps every line but debug ones; `reached(n)` resolves when n lines are there. */
export class LogCollector implements Logger {
  readonly lines: LogLine[] = [];
  readonly #waiters: { count: number; resolve: () => void }[] = [];

  debug(): void {}

  info(message: string, fields: Record<string, unknown> = {}): void {
    this.#add({ level: 'info', message, fields });
  }

  warn(message: string, fields: Record<string, unknown> = {}): void {
    this.#add({ level: 'warn', message, fields });
  }

  error(message: string, fields: Record<string, unknown> = {}): void {
    this.#add({ level: 'error', message, fields });
  }

  reached(count: number): Promise<void> {
    if (this.lines.length >= count) return Promise.resolve();
    return new Promise((resolve) => this.#waiters.push({ count, resolve }));
  }

  #add(line: LogLine): void {
    this.lines.push(line);
    for (const waiter of this.#waiters) if (this.lines.length >= waiter.count) waiter.resolve();
  }
}

export interface LinkPair {
  readonly log: LogCollector;
  readonly near: Link;
  readonly nearSocket: net.Socket;
  /** The other end without a link around it. */
  readonly far: net.Socket;
}

/** A link and the bare socket at its other end; both are closed with the test. */
export async function linkAndSocket(
  t: ExecutionContext,
  limits = CHANNEL_LIMITS.ram,
): Promise<LinkPair> {
  const server = net.createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const nearSocket = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1');
  const [[far]] = (await Promise.all([
    once(server, 'connection'),
    once(nearSocket, 'connect'),
  ])) as unknown as [[net.Socket]];
  server.close();
  far.on('error', () => {});
  const log = new LogCollector();
  const near = new Link(nearSocket, { log, limits });
  t.teardown(() => {
    near.destroy();
    far.destroy();
  });
  return { log, near, nearSocket, far };
}

/** Two links, joined. */
export async function twoLinks(t: ExecutionContext): Promise<{ near: Link; far: Link }> {
  const { near, far, log } = await linkAndSocket(t);
  return { near, far: new Link(far, { log, limits: CHANNEL_LIMITS.ram }) };
}

export interface Listening {
  readonly log: LogCollector;
  readonly listener: PeerListener;
  readonly port: number;
  /** Sessions in the order they came. */
  readonly sessions: Session[];
  nextSession(): Promise<Session>;
}

/** Of every listener here. */
export const INSTANCE = Buffer.alloc(INSTANCE_BYTES, 7);

/** A listener on a free port of loopback, closed with the test. */
export async function startListener(
  t: ExecutionContext,
  options: Partial<PeerListenerOptions> = {},
): Promise<Listening> {
  const log = new LogCollector();
  const sessions: Session[] = [];
  const waiting: ((session: Session) => void)[] = [];
  const listener = new PeerListener({
    log,
    instance: INSTANCE,
    accept: () => ({ ok: true }),
    // So long that a busy machine does not meet it by chance; tests of the deadline set their own.
    attachDeadlineMs: 60_000,
    onSession(session) {
      sessions.push(session);
      waiting.shift()?.(session);
    },
    ...options,
  });
  const port = await listener.listen({ host: '127.0.0.1', port: 0 });
  t.teardown(() => {
    listener.close();
    for (const session of sessions) session.destroy();
  });
  const nextSession = () => new Promise<Session>((resolve) => waiting.push(resolve));
  return { log, listener, port, sessions, nextSession };
}

/** Both ends of one session; the connecting end is closed with the test. */
export async function startSession(
  t: ExecutionContext,
  listening: Listening,
): Promise<{ near: Session; far: Session }> {
  const next = listening.nextSession();
  const near = await connectSession({
    host: '127.0.0.1',
    port: listening.port,
    timeoutMs: 20_000,
    log: listening.log,
  });
  t.teardown(() => near.destroy());
  return { near, far: await next };
}

/** Resolves with the next `count` frames of a link. */
export function takeFrames(link: Link, count: number): Promise<Frame[]> {
  const frames: Frame[] = [];
  return new Promise((resolve) => {
    link.onFrame((frame) => {
      frames.push(frame);
      if (frames.length < count) return;
      link.onFrame(undefined);
      resolve(frames);
    });
  });
}

export function linkClosed(link: Link): Promise<LinkCloseReason> {
  return new Promise((resolve) => link.onClose(resolve));
}

export function sessionClosed(session: Session): Promise<SessionCloseReason> {
  return new Promise((resolve) => session.onClose(resolve));
}

/** A bare connection; resolves once connected, is closed with the test. */
export async function rawConnection(t: ExecutionContext, port: number): Promise<net.Socket> {
  const socket = net.connect(port, '127.0.0.1');
  socket.on('error', () => {});
  t.teardown(() => socket.destroy());
  await once(socket, 'connect');
  return socket;
}
