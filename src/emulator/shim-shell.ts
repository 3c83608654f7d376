import type { Duplex } from 'node:stream';
import type { PageRange } from '../lib/index.js';
import { QemuError } from './errors.js';
import { DROP_RANGES_MAX } from './limits.js';
import {
  decodeShimAnswer,
  decodeShimReport,
  encodeDropRequest,
  SHIM_ANSWER_BYTES,
  SHIM_REPORT_BYTES,
  type ShimReport,
} from './shim-wire.js';

interface Waiter {
  readonly bytes: number;
  readonly resolve: (answer: Buffer) => void;
  readonly reject: (error: Error) => void;
}

/**
 * The agent's end of the preload library's control socket. It must stay open as long as QEMU lives.
 */
export class ShimClient {
  readonly report: Promise<ShimReport>;
  readonly #stream: Duplex;
  readonly #waiters: Waiter[] = [];
  #received = Buffer.alloc(0);
  #failure: Error | undefined;

  constructor(stream: Duplex) {
    this.#stream = stream;
    stream.on('data', (chunk: Buffer) => this.#receive(chunk));
    stream.on('error', (cause) => this.fail(new QemuError('The preload library broke', { cause })));
    stream.on('close', () => this.fail(new QemuError('The preload library closed its socket')));
    this.report = this.#expect(SHIM_REPORT_BYTES).then(decodeShimReport);
    this.report.catch(() => undefined);
  }

  /** Drops the private copies of these ranges. */
  async drop(ranges: readonly PageRange[]): Promise<void> {
    const answers: Promise<Buffer>[] = [];
    for (let at = 0; at < ranges.length; at += DROP_RANGES_MAX) {
      answers.push(this.#expect(SHIM_ANSWER_BYTES));
      if (this.#failure === undefined) {
        this.#stream.write(encodeDropRequest(ranges.slice(at, at + DROP_RANGES_MAX)));
      }
    }
    for (const answer of await Promise.all(answers)) {
      const errno = decodeShimAnswer(answer);
      if (errno !== 0) throw new QemuError(`Dropping private pages failed with errno ${errno}`);
    }
  }

  /** Calls `listener` when QEMU's end is closed, which is early in its own end. */
  onClose(listener: () => void): void {
    this.#stream.once('close', listener);
  }

  /** Fails all that waits and all to come. Idempotent. */
  fail(error: Error): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    for (const waiter of this.#waiters.splice(0)) waiter.reject(error);
    this.#stream.destroy();
  }

  #expect(bytes: number): Promise<Buffer> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    return new Promise((resolve, reject) => {
      this.#waiters.push({ bytes, resolve, reject });
    });
  }

  #receive(chunk: Buffer): void {
    this.#received = Buffer.concat([this.#received, chunk]);
    for (;;) {
      const waiter = this.#waiters[0];
      if (waiter === undefined) {
        if (this.#received.length > 0) {
          this.fail(new QemuError('The preload library spoke without being asked'));
        }
        return;
      }
      if (this.#received.length < waiter.bytes) return;
      this.#waiters.shift();
      waiter.resolve(this.#received.subarray(0, waiter.bytes));
      this.#received = this.#received.subarray(waiter.bytes);
    }
  }
}
