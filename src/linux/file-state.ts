/** By which a file is known to be the one that was read before, and not written since. */
import type { BigIntStats } from 'node:fs';

/** Equal as long as the file is the same, with the same contents. */
export function fileState({ dev, ino, size, mtimeNs, ctimeNs }: BigIntStats): bigint[] {
  return [dev, ino, size, mtimeNs, ctimeNs];
}
