import { closeSync, openSync, readSync } from 'node:fs';
import { CONFIG_FILE_BYTES_MAX } from '../config/index.js';

/**
 * The bytes of a configuration file, undefined when there is none. At most one byte more than it
 * may have: `--config /dev/zero` ends too. Throws for a file that can't be read.
 */
export function readFileBounded(path: string): Uint8Array | undefined {
  let file: number;
  try {
    file = openSync(path, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  try {
    const bytes = Buffer.alloc(CONFIG_FILE_BYTES_MAX + 1);
    let length = 0;
    while (length < bytes.length) {
      const read = readSync(file, bytes, length, bytes.length - length, null);
      if (read === 0) break;
      length += read;
    }
    return bytes.subarray(0, length);
  } finally {
    closeSync(file);
  }
}
