/**
 * NBD server on a unix socket: QEMU is its client, one export per disk.
 *
 * A client that breaks the protocol loses its connection with one log line; the server and the
 * other clients go on. The layers belong to the caller: `stop` does not close them.
 */
import fs from 'node:fs';
import net from 'node:net';
import { describeError, type Logger, OperatorError } from '../lib/index.js';
import { duplicateDescriptor, setSendBuffer } from '../linux/index.js';
import { adoptReading, descriptorOf } from '../transport/index.js';
import type { BlockLayer } from './block-layer-shell.js';
import { errnoOf } from './errors.js';
import { NBD_CONNECTIONS_MAX, NBD_SEND_BUFFER_BYTES } from './limits.js';
import { ReceiveBuffer } from './nbd-buffers.js';
import {
  type BorrowMemory,
  NbdConnection,
  type NbdExportStats,
  type ServedExport,
} from './nbd-connection-shell.js';
import { RangeQueue } from './range-queue.js';

export interface NbdServerOptions {
  readonly socketPath: string;
  /** By export name; the empty name a client may send means the only one. */
  readonly exports: ReadonlyMap<string, BlockLayer>;
  /** Where the data of large writes may be that do not send them; default: nowhere. */
  readonly borrowMemory?: BorrowMemory;
  /** Clients that set our flag can open this process's files. Default: no. */
  readonly lendsFiles?: boolean;
  readonly log: Logger;
}

/** Counters since the start; `exports` by name. */
export interface NbdServerStats {
  readonly connections: number;
  readonly connectionsRefused: number;
  readonly protocolErrors: number;
  readonly exports: Readonly<Record<string, Readonly<NbdExportStats>>>;
}

export class NbdServer {
  readonly socketPath: string;
  readonly #log: Logger;
  readonly #borrowMemory: BorrowMemory | undefined;
  readonly #lendsFiles: boolean;
  readonly #exports = new Map<string, ServedExport>();
  readonly #connections = new Set<NbdConnection>();
  readonly #server: net.Server;
  #refused = 0;
  #protocolErrors = 0;
  #idle: (() => void) | undefined;

  constructor(options: NbdServerOptions) {
    this.socketPath = options.socketPath;
    this.#log = options.log;
    this.#borrowMemory = options.borrowMemory;
    this.#lendsFiles = options.lendsFiles ?? false;
    for (const [name, layer] of options.exports) {
      this.#exports.set(name, { name, layer, writes: new RangeQueue(), stats: newStats() });
    }
    this.#server = net.createServer({ pauseOnConnect: true }, (socket) => this.#accept(socket));
    this.#server.on('error', (error) => {
      this.#log.error('NBD server socket failed', { reason: describeError(error) });
    });
  }

  get stats(): NbdServerStats {
    const exports: Record<string, NbdExportStats> = {};
    for (const { name, stats } of this.#exports.values()) exports[name] = { ...stats };
    return {
      connections: this.#connections.size,
      connectionsRefused: this.#refused,
      protocolErrors: this.#protocolErrors,
      exports,
    };
  }

  /** Listens; the socket is for this user only. Throws OperatorError when the path is taken. */
  async start(): Promise<void> {
    await removeStaleSocket(this.socketPath);
    await new Promise<void>((resolve, reject) => {
      const failed = (error: Error) => {
        const message = `Cannot listen on the NBD socket ${this.socketPath}: ${error.message}`;
        reject(new OperatorError('COLO_E_NBD_SOCKET', message, { cause: error }));
      };
      this.#server.once('error', failed);
      this.#server.listen(this.socketPath, () => {
        this.#server.off('error', failed);
        fs.chmodSync(this.socketPath, 0o600);
        resolve();
      });
    });
  }

  /** Stops accepting, finishes what is in progress, closes the connections. Idempotent. */
  async stop(): Promise<void> {
    if (this.#server.listening) this.#server.close();
    for (const connection of this.#connections) connection.end();
    if (this.#connections.size === 0) return;
    await new Promise<void>((resolve) => {
      this.#idle = resolve;
    });
  }

  #accept(accepted: net.Socket): void {
    if (this.#connections.size >= NBD_CONNECTIONS_MAX) {
      this.#refused += 1;
      this.#log.warn('NBD connection refused', { reason: `${NBD_CONNECTIONS_MAX} are open` });
      accepted.destroy();
      return;
    }
    let connection: NbdConnection | undefined;
    const receive = new ReceiveBuffer();
    let socket: net.Socket;
    try {
      socket = readDirectly(accepted, receive, () => connection?.received());
    } catch (error) {
      // No descriptor is left: other clients need not suffer for it.
      this.#refused += 1;
      this.#log.warn('NBD connection refused', { reason: describeError(error) });
      accepted.destroy();
      return;
    }
    const opened = new NbdConnection({
      socket,
      receive,
      exports: this.#exports,
      borrowMemory: this.#borrowMemory,
      lendsFiles: this.#lendsFiles,
      log: this.#log,
      onProtocolError: () => {
        this.#protocolErrors += 1;
      },
      onClosed: () => {
        this.#connections.delete(opened);
        if (this.#connections.size === 0) this.#idle?.();
      },
    });
    connection = opened;
    this.#connections.add(opened);
    socket.resume();
  }
}

function newStats(): NbdExportStats {
  return {
    requests: 0,
    bytesRead: 0,
    bytesWritten: 0,
    flushes: 0,
    errors: 0,
    requestsInFlight: 0,
    bytesInFlight: 0,
  };
}

/** A socket file that nobody listens on is left over from a crash; anything else is not ours. */
async function removeStaleSocket(path: string): Promise<void> {
  if (!fs.existsSync(path)) return;
  const code = await new Promise<string>((resolve) => {
    const probe = net.connect(path, () => {
      probe.destroy();
      resolve('');
    });
    probe.on('error', (error) => resolve(errnoOf(error)));
  });
  if (code === 'ECONNREFUSED') {
    fs.unlinkSync(path);
    return;
  }
  const message = `The NBD socket ${path} is in use; stop its owner or choose another path`;
  throw new OperatorError('COLO_E_NBD_SOCKET', message);
}

/** The same connection as a socket that reads to where its bytes belong. Still paused. */
function readDirectly(
  accepted: net.Socket,
  receive: ReceiveBuffer,
  onReceived: () => void,
): net.Socket {
  accepted.on('error', () => undefined);
  setSendBuffer(descriptorOf(accepted), NBD_SEND_BUFFER_BYTES);
  const fd = duplicateDescriptor(descriptorOf(accepted));
  accepted.destroy();
  return adoptReading(fd, {
    next: () => receive.next(),
    came: (bytes) => {
      receive.received(bytes);
      onReceived();
    },
  });
}
