/** Messages of a peer for somebody who waits for them, with a deadline and an end. */
import { ProtocolError } from '../../lib/index.js';

/** Whoever owns a link feeds it; its bound is the sender's window, checked before `push`. */
export class Mailbox<T> {
  readonly #items: T[] = [];
  readonly #deadlineMs: number;
  #failure: Error | undefined;
  #wake: (() => void) | undefined;

  constructor(deadlineMs: number) {
    this.#deadlineMs = deadlineMs;
  }

  get length(): number {
    return this.#items.length;
  }

  push(item: T): void {
    this.#items.push(item);
    this.#wake?.();
  }

  /** Nothing comes any more; whoever waits is told why, now and later. */
  fail(error: Error): void {
    this.#failure ??= error;
    this.#wake?.();
  }

  /** The next item, in order; one waits at a time. Rejects with the failure or at the deadline. */
  async next(what: string): Promise<T> {
    if (this.#failure === undefined && this.#items.length === 0) await this.#wait(what);
    if (this.#failure !== undefined) throw this.#failure;
    return this.#items.shift() as T;
  }

  #wait(what: string): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#wake = undefined;
        const seconds = this.#deadlineMs / 1000;
        reject(new ProtocolError(`The peer has not sent ${what} for ${seconds} s`));
      }, this.#deadlineMs);
      this.#wake = () => {
        this.#wake = undefined;
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
