/** The probe on a real raw socket, in a network namespace that lives as long as its process. */
import { execFile, spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import ava from 'ava';

const run = promisify(execFile);
const CHILD = fileURLToPath(new URL('./gateway-child.js', import.meta.url));
const UNSHARE = process.getuid?.() === 0 ? ['--net'] : ['--user', '--map-root-user', '--net'];

const made = spawnSync('unshare', [...UNSHARE, 'ip', 'link', 'show', 'dev', 'lo']);
if (made.status !== 0) console.error('gateway-probe: skipped, no network namespace can be made');
const test = made.status === 0 ? ava : ava.skip;

for (const address of ['127.0.0.1', '::1']) {
  test(`${address} is reachable while its interface is up, and only then`, async (t) => {
    const options = { timeout: 60_000, killSignal: 'SIGKILL' } as const;
    const child = [...UNSHARE, process.execPath, CHILD, address];
    const { stdout } = await run('unshare', child, options);
    t.deepEqual(JSON.parse(stdout), [true, false, true]);
  });
}
