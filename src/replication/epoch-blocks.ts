/**
 * Which epochs a host may use (I5): blocks, each above all that it knows to have been used.
 *
 * In: what its file holds, and epochs as they go by, its own and those of the primary that it is
 * the secondary of. Out: what the file must hold. Everything up to that number may have been used.
 */

/**
 * Epochs. A block outlasts any run: a million are more than a day at the shortest interval, and the
 * next one is taken when half of one is used, so that no file is touched at a checkpoint.
 */
const BLOCK = 1_000_000;

/** What one host knows of the epochs that are used up. */
export class EpochBlocks {
  #reserved: number;

  /** `recorded`: as the file has it, 0 if there is none. */
  constructor(recorded: number) {
    this.#reserved = recorded;
  }

  /** What the file must hold. */
  get reserved(): number {
    return this.#reserved;
  }

  /** Takes a block; its first epoch. `used`: of the peer, whose guest this host goes on with. */
  take(used = 0): number {
    const first = Math.max(this.#reserved, used === 0 ? 0 : used + BLOCK) + 1;
    this.#reserved = first + BLOCK;
    return first;
  }

  /** True if `reserved` has changed. */
  used(epoch: number): boolean {
    if (epoch <= this.#reserved - BLOCK / 2) return false;
    this.#reserved = epoch + BLOCK;
    return true;
  }
}
