import { createWriteStream, type WriteStream } from 'node:fs';
import type { Readable } from 'node:stream';
import type { Logger } from '../lib/index.js';
import { CONSOLE_LOG_BYTES_MAX } from './limits.js';

/**
 * Copies the guest's serial console into a file. The guest decides how much it prints: the file has
 * a bound, at which it starts anew, and a disk that can't follow makes the guest's port slow,
 * nothing else.
 */
export class ConsoleLog {
  /** Bytes that were in the file when it started anew, all told. */
  discardedBytes = 0;
  readonly #path: string;
  readonly #source: Readable;
  readonly #log: Logger;
  #file: WriteStream;
  #writtenBytes = 0;

  constructor(path: string, source: Readable, log: Logger) {
    this.#path = path;
    this.#source = source;
    this.#log = log;
    this.#file = this.#open();
    source.on('data', (chunk: Buffer) => this.#write(chunk));
    source.on('error', (error) => log.debug('The console broke', { reason: error.message }));
    source.on('close', () => this.#file.end());
  }

  #open(): WriteStream {
    const file = createWriteStream(this.#path, { flags: 'w' });
    file.on('error', (error) => {
      this.#log.warn('The console log can not be written', { reason: error.message });
      this.#source.removeAllListeners('data').resume();
    });
    file.on('drain', () => this.#source.resume());
    return file;
  }

  #write(chunk: Buffer): void {
    if (this.#writtenBytes + chunk.length > CONSOLE_LOG_BYTES_MAX) {
      this.discardedBytes += this.#writtenBytes;
      this.#log.warn('The console log starts anew', { discardedBytes: this.discardedBytes });
      this.#file.end();
      this.#file = this.#open();
      this.#writtenBytes = 0;
    }
    this.#writtenBytes += chunk.length;
    if (!this.#file.write(chunk)) this.#source.pause();
  }
}
