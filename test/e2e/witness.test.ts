/**
 * Who may speak, with real guests: wires are cut, hosts are stopped and killed, the witness goes
 * and comes back. A sniffer on the LAN sees every frame of the guest and which host it came from.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { CLIENT_NAMES } from '../../scripts/clients/client.js';
import { nowUs } from '../../scripts/clients/clock.js';
import { callAgent } from '../../scripts/harness/agent-control.js';
import type { ClientProcess } from '../../scripts/harness/client-process.js';
import type { Etcd } from '../../scripts/harness/etcd.js';
import { ETCD_WITNESS, startEtcd } from '../../scripts/harness/etcd-in-lab.js';
import type { Namespace } from '../../scripts/harness/lab.js';
import { LanSniffer } from '../../scripts/harness/lan-sniffer.js';
import type { PairLab } from '../../scripts/harness/pair-lab.js';
import { run } from './lab-harness.js';
import { assertNothingLost, socketPath, startClients, withPair } from './pair-harness.js';

const CLIENTS = { clients: CLIENT_NAMES, args: ['--random-interval-ms', '500'] };
const ENOUGH = 5;
const WITNESS_TTL_MS = 2000;
/** Of the harness's pairs. */
const PEER_TIMEOUT_MS = 3000;
const COMMAND_DEADLINE_MS = 30_000;

async function clientsGoOn(clients: ClientProcess, afterUs = nowUs()): Promise<void> {
  await clients.waitSuccesses({ names: CLIENT_NAMES, afterUs, count: ENOUGH });
}

async function setLink(host: Namespace, state: 'up' | 'down'): Promise<void> {
  await run('ip', ['-n', host.name, 'link', 'set', 'repl0', state]);
}

/** A process that is stopped at the worst moment is not the last to decide (I4). */
async function theKernelLooks(t: ExecutionContext, { lab }: PairLab): Promise<void> {
  for (const { enter } of [lab.hosta, lab.hostb]) {
    const show = ['tc', 'filter', 'show', 'dev', 'tap0', 'ingress'];
    const [file = '', ...args] = [...enter, ...show];
    const filters = (await run(file, args)).toString();
    t.regex(filters, /bpf .*\bcolo\b.* direct-action/);
  }
}

/** Both ways at once; what is restored is used again as soon as somebody connects. */
async function theLinkIsCut(t: ExecutionContext, pair: PairLab, clients: ClientProcess) {
  const cutUs = nowUs();
  await setLink(pair.lab.hosta, 'down');
  await pair.waitStatus('hosta', 'it goes on alone', ({ state, speech }) => {
    return state !== 'protected' && speech?.granted === true;
  });
  await clientsGoOn(clients, cutUs);
  t.log(`link cut: clients go on after ${Math.round((nowUs() - cutUs) / 1000)} ms`);
  const isOut = ({ state }: { state: string }) => state === 'waiting';
  await pair.waitStatus('hostb', 'it knows that its state is old', isOut);
  await setLink(pair.lab.hosta, 'up');
  await pair.waitProtected(undefined, 'hosta');
}

async function theSpeakerIsStopped(pair: PairLab, clients: ClientProcess): Promise<void> {
  const stoppedUs = await pair.signalHost('hosta', 'SIGSTOP');
  await pair.waitStatus('hostb', 'it takes over', ({ role }) => role === 'primary');
  await clientsGoOn(clients, stoppedUs);
  await pair.signalHost('hosta', 'SIGCONT');
  await pair.waitStatus('hosta', 'it is a secondary', ({ role }) => role === 'secondary');
  await pair.waitProtected(undefined, 'hostb');
}

/** Resolves to when nobody may have spoken. */
async function theWitnessGoesAndThenThePeer(
  pair: PairLab,
  { clients, etcd }: { clients: ClientProcess; etcd: Etcd },
): Promise<{ fromMs: number; untilMs: number }> {
  etcd.process.kill('SIGSTOP');
  // A grant that was still held has expired by then, and a healthy pair has none.
  await delay(WITNESS_TTL_MS + PEER_TIMEOUT_MS);
  await clientsGoOn(clients);
  await pair.waitProtected(undefined, 'hostb');
  await pair.kill('hosta');
  await pair.waitStatus('hostb', 'it is silent', ({ speech }) => speech?.state === 'muted');
  const fromMs = Date.now();
  await delay(WITNESS_TTL_MS);
  const untilMs = Date.now();
  etcd.process.kill('SIGCONT');
  await pair.waitStatus('hostb', 'it speaks again', ({ speech }) => speech?.state === 'speaking');
  await clientsGoOn(clients);
  return { fromMs, untilMs };
}

test('with etcd exactly one host speaks, and losing the witness alone stops nobody', async (t) => {
  let etcd: Etcd | undefined;
  let sniffer: LanSniffer | undefined;
  const flags = ['--witness', ETCD_WITNESS, '--witness-ttl', `${WITNESS_TTL_MS}ms`];
  await withPair(
    t,
    {
      primaryFlags: flags,
      secondaryFlags: flags,
      before: async (pair, cleanup) => {
        etcd = await startEtcd(pair.lab.client, cleanup);
        sniffer = new LanSniffer(pair, cleanup);
      },
    },
    async (pair) => {
      if (etcd === undefined || sniffer === undefined) throw new Error('The lab is not ready');
      const clients = await startClients(pair, CLIENTS);
      await clientsGoOn(clients, 0);
      await theKernelLooks(t, pair);
      await theLinkIsCut(t, pair, clients);
      await theSpeakerIsStopped(pair, clients);
      assertNothingLost(t, await clients.stop());
      // Silence for so long is more than some clients wait for an answer: others see the rest.
      const later = await startClients(pair, CLIENTS);
      const silence = await theWitnessGoesAndThenThePeer(pair, { clients: later, etcd });
      t.is((await later.stop()).redis?.acknowledgedLost, 0);
      await sniffer.stop();
      t.deepEqual(sniffer.speakers(), ['hosta', 'hostb']);
      t.is(sniffer.count('hostb', silence), 0);
    },
  );
});

test('with a shared folder roles change on purpose, and by the death of a host', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'colo-witness-'));
  t.teardown(() => rm(folder, { recursive: true }));
  let sniffer: LanSniffer | undefined;
  const flags = ['--witness', `file://${folder}`, '--witness-ttl', `${WITNESS_TTL_MS}ms`];
  await withPair(
    t,
    {
      primaryFlags: flags,
      secondaryFlags: flags,
      before: async (pair, cleanup) => {
        sniffer = new LanSniffer(pair, cleanup);
      },
    },
    async (pair) => {
      const clients = await startClients(pair, CLIENTS);
      await clientsGoOn(clients, 0);
      const failover = { command: 'failover', arguments: { force: false } } as const;
      await callAgent(socketPath(pair, 'hostb'), failover, COMMAND_DEADLINE_MS);
      await pair.waitProtected(undefined, 'hostb');
      // A grant of the change would have to expire; it is given back once the pair is well.
      await pair.waitStatus('hostb', 'it has no grant', ({ speech }) => speech?.granted === false);
      const killedUs = await pair.kill('hostb');
      await clientsGoOn(clients, killedUs);
      t.is((await pair.status('hosta')).role, 'primary');
      assertNothingLost(t, await clients.stop());
      await sniffer?.stop();
      t.deepEqual(sniffer?.speakers(), ['hosta', 'hostb', 'hosta']);
    },
  );
});

test('with a witness a guest that is detached is heard, and so is one whose boot was forced', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'colo-witness-'));
  t.teardown(() => rm(folder, { recursive: true }));
  const flags = ['--witness', `file://${folder}`, '--witness-ttl', `${WITNESS_TTL_MS}ms`];
  await withPair(t, { primaryFlags: flags, secondaryFlags: flags }, async (pair) => {
    const [hosta, hostb] = [socketPath(pair, 'hosta'), socketPath(pair, 'hostb')];
    const clients = await startClients(pair, CLIENTS);
    await callAgent(hosta, { command: 'detach', arguments: {} });
    const detachedUs = nowUs();
    await pair.waitStatus('hosta', 'it speaks alone', ({ state, speech }) => {
      return state === 'detached' && speech?.state === 'speaking';
    });
    await clientsGoOn(clients, detachedUs);
    t.log(`detached: clients go on after ${Math.round((nowUs() - detachedUs) / 1000)} ms`);
    await callAgent(hosta, { command: 'attach', arguments: {} });
    await pair.waitProtected();
    assertNothingLost(t, await clients.stop());
    await pair.kill('hosta');
    await pair.kill('hostb');
    await pair.startSecondary();
    await callAgent(hostb, { command: 'failover', arguments: { force: true } });
    await pair.waitStatus('hostb', 'it speaks', ({ role, speech }) => {
      return role === 'primary' && speech?.state === 'speaking';
    });
    await pair.waitGuest();
  });
});
