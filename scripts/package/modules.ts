/**
 * Prints the npm modules that the product needs at run time, one path from the root a line, sorted.
 *
 * From the lock file, so that nothing else that happens to lie in node_modules gets into a package.
 * An optional module is left out where it is not installed: those are other platforms' binaries.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

interface LockedModule {
  readonly dev?: boolean;
  readonly devOptional?: boolean;
  readonly optional?: boolean;
}

const root = process.argv[2] ?? '.';
const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
  packages: Record<string, LockedModule>;
};
for (const [path, found] of Object.entries(lock.packages).sort()) {
  const isOurs = path.startsWith('node_modules/') && found.dev !== true;
  // Types are for compilers.
  if (!isOurs || found.devOptional === true || path.includes('/@types/')) continue;
  if (existsSync(join(root, path))) process.stdout.write(`${path}\n`);
  else if (found.optional !== true) {
    process.stderr.write(`Found no ${path}, expected it: run npm ci\n`);
    process.exitCode = 1;
  }
}
