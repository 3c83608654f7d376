/**
 * Tests whose scenarios run in a process and a network namespace of their own: whatever happens
 * there, nothing stays behind.
 */
import { execFile, spawnSync } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { promisify } from 'node:util';
import ava, { type TestFn } from 'ava';

const run = promisify(execFile);
/** A PID namespace too: when the child ends, however, what it started ends with it. */
const NAMESPACES = ['--net', '--pid', '--fork', '--kill-child'];
const UNSHARE =
  process.getuid?.() === 0 ? NAMESPACES : ['--user', '--map-root-user', ...NAMESPACES];

/** Why such tests can't run here; undefined when they can. */
function obstacle(): string | undefined {
  try {
    closeSync(openSync('/dev/net/tun', 'r+'));
  } catch (error) {
    return `/dev/net/tun can not be opened: ${(error as Error).message}`;
  }
  const made = spawnSync('unshare', [...UNSHARE, 'ip', 'link', 'show', 'dev', 'lo']);
  if (made.status === 0) return undefined;
  return `no network namespace can be made: ${made.error?.message ?? made.stderr.toString().trim()}`;
}

/** AVA's `test`, or its `skip` where there can be no namespace, with the reason printed. */
export function testInNamespaces(name: string): TestFn | TestFn['skip'] {
  const reason = obstacle();
  if (reason === undefined) return ava;
  console.error(`${name}: skipped, ${reason}`);
  return ava.skip;
}

/** Runs the module at `url` in a namespace; what it prints is JSON. */
export async function observeInNamespace<T = Record<string, unknown>>(
  url: URL,
  ...args: readonly string[]
): Promise<T> {
  const child = [process.execPath, url.pathname, ...args];
  const options = { timeout: 60_000, killSignal: 'SIGKILL' } as const;
  const { stdout } = await run('unshare', [...UNSHARE, ...child], options);
  return JSON.parse(stdout) as T;
}
