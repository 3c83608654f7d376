/** One connection to redis: commands in order, a reply for each, or one error for all that wait. */
import { connect, type Socket } from 'node:net';
import { ANSWER_DEADLINE_MS, type Target } from './client.js';
import { encodeCommand, RespParser, type RespValue } from './resp.js';

interface Waiter {
  resolve(value: RespValue): void;
  reject(error: Error): void;
}

export class RespConnection {
  readonly #socket: Socket;
  readonly #parser = new RespParser();
  readonly #waiters: Waiter[] = [];
  #failure: Error | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk) => this.#receive(chunk));
    socket.on('error', (error) => this.#fail(error));
    socket.on('close', () => this.#fail(new Error('The connection was closed')));
    socket.on('end', () => socket.destroy());
  }

  /** Connects within `ANSWER_DEADLINE_MS` or rejects; `close` must follow. */
  static open(target: Target): Promise<RespConnection> {
    return new Promise((resolve, reject) => {
      const socket = connect({ host: target.host, port: target.port, noDelay: true });
      const timer = setTimeout(
        () => socket.destroy(new Error(`Not connected within ${ANSWER_DEADLINE_MS} ms`)),
        ANSWER_DEADLINE_MS,
      );
      socket.once('error', (error) => {
        clearTimeout(timer);
        reject(error);
      });
      socket.once('connect', () => {
        clearTimeout(timer);
        resolve(new RespConnection(socket));
      });
    });
  }

  /** Sends a command; rejects if the connection fails before the reply is complete. */
  command(words: readonly string[]): Promise<RespValue> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined) {
        reject(this.#failure);
        return;
      }
      this.#waiters.push({ resolve, reject });
      this.#socket.write(encodeCommand(words));
    });
  }

  /** Ends the connection; commands without a reply reject. */
  close(): void {
    this.#socket.destroy();
  }

  #receive(chunk: Buffer): void {
    try {
      for (const value of this.#parser.write(chunk)) {
        const waiter = this.#waiters.shift();
        if (waiter === undefined) throw new Error('A reply came without a command');
        waiter.resolve(value);
      }
    } catch (error) {
      this.#socket.destroy(error as Error);
    }
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    for (const waiter of this.#waiters.splice(0)) waiter.reject(this.#failure);
  }
}
