/** What an operator does to a pair, and what a guest or a daemon does on purpose. */
import { execFile } from 'node:child_process';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import test, { type ExecutionContext } from 'ava';
import type { ClientReports } from '../../scripts/clients/client.js';
import { nowUs } from '../../scripts/clients/clock.js';
import { callAgent } from '../../scripts/harness/agent-control.js';
import { Child } from '../../scripts/harness/child.js';
import { REPLICATION_ADDRESS } from '../../scripts/harness/lab.js';
import type { PairLab } from '../../scripts/harness/pair-lab.js';
import { deferred } from '../../src/lib/index.js';
import { EventReader } from './event-reader.js';
import { controlGuest, socketPath, startClients, withPair } from './pair-harness.js';

const run = promisify(execFile);
/** The agents' own default. */
const REPLICATION_PORT = '7800';
const DETACH = { command: 'detach', arguments: {} } as const;
/** No client was cut off, and nothing that was acknowledged is missing. */
function assertNothingMissed(t: ExecutionContext, { http, redis, stream }: ClientReports): void {
  for (const report of [http, redis, stream]) t.is(report?.connectionsLost, 0);
  t.is(redis?.acknowledgedLost, 0);
  t.like(stream, { missing: 0, repeats: 0, malformed: 0 });
}

/** Resolves once hosta asks; what that resolves to is the first answer of hostb's next agent. */
async function askFromTheStart(pair: PairLab): Promise<{ readonly answer: Promise<string> }> {
  const [asking, answer] = [deferred(), deferred<string>()];
  const child = new Child({
    name: 'probe',
    command: [
      ...pair.lab.hosta.enter,
      process.execPath,
      join(pair.buildDir, 'test/e2e/probe-child.js'),
      ...[REPLICATION_ADDRESS.hostb, REPLICATION_PORT],
    ],
    logPath: join(pair.directory, 'probe.log'),
    onLine: (line) => (line === 'asking' ? asking.resolve() : answer.resolve(line)),
  });
  const ended = child.ended.then(({ code }): never => {
    throw new Error(`The one who asks ended with ${code}`);
  });
  await Promise.race([asking.promise, ended]);
  return { answer: Promise.race([answer.promise, ended]) };
}

const STOP_PEER = { command: 'stop', arguments: { peer: true } } as const;

test('colo checkpoint, set-period and failover do what they say, by hand', async (t) => {
  await withPair(t, {}, async (pair) => {
    const [hosta, hostb] = [socketPath(pair, 'hosta'), socketPath(pair, 'hostb')];
    const before = await pair.status('hosta');
    await callAgent(hosta, { command: 'set-period', arguments: { periodUs: 60_000_000 } });
    await callAgent(hosta, { command: 'checkpoint', arguments: {} });
    const after = await pair.status('hosta');
    t.true((after.committedEpoch ?? 0) > (before.committedEpoch ?? 0));
    await t.throwsAsync(callAgent(hosta, { command: 'failover', arguments: { force: false } }), {
      message: /run "colo failover" on the secondary/,
    });
    await callAgent(hosta, { command: 'set-period', arguments: { periodUs: 200_000 } });
    const clients = await startClients(pair);
    await callAgent(hostb, { command: 'failover', arguments: { force: false } });
    t.is((await pair.status('hostb')).role, 'primary');
    // The primary that yielded is the secondary now, and takes the guest back when it is asked to.
    await pair.waitProtected(undefined, 'hostb');
    t.is((await pair.status('hosta')).role, 'secondary');
    await callAgent(hosta, { command: 'failover', arguments: { force: false } });
    t.is((await pair.status('hosta')).role, 'primary');
    await pair.waitProtected();
    await callAgent(hosta, { command: 'switchover', arguments: {} });
    await pair.waitProtected(undefined, 'hostb');
    const reports = await clients.stop();
    t.is(reports.redis?.acknowledgedLost, 0);
    t.is(reports.stream?.missing, 0);
    t.is(reports.stream?.repeats, 0);
  });
});

test('SIGTERM hands the guest over; its disk is whole when it powers off', async (t) => {
  await withPair(t, {}, async (pair) => {
    const clients = await startClients(pair);
    pair.signalAgent('hosta', 'SIGTERM');
    await pair.waitStatus('hostb', 'hostb took over', ({ role }) => role === 'primary');
    const reports = await clients.stop();
    t.is(reports.redis?.acknowledgedLost, 0);
    t.is(reports.stream?.missing, 0);
    const guest = controlGuest(pair);
    guest.command('poweroff').catch(() => undefined);
    await t.throwsAsync(
      pair.waitStatus('hostb', 'it runs', () => false, 60_000),
      {
        message: /ended with exit code 0/,
      },
    );
    guest.close();
    const image = join(pair.directory, 'hostb', 'state', 'demo-root.img');
    await t.notThrowsAsync(run('e2fsck', ['-f', '-n', image]));
  });
});

test('with --on-peer-loss=wait a lost primary is not replaced until the operator says so', async (t) => {
  await withPair(t, { secondaryFlags: ['--on-peer-loss', 'wait'] }, async (pair) => {
    const clients = await startClients(pair);
    await pair.kill('hosta');
    await pair.waitStatus('hostb', 'it waits', ({ state }) => state === 'waitingForOperator');
    await callAgent(socketPath(pair, 'hostb'), {
      command: 'failover',
      arguments: { force: false },
    });
    t.is((await pair.status('hostb')).role, 'primary');
    const reports = await clients.stop();
    t.is(reports.redis?.acknowledgedLost, 0);
    t.is(reports.stream?.missing, 0);
    t.is(reports.stream?.repeats, 0);
  });
});

test('a guest that powers off on purpose is not failed over', async (t) => {
  await withPair(t, {}, async (pair) => {
    const guest = controlGuest(pair);
    // Its answer is held for a checkpoint that will not come.
    guest.command('poweroff').catch(() => undefined);
    await t.throwsAsync(
      pair.waitStatus('hosta', 'it runs', () => false, 60_000),
      {
        message: /ended with exit code 0/,
      },
    );
    const secondary = await pair.waitStatus(
      'hostb',
      'it waits',
      ({ state }) => state === 'waiting',
    );
    t.is(secondary.role, 'secondary');
    guest.close();
  });
});

test('a secondary that comes back is synchronised again while the guest runs', async (t) => {
  await withPair(t, {}, async (pair) => {
    const clients = await startClients(pair);
    await pair.kill('hostb');
    await pair.waitStatus('hosta', 'it runs alone', ({ peer }) => peer.state !== 'connected');
    await pair.startSecondary();
    await pair.waitProtected();
    await pair.kill('hosta');
    await pair.waitStatus('hostb', 'hostb took over', ({ role }) => role === 'primary');
    const reports = await clients.stop();
    t.is(reports.redis?.acknowledgedLost, 0);
    t.is(reports.stream?.missing, 0);
    t.is(reports.stream?.repeats, 0);
  });
});

test('a primary that was stopped for a while finds itself superseded and becomes the secondary', async (t) => {
  await withPair(t, {}, async (pair) => {
    const clients = await startClients(pair);
    await pair.signalHost('hosta', 'SIGSTOP');
    await pair.waitStatus('hostb', 'hostb took over', ({ role }) => role === 'primary');
    await pair.signalHost('hosta', 'SIGCONT');
    await pair.waitStatus('hosta', 'it is the secondary', ({ role }) => role === 'secondary');
    await pair.waitProtected(undefined, 'hostb');
    const reports = await clients.stop();
    t.is(reports.redis?.acknowledgedLost, 0);
    t.is(reports.stream?.missing, 0);
    t.is(reports.stream?.repeats, 0);
  });
});

test('after a power cut of both hosts the guest waits for the other host, or for the operator', async (t) => {
  await withPair(t, {}, async (pair) => {
    await pair.kill('hosta');
    await pair.kill('hostb');
    await pair.startPrimary();
    const waits = await pair.waitStatus('hosta', 'it waits', ({ state, lastFailure }) => {
      return state === 'joining' && /may have gone on/.test(lastFailure ?? '');
    });
    t.is(waits.committedEpoch, null);
    await pair.startSecondary();
    await pair.waitProtected();
    // Handed over in order, the newest data is at hostb; and nobody there boots a guest.
    await callAgent(socketPath(pair, 'hosta'), { command: 'switchover', arguments: {} });
    await pair.waitStatus('hostb', 'it has the guest', ({ role }) => role === 'primary');
    await pair.kill('hosta');
    await pair.waitStatus('hostb', 'it is alone', ({ peer }) => peer.state !== 'connected');
    await pair.kill('hostb');
    // Nobody at hostb knows how to boot it, as after a change of versions.
    await rm(join(pair.directory, 'hostb', 'state', 'demo.machine'));
    await pair.startSecondary();
    await pair.startPrimary();
    const old = await pair.waitStatus('hosta', 'it waits again', ({ state, lastFailure }) => {
      return state === 'joining' && /may be newer/.test(lastFailure ?? '');
    });
    t.is(old.role, 'primary');
    const force = { command: 'failover', arguments: { force: true } } as const;
    await callAgent(socketPath(pair, 'hosta'), force);
    const refused = await pair.waitStatus('hosta', 'it runs, refused by hostb', (status) => {
      return status.state !== 'joining' && /discard-image/.test(status.lastFailure ?? '');
    });
    t.is(refused.role, 'primary');
  });
});

test('colo events tells of a failover and the way back, over changes of role', async (t) => {
  await withPair(t, {}, async (pair) => {
    const readers = [new EventReader(pair, 'hostb'), new EventReader(pair, 'hostb')];
    const [reader] = readers;
    if (reader === undefined) throw new Error('No reader');
    await reader.until('protected', ({ kind, to }) => kind === 'state' && to === 'protected');
    const status = await pair.status('hostb');
    t.true(['protected', 'checkpointing'].includes(status.phase));
    await pair.kill('hosta');
    const failover = await reader.until('failover', ({ kind }) => kind === 'failover');
    t.like(failover, { role: 'secondary', continuedFrom: 'running' });
    t.true(Number(failover['epoch']) > 0 && Number(failover['downtimeMs']) > 0);
    await pair.startPrimary();
    await reader.until('the end of a resync as the primary', ({ kind, step, role }) => {
      return kind === 'resync' && step === 'end' && role === 'primary';
    });
    await callAgent(socketPath(pair, 'hostb'), {
      command: 'set-period',
      arguments: { periodUs: 500_000 },
    });
    await reader.until('set-period', ({ command }) => command === 'set-period');
    const states = reader.events.flatMap(({ kind, to }) => (kind === 'state' ? [to] : []));
    t.deepEqual(states.slice(-5), [
      ...['protected', 'failing-over', 'alone', 'synchronising', 'protected'],
    ]);
    const numbers = reader.events.map(({ sequence }) => sequence);
    t.deepEqual(
      numbers,
      numbers.map((_, index) => index + 1),
    );
    await pair.kill('hostb');
    t.deepEqual(await Promise.all(readers.map((each) => each.ended())), [69, 69]);
    const [one, other] = readers.map((each) =>
      each.events.filter(({ kind }) => kind !== undefined),
    );
    t.deepEqual(one, other);
  });
});

test('detached, the guest runs on alone until it is attached; clients notice nothing', async (t) => {
  await withPair(t, {}, async (pair) => {
    const [hosta, hostb] = [socketPath(pair, 'hosta'), socketPath(pair, 'hostb')];
    const clients = await startClients(pair);
    await t.throwsAsync(callAgent(hostb, DETACH), {
      message: /on the primary|"colo detach" there/,
    });
    await callAgent(hosta, DETACH);
    t.like(await pair.status('hosta'), { state: 'detached', phase: 'alone' });
    await pair.waitStatus('hostb', 'it waits', ({ state }) => state === 'waiting');
    const servedUs = nowUs();
    await clients.waitSuccesses({ names: ['http', 'redis'], afterUs: servedUs, count: 50 });
    // A secondary that is started anew is not taken either.
    await callAgent(hostb, { command: 'stop', arguments: { peer: false } });
    t.is(await pair.ended('hostb'), 0);
    await pair.startSecondary();
    t.like(await pair.status('hosta'), { state: 'detached', phase: 'alone' });
    await callAgent(hosta, { command: 'attach', arguments: {} });
    await pair.waitProtected();
    await pair.kill('hosta');
    await pair.waitStatus('hostb', 'hostb took over', ({ role }) => role === 'primary');
    assertNothingMissed(t, await clients.stop());
  });
});

test('colo stop --peer ends the secondary, colo stop hands the guest over', async (t) => {
  await withPair(t, {}, async (pair) => {
    const [hosta, hostb] = [socketPath(pair, 'hosta'), socketPath(pair, 'hostb')];
    const clients = await startClients(pair);
    await t.throwsAsync(callAgent(hostb, STOP_PEER), { message: /colo switchover/ });
    await callAgent(hosta, STOP_PEER);
    t.is(await pair.ended('hostb'), 0);
    await t.throwsAsync(callAgent(hosta, STOP_PEER), { message: /No secondary is connected/ });
    await pair.startSecondary();
    await pair.waitProtected();
    await callAgent(hosta, { command: 'stop', arguments: { peer: false } }, 60_000);
    t.is(await pair.ended('hosta'), 0);
    await pair.waitStatus('hostb', 'hostb took over', ({ role }) => role === 'primary');
    assertNothingMissed(t, await clients.stop());
  });
});

test('after a full stop the configured secondary boots the guest that ran there last', async (t) => {
  await withPair(t, {}, async (pair) => {
    await pair.kill('hosta');
    await pair.waitStatus('hostb', 'hostb took over', ({ role }) => role === 'primary');
    await pair.waitGuest();
    const guest = controlGuest(pair);
    await guest.exec('echo newest >/root/newest && sync');
    guest.close();
    await pair.kill('hostb');
    const first = await askFromTheStart(pair);
    await pair.startSecondary();
    await pair.waitStatus('hostb', 'it has booted the guest', ({ role }) => role === 'primary');
    await pair.waitGuest();
    // A host that starts at the same moment must not be told that it may boot: its data is older.
    t.true(['leading', 'holding', 'serving'].includes(await first.answer), await first.answer);
    const again = controlGuest(pair);
    t.is((await again.exec('cat /root/newest')).trim(), 'newest');
    again.close();
    // Whose configuration says that it is the primary has older data, and follows.
    await pair.startPrimary();
    await pair.waitProtected(undefined, 'hostb');
    t.is((await pair.status('hosta')).role, 'secondary');
    // Both are started at the same time: again it is hostb that boots.
    await pair.kill('hosta');
    await pair.waitStatus('hostb', 'it is alone', ({ phase }) => phase === 'alone');
    await pair.kill('hostb');
    await Promise.all([pair.startPrimary(), pair.startSecondary()]);
    await pair.waitProtected(undefined, 'hostb');
    await pair.waitGuest();
  });
});

test('a secondary that waits boots the guest when its operator insists', async (t) => {
  await withPair(t, {}, async (pair) => {
    await pair.kill('hosta');
    await pair.kill('hostb');
    await pair.startSecondary();
    const hostb = socketPath(pair, 'hostb');
    t.is((await pair.status('hostb')).state, 'waiting');
    const plain = { command: 'failover', arguments: { force: false } } as const;
    await t.throwsAsync(callAgent(hostb, plain), { message: /no committed state/ });
    await callAgent(hostb, { command: 'failover', arguments: { force: true } });
    await pair.waitStatus('hostb', 'it has booted the guest', ({ role }) => role === 'primary');
    await pair.waitGuest();
  });
});
