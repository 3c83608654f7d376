/**
 * The guest's control port (:7001), from within the client's namespace: one line in, one line out,
 * in order; several commands may wait at once.
 */
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { ANSWER_DEADLINE_MS, type Target } from './client.js';

interface Waiter {
  resolve(line: string): void;
  reject(error: Error): void;
}

export class ControlConnection {
  readonly #socket: Socket;
  readonly #waiters: Waiter[] = [];
  /** Why it ended; undefined while it lives. */
  failure: Error | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    createInterface({ input: socket }).on('line', (line) => this.#receive(line));
    // Each answer keeps a connection alive; silence counts only while one is owed.
    socket.on('timeout', () => {
      if (this.#waiters.length > 0) socket.destroy(lateAnswer());
    });
    socket.on('error', (error) => this.#fail(error));
    socket.on('close', () => this.#fail(new Error('The control connection was closed')));
    socket.on('end', () => socket.destroy());
  }

  /** Connects within `ANSWER_DEADLINE_MS` or rejects; `close` must follow. */
  static open(target: Target): Promise<ControlConnection> {
    return new Promise((resolve, reject) => {
      const socket = connect({ host: target.host, port: target.port, noDelay: true });
      socket.setTimeout(ANSWER_DEADLINE_MS, () => {
        if (socket.connecting) socket.destroy(lateAnswer());
      });
      socket.once('error', reject);
      socket.once('connect', () => {
        socket.off('error', reject);
        resolve(new ControlConnection(socket));
      });
    });
  }

  /** This end's address, which the guest reaches us at. */
  get localAddress(): string {
    return (this.#socket.localAddress ?? '').replace(/^::ffff:/, '');
  }

  /** What follows "ok"; rejects on "error" and when the connection fails. */
  async command(line: string): Promise<string> {
    const text = await new Promise<string>((resolve, reject) => {
      if (this.failure !== undefined) {
        reject(this.failure);
        return;
      }
      this.#waiters.push({ resolve, reject });
      this.#socket.write(`${line}\n`);
    });
    const answer = /^ok ?(.*)$/.exec(text)?.[1];
    if (answer === undefined) throw new Error(`The guest answers "${line}" with "${text}"`);
    return answer;
  }

  close(): void {
    this.#socket.destroy();
  }

  #receive(line: string): void {
    const waiter = this.#waiters.shift();
    if (waiter === undefined) this.#socket.destroy(new Error(`"${line}" answers nothing`));
    else waiter.resolve(line);
  }

  #fail(error: Error): void {
    this.failure ??= error;
    for (const waiter of this.#waiters.splice(0)) waiter.reject(this.failure);
  }
}

function lateAnswer(): Error {
  return new Error(`The guest did not answer within ${ANSWER_DEADLINE_MS} ms`);
}
