import { fileURLToPath } from 'node:url';

/** A file of test/golden; tests run from build/, which does not hold them. */
export function goldenPath(name: string): string {
  return fileURLToPath(new URL(`../../../test/golden/${name}`, import.meta.url));
}
