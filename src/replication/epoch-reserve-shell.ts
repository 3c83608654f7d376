/**
 * Numbers for epochs that no earlier run of this agent has used (I5).
 *
 * The file holds one decimal number: everything up to it may have been used. A run takes a block in
 * front of its first epoch, durably, so that no file is touched at a checkpoint. A block outlasts
 * any run: a million epochs are more than a day at the shortest interval, and the next block is
 * taken when half of one is used.
 */
import { mkdir, open, readFile, rename } from 'node:fs/promises';
import { dirname } from 'node:path';
import { OperatorError } from '../lib/index.js';

const BLOCK = 1_000_000;

/** Reserves epochs in one file. */
export class EpochReserve {
  readonly #path: string;
  #reserved = 0;

  private constructor(path: string) {
    this.#path = path;
  }

  /**
   * Opens or creates the file and reserves a block; `first` is its first epoch, above `used`: the
   * peer's block, when this node goes on with a guest of the peer.
   */
  static async open(path: string, used = 0): Promise<{ reserve: EpochReserve; first: number }> {
    const reserve = new EpochReserve(path);
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    reserve.#reserved = Math.max(await readNumber(path), used === 0 ? 0 : used + BLOCK);
    const first = reserve.#reserved + 1;
    await reserve.#extend(first);
    return { reserve, first };
  }

  /** To be called as epochs go by; takes the next block in time. */
  async used(epoch: number): Promise<void> {
    if (epoch > this.#reserved - BLOCK / 2) await this.#extend(epoch);
  }

  async #extend(epoch: number): Promise<void> {
    this.#reserved = epoch + BLOCK;
    const temporary = `${this.#path}.new`;
    const file = await open(temporary, 'w', 0o600);
    try {
      await file.writeFile(`${this.#reserved}\n`);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, this.#path);
  }
}

async function readNumber(path: string): Promise<number> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0;
    throw error;
  }
  const number = /^\d{1,15}\n?$/.test(text) ? Number(text) : Number.NaN;
  if (Number.isSafeInteger(number)) return number;
  throw new OperatorError(
    'COLO_E_EPOCH_FILE',
    `${path} holds ${JSON.stringify(text.slice(0, 40))} instead of a number; ` +
      'restore it, or write a number above every epoch of the peer',
  );
}
