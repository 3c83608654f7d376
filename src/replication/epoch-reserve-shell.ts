/**
 * The epochs that are used up, in a file (I5): one decimal number, as EpochBlocks has it, durable
 * before any epoch of a new block is used.
 */
import { mkdir, readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { OperatorError } from '../lib/index.js';
import { writeDurably } from '../linux/index.js';
import { EpochBlocks } from './epoch-blocks.js';

/** Reserves epochs in one file. */
export class EpochReserve {
  readonly #path: string;
  readonly #blocks: EpochBlocks;

  private constructor(path: string, recorded: number) {
    this.#path = path;
    this.#blocks = new EpochBlocks(recorded);
  }

  /**
   * Opens or creates the file and reserves a block; `first` is its first epoch, above `used`: the
   * peer's block, when this node goes on with a guest of the peer.
   */
  static async open(path: string, used = 0): Promise<{ reserve: EpochReserve; first: number }> {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    const reserve = new EpochReserve(path, await readNumber(path));
    const first = reserve.#blocks.take(used);
    await reserve.#write();
    return { reserve, first };
  }

  /**
   * For a secondary, which uses none itself: what its primaries use must be known when this host
   * starts a guest of its own later.
   */
  static async watch(path: string): Promise<EpochReserve> {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    return new EpochReserve(path, await readNumber(path));
  }

  /** To be called as epochs go by; takes the next block in time. */
  async used(epoch: number): Promise<void> {
    if (this.#blocks.used(epoch)) await this.#write();
  }

  #write(): Promise<void> {
    return writeDurably(this.#path, `${this.#blocks.reserved}\n`);
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
