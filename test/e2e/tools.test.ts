/** The operator's tools of mode colo on a pair at work: set-mode, capture, compare. */
import { execFile } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';
import type { ClientName } from '../../scripts/clients/client.js';
import { nowUs } from '../../scripts/clients/clock.js';
import { callAgent } from '../../scripts/harness/agent-control.js';
import type { ClientProcess } from '../../scripts/harness/client-process.js';
import { socketPath, startClients, withPair } from './pair-harness.js';

const run = promisify(execFile);
const COLO = fileURLToPath(new URL('../../src/cli/colo.js', import.meta.url));

/** Exit code and output of `colo`. */
async function colo(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  try {
    return { code: 0, ...(await run(process.execPath, [COLO, ...args])) };
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
    return { code, stdout, stderr };
  }
}

/** Each of these clients gets something done from now on. */
function progress(clients: ClientProcess, names: readonly ClientName[]): Promise<void> {
  return clients.waitSuccesses({ names, afterUs: nowUs(), count: 5 });
}

test('the mode changes to and fro under load, and a failover loses nothing', async (t) => {
  await withPair(t, { mode: 'checkpoint', periodMs: 200 }, async (pair) => {
    const socket = ['--socket', socketPath(pair, 'hosta')];
    const clients = await startClients(pair, { clients: ['http', 'redis', 'stream'] });
    t.like(await pair.status('hosta'), { mode: 'checkpoint', compare: { confirmedFrames: 0 } });
    t.is((await colo(...socket, 'set-mode', 'colo')).code, 0);
    await pair.waitStatus('hosta', 'output is confirmed', ({ mode, compare }) => {
      return mode === 'colo' && (compare?.confirmedFrames ?? 0) > 100;
    });
    t.is((await pair.status('hostb')).mode, 'colo');
    t.is((await colo(...socket, 'set-period', 'auto')).code, 0);
    t.is((await colo(...socket, 'set-mode', 'checkpoint')).code, 0);
    // The figures are told some times a second: the last of mode colo may still be on their way.
    await progress(clients, ['redis', 'stream']);
    const { compare } = await pair.status('hosta');
    await callAgent(socketPath(pair, 'hosta'), { command: 'checkpoint', arguments: {} });
    await progress(clients, ['redis', 'stream']);
    const after = await pair.status('hosta');
    t.is(after.compare?.running, false);
    t.is(after.compare?.confirmedFrames, compare?.confirmedFrames);
    t.is((await colo(...socket, 'set-mode', 'colo')).code, 0);
    t.is((await colo('--socket', socketPath(pair, 'hostb'), 'set-mode', 'colo')).code, 1);
    await progress(clients, ['http', 'redis']);
    await pair.kill('hosta');
    await progress(clients, ['http', 'redis', 'stream']);
    const reports = await clients.stop();
    t.is(reports.redis?.acknowledgedLost, 0);
    t.is(reports.stream?.missing, 0);
    t.is(reports.stream?.repeats, 0);
  });
});

test('a capture of a pair at work is compared offline with the same result', async (t) => {
  await withPair(t, { mode: 'colo', periodMs: 1000 }, async (pair) => {
    const socket = ['--socket', socketPath(pair, 'hosta')];
    const clients = await startClients(pair, { clients: ['redis', 'stream'] });
    const dir = join(pair.directory, 'capture');
    const captured = await colo(...socket, 'capture', '--dir', dir, '--duration', '3s');
    t.is(captured.code, 0, captured.stderr);
    await clients.stop();
    const files = await readdir(dir);
    t.deepEqual(files.sort(), ['inbound.pcap', 'primary.pcap', 'secondary.pcap', 'verdicts.jsonl']);
    const paths = [join(dir, 'primary.pcap'), join(dir, 'secondary.pcap')];
    const compared = await colo('compare', ...paths, '--json');
    t.true([0, 1].includes(compared.code), compared.stderr);
    const report = JSON.parse(compared.stdout.trim().split('\n').at(-1) ?? '');
    t.log(compared.stdout.slice(0, 300));
    t.true(report.releasedFrames > 20);
    // Nothing is overwritten.
    const again = await colo(...socket, 'capture', '--dir', dir, '--duration', '1s');
    t.is(again.code, 1);
    t.regex(again.stderr, /exist/);
  });
});
