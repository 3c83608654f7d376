/**
 * The control socket of an agent: a unix socket, mode 0600, whose clients' lines become calls of
 * `NodeControl`. Requests of one connection are answered one after the other; while one is carried
 * out nothing is read, so a client can't pile up work. A client that breaks the format loses its
 * connection and costs one log line; the others notice nothing.
 */
import { once } from 'node:events';
import { chmod, lstat, mkdir, stat, unlink } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { clearTimeout, setTimeout } from 'node:timers';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { CommandResult, MigrationControl, NodeControl } from '../config/index.js';
import { ColoError, type Logger, OperatorError, ProtocolError, unreachable } from '../lib/index.js';
import {
  type Command,
  decodeCommand,
  decodeRequest,
  encodeResponse,
  LineDecoder,
  type Request,
  type Response,
} from './control-wire.js';
import { CONNECTIONS_MAX, FLUSH_MS_MAX, IDLE_MS_MAX } from './limits.js';
import type { MigrationCommand } from './migration-wire.js';

/** Counted since the start. */
export interface ControlCounters {
  requests: number;
  /** Connections dropped for breaking the format. */
  malformed: number;
  /** Connections closed for being one too many. */
  refused: number;
  /** Connections closed for their silence. */
  idle: number;
}

/** Options of `ControlServer.start`; the idle limit is there for tests. */
export interface ControlServerOptions {
  readonly path: string;
  readonly log: Logger;
  readonly idleMs?: number;
}

/** A listening control socket. Until `serve` is called, requests are answered with "starting". */
export class ControlServer {
  readonly counters: ControlCounters = { requests: 0, malformed: 0, refused: 0, idle: 0 };
  readonly #server: Server;
  readonly #log: Logger;
  readonly #idleMs: number;
  readonly #connections = new Set<Socket>();
  #control: NodeControl | undefined;

  private constructor(options: ControlServerOptions) {
    this.#log = options.log;
    this.#idleMs = options.idleMs ?? IDLE_MS_MAX;
    this.#server = createServer({ allowHalfOpen: true }, (socket) => this.#accept(socket));
  }

  /**
   * Listens on `path`, with its folder made if missing. The socket of a dead agent is replaced.
   * Throws `OperatorError` when a living agent answers there, or something else is in the way.
   */
  static async start(options: ControlServerOptions): Promise<ControlServer> {
    const { path } = options;
    const server = new ControlServer(options);
    try {
      await mkdir(dirname(path), { recursive: true, mode: 0o700 });
      await mustBeOurs(dirname(path));
      await removeStale(path);
      await listen(server.#server, path);
    } catch (error) {
      if (error instanceof OperatorError) throw error;
      const advice = 'choose another place with socket or run-dir';
      const message = `The control socket ${path} could not be made; ${advice}`;
      throw new OperatorError('COLO_E_SOCKET', message, { cause: error });
    }
    return server;
  }

  /** From now on requests reach this node. */
  serve(control: NodeControl): void {
    this.#control = control;
  }

  /**
   * Closes the socket and every connection, and removes the file; answers that are there by now are
   * sent before. Idempotent.
   */
  async stop(): Promise<void> {
    if (!this.#server.listening) return;
    const closed = once(this.#server, 'close');
    this.#server.close();
    // What was answered in this turn is written in the next.
    await nextTurn();
    for (const socket of this.#connections) socket.destroySoon();
    const giveUp = setTimeout(() => {
      for (const socket of this.#connections) socket.destroy();
    }, FLUSH_MS_MAX);
    await closed;
    clearTimeout(giveUp);
  }

  #accept(socket: Socket): void {
    if (this.#connections.size >= CONNECTIONS_MAX) {
      this.counters.refused += 1;
      this.#log.warn('Closed a control connection, too many are open', { limit: CONNECTIONS_MAX });
      socket.on('error', ignoreLateError);
      socket.destroy();
      return;
    }
    this.#connections.add(socket);
    socket.once('close', () => this.#connections.delete(socket));
    void this.#converse(socket);
  }

  async #converse(socket: Socket): Promise<void> {
    const decoder = new LineDecoder();
    const idle = new IdleDeadline(this.#idleMs, () => {
      this.counters.idle += 1;
      this.#log.info('Closed a silent control connection', { idleMs: this.#idleMs });
      socket.destroy();
    });
    socket.once('close', () => idle.cancel());
    socket.on('error', ignoreLateError);
    try {
      for await (const chunk of socket) {
        for (const line of decoder.write(chunk as Buffer)) {
          const request = decodeRequest(line);
          idle.cancel();
          const response = await this.#answer(request);
          if (socket.destroyed) return;
          idle.restart();
          if (!socket.write(encodeResponse(response))) await drained(socket);
        }
      }
      decoder.end();
      socket.end();
    } catch (error) {
      if (error instanceof ProtocolError) {
        this.counters.malformed += 1;
        this.#log.warn('Dropped a control connection', { reason: error.message });
      } else if (!isStreamError(error)) {
        throw error;
      }
      socket.destroy();
    }
  }

  async #answer(request: Request): Promise<Response> {
    this.counters.requests += 1;
    const { id } = request;
    const asked = decodeCommand(request);
    if (!asked.ok) return { id, ok: false, error: { code: asked.code, reason: asked.reason } };
    if (this.#control === undefined) {
      const reason = 'The agent is still starting; ask again in a moment';
      return { id, ok: false, error: { code: 'COLO_E_STARTING', reason } };
    }
    try {
      return await carryOut(this.#control, asked.command, id);
    } catch (error) {
      if (!(error instanceof ColoError)) {
        // A bug in the node: it must end the agent, not just this conversation.
        queueMicrotask(() => {
          throw error;
        });
        const reason = 'The agent met a bug and ends; see its log';
        return { id, ok: false, error: { code: 'COLO_E_BUG', reason } };
      }
      return { id, ok: false, error: { code: error.code, reason: error.message } };
    }
  }
}

async function carryOut(control: NodeControl, asked: Command, id: number): Promise<Response> {
  if (asked.command === 'status') return { id, ok: true, result: control.status() };
  if (asked.command === 'verify') {
    const answer = await control.verify(asked.arguments);
    if (answer.ok) return { id, ok: true, result: { disks: answer.disks } };
    return { id, ok: false, error: { code: answer.code, reason: answer.reason } };
  }
  if (asked.command === 'events') {
    return { id, ok: true, result: await control.events(asked.arguments) };
  }
  const result = await deed(control, asked);
  if (result.ok) {
    const { detail, migration } = result;
    return { id, ok: true, result: migration === undefined ? { detail } : { detail, migration } };
  }
  return { id, ok: false, error: { code: result.code, reason: result.reason } };
}

function deed(
  control: NodeControl,
  asked: Exclude<Command, { command: 'status' | 'verify' | 'events' }>,
) {
  switch (asked.command) {
    case 'failover':
      return control.failover({ force: asked.arguments.force });
    case 'switchover':
      return control.switchover();
    case 'detach':
      return control.detach();
    case 'attach':
      return control.attach();
    case 'stop':
      return asked.arguments.peer ? control.stopPeer() : control.stop();
    case 'set-period':
      return control.setPeriod(asked.arguments.periodUs);
    case 'set-mode':
      return control.setMode(asked.arguments.mode);
    case 'capture':
      return control.capture(asked.arguments);
    case 'checkpoint':
      return control.checkpoint();
    default:
      return migrationDeed(control.migration ?? {}, asked);
  }
}

/** What this node can't do in the role that it has now is refused. */
function migrationDeed(migration: MigrationControl, asked: MigrationCommand) {
  const { migrate, cancel, recover, finish, force, release } = migration;
  switch (asked.command) {
    case 'migrate':
      return migrate?.(asked.arguments) ?? notNow('runs no guest that it could move');
    case 'migrate-cancel':
      return cancel?.() ?? notNow('moves no guest');
    case 'migrate-recover':
      return recover?.(asked.arguments.to) ?? notNow('moves no guest');
    case 'migrate-finish':
      return finish?.(asked.arguments.file) ?? notNow('waits for no pages of a guest');
    case 'migrate-force':
      return force?.() ?? notNow('moves no guest');
    case 'migrate-release':
      return release?.() ?? notNow('moves no guest');
    default:
      return unreachable(asked);
  }
}

function notNow(what: string): CommandResult {
  return { ok: false, code: 'COLO_E_ROLE', reason: `This node ${what}` };
}

/** Fires once, `limitMs` after the last `restart`, unless cancelled. */
class IdleDeadline {
  readonly #limitMs: number;
  readonly #onExpired: () => void;
  #timer: NodeJS.Timeout | undefined;

  constructor(limitMs: number, onExpired: () => void) {
    this.#limitMs = limitMs;
    this.#onExpired = onExpired;
    this.restart();
  }

  restart(): void {
    this.cancel();
    this.#timer = setTimeout(this.#onExpired, this.#limitMs);
  }

  cancel(): void {
    clearTimeout(this.#timer);
  }
}

/** Where everybody may rename files, anybody can put a socket of his in the place of ours. */
async function mustBeOurs(folder: string): Promise<void> {
  const { mode } = await stat(folder);
  const others = 0o002;
  const sticky = 0o1000;
  if ((mode & others) === 0 || (mode & sticky) !== 0) return;
  const expected = 'expected one that not everybody may write to; run chmod o-w on it';
  const found = `Found ${folder} with mode ${(mode & 0o7777).toString(8).padStart(4, '0')}`;
  throw new OperatorError('COLO_E_SOCKET', `${found}, ${expected}`);
}

async function removeStale(path: string): Promise<void> {
  const found = await lstat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (found === undefined) return;
  if (!found.isSocket()) {
    const expected = 'expected a socket or nothing; choose another --socket or remove it';
    throw new OperatorError(
      'COLO_E_SOCKET',
      `Found a file that is no socket at ${path}, ${expected}`,
    );
  }
  if (await answers(path)) {
    const expected = 'expected none; stop it, or choose another --vm or --socket';
    throw new OperatorError('COLO_E_SOCKET', `Found a running agent at ${path}, ${expected}`);
  }
  await unlink(path);
}

/** Whether somebody listens; only a refusal proves that nobody does. */
async function answers(path: string): Promise<boolean> {
  const socket = connect(path);
  try {
    await once(socket, 'connect');
    return true;
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ECONNREFUSED' || code === 'ENOENT') return false;
    throw error;
  } finally {
    socket.destroy();
  }
}

async function listen(server: Server, path: string): Promise<void> {
  const listening = once(server, 'listening');
  // The file is made inside listen(), so no other user gets to it before its mode is right.
  const umask = process.umask(0o177);
  try {
    server.listen(path);
  } finally {
    process.umask(umask);
  }
  await listening;
  await chmod(path, 0o600);
}

async function drained(socket: Socket): Promise<void> {
  if (!socket.writableNeedDrain || socket.destroyed) return;
  const gone = new AbortController();
  const onClose = (): void => gone.abort();
  socket.once('close', onClose);
  try {
    await once(socket, 'drain', { signal: gone.signal });
  } finally {
    socket.off('close', onClose);
  }
}

/** The client went away, or we closed on it: no news. */
function isStreamError(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code ?? '';
  return ['ECONNRESET', 'EPIPE', 'ERR_STREAM_PREMATURE_CLOSE', 'ABORT_ERR'].includes(code);
}

/** `for await` reports a socket's errors; one that comes after it has no reader. */
function ignoreLateError(): void {}
