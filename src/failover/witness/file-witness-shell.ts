/**
 * The witness in a shared folder (file-record.ts has the idea). Operations run one after the other,
 * since a server that is gone keeps a thread of Node's pool each: while one hangs, every question is
 * answered with "unreachable".
 */
import { randomUUID } from 'node:crypto';
import { link, open, readdir, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { ColoError, describeError } from '../../lib/index.js';
import { bootTimeUs } from '../../linux/index.js';
import {
  REASON_LENGTH_MAX,
  RECORD_BYTES_MAX,
  RECORDS_KEPT,
  RECORDS_LISTED_MAX,
} from '../limits.js';
import {
  decodeRecord,
  encodeRecord,
  type FileRecord,
  judge,
  type Observation,
  recordName,
  recordNumber,
  releasing,
} from './file-record.js';
import type { Witness, WitnessAnswer, WitnessIdentity, WitnessRequest } from './witness.js';

export interface FileWitnessOptions {
  readonly identity: WitnessIdentity;
  /** Must be there, on storage that both hosts write to. */
  readonly folder: string;
  readonly ttlUs: number;
  readonly timeoutMs: number;
}

export class FileWitness implements Witness {
  readonly name: string;
  readonly #options: FileWitnessOptions;
  #seen: Observation | undefined;
  #running: Promise<unknown> | undefined;

  constructor(options: FileWitnessOptions) {
    this.#options = options;
    this.name = `file ${options.folder}`;
  }

  async ask(request: WitnessRequest): Promise<WitnessAnswer> {
    const answer = await this.#bounded(() => this.#ask(request));
    return answer ?? { kind: 'unreachable', reason: `${this.#options.folder} does not answer` };
  }

  async release(): Promise<void> {
    await this.#bounded(() => this.#release());
  }

  close(): void {
    // Nothing is open between two operations.
  }

  /** Undefined once the time is over, or while an earlier operation hangs. */
  async #bounded<T>(operation: () => Promise<T>): Promise<T | undefined> {
    if (this.#running !== undefined) return undefined;
    const running = operation().finally(() => {
      this.#running = undefined;
    });
    this.#running = running;
    const { timeoutMs } = this.#options;
    return Promise.race([running, delay(timeoutMs, undefined, { ref: false })]);
  }

  async #ask(request: WitnessRequest): Promise<WitnessAnswer> {
    const { identity, ttlUs } = this.#options;
    const askedAtUs = bootTimeUs();
    try {
      await this.#look();
      const asked = { who: identity, request, ttlUs, nonce: randomUUID() };
      const verdict = judge(this.#seen, asked, bootTimeUs());
      if (verdict.kind !== 'write') {
        return { kind: 'denied', holder: verdict.holder, stale: verdict.kind === 'stale' };
      }
      if (await this.#append(verdict.record)) {
        return { kind: 'granted', token: verdict.record.number, askedAtUs, ttlUs };
      }
      await this.#look();
      return { kind: 'denied', holder: this.#seen?.record.host ?? 'another', stale: false };
    } catch (error) {
      return { kind: 'unreachable', reason: describeError(error).slice(0, REASON_LENGTH_MAX) };
    }
  }

  async #release(): Promise<void> {
    try {
      await this.#look();
      const record = releasing(this.#seen?.record, this.#options.identity, randomUUID());
      if (record !== undefined) await this.#append(record);
    } catch {
      // It expires by itself.
    }
  }

  /** Finds the newest record; remembers since when that one is the newest. */
  async #look(): Promise<void> {
    const { folder, identity } = this.#options;
    const numbers = await this.#numbers();
    const newest = numbers.at(-1);
    if (newest === undefined || newest <= (this.#seen?.record.number ?? 0)) return;
    const path = join(folder, recordName(identity.vm, newest));
    const record = decodeRecord(await readBounded(path), identity.vm, newest);
    if (record === undefined) {
      throw new ColoError('COLO_E_WITNESS', `${path} is no record of a witness: remove it`);
    }
    // The clock is read after the record: what was seen is at least as old.
    this.#seen = { record, sinceUs: bootTimeUs() };
  }

  async #numbers(): Promise<number[]> {
    const { folder, identity } = this.#options;
    const found: number[] = [];
    for (const name of await readdir(folder)) {
      const number = recordNumber(identity.vm, name);
      if (number !== undefined) found.push(number);
    }
    if (found.length > RECORDS_LISTED_MAX) {
      throw new ColoError('COLO_E_WITNESS', `${folder} has ${found.length} records: clean it up`);
    }
    return found.sort((a, b) => a - b);
  }

  /** True if this record is the next; false if another was faster. */
  async #append(record: FileRecord): Promise<boolean> {
    const { folder, identity } = this.#options;
    const path = join(folder, recordName(identity.vm, record.number));
    const draft = join(folder, `.${identity.vm}.${record.nonce}.draft`);
    try {
      const file = await open(draft, 'wx', 0o644);
      try {
        await file.writeFile(encodeRecord(record));
        await file.sync();
      } finally {
        await file.close();
      }
      await link(draft, path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      // NFS may repeat a request whose answer was lost: then it is our own file that is there.
      const there = decodeRecord(await readBounded(path), identity.vm, record.number);
      if (there?.nonce !== record.nonce) return false;
    } finally {
      await unlink(draft).catch(() => {
        // Not made, or left behind on a server that is gone; nobody reads it.
      });
    }
    this.#seen = { record, sinceUs: bootTimeUs() };
    await this.#prune(record.number);
    return true;
  }

  async #prune(newest: number): Promise<void> {
    const { folder, identity } = this.#options;
    for (const number of await this.#numbers()) {
      if (number > newest - RECORDS_KEPT) break;
      await unlink(join(folder, recordName(identity.vm, number))).catch(() => {
        // The other host does the same.
      });
    }
  }
}

async function readBounded(path: string): Promise<string> {
  const file = await open(path, 'r');
  try {
    const buffer = Buffer.alloc(RECORD_BYTES_MAX);
    const { bytesRead } = await file.read(buffer, 0, buffer.length, 0);
    return buffer.toString('utf8', 0, bytesRead);
  } finally {
    await file.close();
  }
}
