/**
 * The replication network is gone for less than the peer time-out, or its connections are killed:
 * protection does not end, the epochs go on, and the clients notice nothing.
 */
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import test from 'ava';
import { CLIENT_NAMES } from '../../scripts/clients/client.js';
import { nowUs } from '../../scripts/clients/clock.js';
import type { HostName } from '../../scripts/harness/lab.js';
import type { PairLab } from '../../scripts/harness/pair-lab.js';
import { assertNothingLost, startClients, withPair } from './pair-harness.js';

const run = promisify(execFile);

/** Milliseconds that the wire is cut: a tenth of the pair's peer time-out. */
const CUT_MS = 300;
const KILLS = 5;
const DEADLINE_MS = 60_000;
const POLL_MS = 20;

async function inHost(pair: PairLab, host: HostName, command: readonly string[]): Promise<string> {
  const [program = '', ...args] = [...pair.lab[host].enter, ...command];
  return (await run(program, args)).stdout;
}

/** Lines of a host's log with this text. */
async function logged(pair: PairLab, host: HostName, text: string): Promise<number> {
  return (await readFile(pair.logPath(host), 'utf8')).split(text).length - 1;
}

async function waitLogged(
  pair: PairLab,
  host: HostName,
  text: string,
  count: number,
): Promise<void> {
  const untilUs = nowUs() + DEADLINE_MS * 1000;
  while ((await logged(pair, host, text)) < count) {
    if (nowUs() > untilUs) throw new Error(`${host} did not log "${text}" ${count} times`);
    await delay(POLL_MS);
  }
}

/** Two checkpoints after the present one are committed. */
async function goesOn(pair: PairLab): Promise<void> {
  const { epoch } = await pair.status('hosta');
  await pair.waitStatus('hosta', 'epochs go on', ({ committedEpoch }) => {
    return committedEpoch !== null && committedEpoch > epoch + 1;
  });
}

/** Closes the pair's connections as a host's kernel does it by itself: both ends hear of it. */
async function killConnections(pair: PairLab, host: HostName): Promise<number> {
  const filter = ['state', 'established', 'src', '10.88.0.0/24', 'dst', '10.88.0.0/24'];
  const killed = await inHost(pair, host, ['ss', '-K', '-t', '-n', '-H', ...filter]);
  return killed.split('\n').filter((line) => line.includes('10.88.0.')).length;
}

for (const mode of ['colo', 'checkpoint'] as const) {
  test(`a flap of the replication network does not end protection, mode ${mode}`, async (t) => {
    await withPair(t, { mode }, async (pair) => {
      const clients = await startClients(pair, { clients: CLIENT_NAMES });
      await clients.waitSuccesses({ names: CLIENT_NAMES, afterUs: 0, count: 5 });
      await goesOn(pair);
      for (let kill = 0; kill < KILLS; kill += 1) {
        const before = await logged(pair, 'hosta', 'Session resumed');
        const connections = await killConnections(pair, kill % 2 === 0 ? 'hosta' : 'hostb');
        t.true(connections >= 4, `${connections} connections were killed`);
        await waitLogged(pair, 'hosta', 'Session resumed', before + 1);
        await goesOn(pair);
      }
      await inHost(pair, 'hosta', ['ip', 'link', 'set', 'repl0', 'down']);
      // The time is the fault itself: nothing could be waited for instead.
      await delay(CUT_MS);
      await inHost(pair, 'hosta', ['ip', 'link', 'set', 'repl0', 'up']);
      await goesOn(pair);
      await clients.waitSuccesses({ names: CLIENT_NAMES, afterUs: nowUs(), count: 5 });
      const { role, checkpoints } = await pair.status('hosta');
      t.is(role, 'primary');
      t.is(checkpoints.failed, 0);
      for (const text of ['Running unprotected', 'Secondary connected']) {
        t.is(await logged(pair, 'hosta', text), text === 'Secondary connected' ? 1 : 0, text);
      }
      t.is(await logged(pair, 'hostb', 'Primary connected'), 1);
      const text = await readFile(pair.logPath('hosta'), 'utf8');
      const afterMs = [...text.matchAll(/Session resumed.*afterMs=(\d+)/g)].map(([, ms]) => ms);
      t.log(`Interrupted for ${afterMs.join(', ')} ms`);
      assertNothingLost(t, await clients.stop());
    });
  });
}
