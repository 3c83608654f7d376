import { createWriteStream, openSync, renameSync, type WriteStream } from 'node:fs';
import type { Readable } from 'node:stream';
import { describeError, type Logger } from '../lib/index.js';
import { CONSOLE_LOG_BYTES_MAX } from './limits.js';

export interface ConsoleLogOptions {
  readonly path: string;
  readonly source: Readable;
  readonly log: Logger;
  readonly bytesMax?: number;
}

/**
 * Copies the guest's serial console into a file. The guest decides how much it prints: at the bound
 * the file becomes `<path>.1` in place of an older one, and a new one begins. A disk that can't follow
 * makes the guest's port slow, nothing else.
 */
export class ConsoleLog {
  /** Bytes lost, all told: in files replaced, or never written. */
  discardedBytes = 0;
  readonly #options: ConsoleLogOptions;
  readonly #bytesMax: number;
  #file: WriteStream | undefined;
  #writtenBytes = 0;
  #olderBytes = 0;

  constructor(options: ConsoleLogOptions) {
    this.#options = options;
    this.#bytesMax = options.bytesMax ?? CONSOLE_LOG_BYTES_MAX;
    this.#open();
    const { source, log } = options;
    source.on('data', (chunk: Buffer) => this.#write(chunk));
    source.on('error', (error) => log.debug('The console broke', { reason: error.message }));
    source.on('close', () => this.#file?.end());
  }

  #open(): void {
    try {
      const fd = openSync(this.#options.path, 'w', 0o600);
      const file = createWriteStream(this.#options.path, { fd });
      file.on('error', (error) => this.#giveUp(error));
      file.on('drain', () => this.#options.source.resume());
      this.#file = file;
    } catch (error) {
      this.#giveUp(error);
    }
  }

  /** The console goes on without a log. */
  #giveUp(error: unknown): void {
    const { log, path, source } = this.#options;
    log.warn('The console log can not be written', { path, reason: describeError(error) });
    this.#file = undefined;
    source.resume();
  }

  #write(chunk: Buffer): void {
    if (this.#writtenBytes > 0 && this.#writtenBytes + chunk.length > this.#bytesMax) {
      this.#rotate();
    }
    if (this.#file === undefined) {
      this.discardedBytes += chunk.length;
      return;
    }
    this.#writtenBytes += chunk.length;
    if (!this.#file.write(chunk)) this.#options.source.pause();
  }

  #rotate(): void {
    if (this.#file === undefined) return;
    this.#file.end();
    this.discardedBytes += this.#olderBytes;
    this.#olderBytes = this.#writtenBytes;
    this.#writtenBytes = 0;
    renameSync(this.#options.path, `${this.#options.path}.1`);
    this.#open();
  }
}
