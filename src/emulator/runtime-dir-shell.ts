/** The directory of one agent's sockets: private, named after the process, gone with it. */
import { existsSync } from 'node:fs';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';

/**
 * Makes `<runDir>/<vm>.<pid>` (mode 0700) and removes what killed agents of this VM left there.
 * The caller removes it at the end.
 */
export async function makeRuntimeDir(runDir: string, vm: string): Promise<string> {
  await mkdir(runDir, { recursive: true, mode: 0o755 });
  for (const name of await readdir(runDir)) {
    const pid = name.startsWith(`${vm}.`) ? name.slice(vm.length + 1) : '';
    const isStale = /^\d+$/.test(pid) && !existsSync(`/proc/${pid}`);
    if (isStale) await rm(join(runDir, name), { recursive: true, force: true });
  }
  const path = join(runDir, `${vm}.${process.pid}`);
  await rm(path, { recursive: true, force: true });
  await mkdir(path, { mode: 0o700 });
  return path;
}
