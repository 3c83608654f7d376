/**
 * What becomes of a migration when the network, a host or the guest fails in the middle: the table
 * "The switchover, and what is lost at each point" of docs/protocol/migration.md on real hosts. At
 * most one guest speaks, seen from the LAN, and it is where the table says.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import type { ClientReports } from '../../scripts/clients/client.js';
import { nowUs } from '../../scripts/clients/clock.js';
import { run } from '../../scripts/harness/child.js';
import type { Cleanup } from '../../scripts/harness/cleanup.js';
import { BRIDGE, type HostName } from '../../scripts/harness/lab.js';
import type { PairLab } from '../../scripts/harness/pair-lab.js';
import {
  colo,
  fillMemory,
  killConnections,
  migrate,
  type Outcome,
  runsHere,
  setLink,
  speakers,
  withMovable,
} from './migrate-harness.js';
import { controlGuest, startClients } from './pair-harness.js';

const CLIENTS = ['http', 'redis', 'stream'] as const;
/** So that every phase can be met. */
const RATE = { precopy: '4MiB', switchover: '8MiB', postcopy: '8MiB' } as const;
/** Longer than a session may be silent: it is over, and another one must go on. */
const OUTAGE_MS = 12_000;

/**
 * A quarter of an hour on a busy machine: in the usual run some are left out, and shown as skipped.
 * All of them: COLO_MIGRATION_FAULTS=all.
 */
const thorough = process.env['COLO_MIGRATION_FAULTS'] === 'all' ? test.serial : test.serial.skip;

type Phase = 'precopy' | 'switchover' | 'postcopy';

/** Begins a migration from hosta and waits until it is in that phase. */
async function begin(
  pair: PairLab,
  phase: Phase,
  options: { flags?: readonly string[]; rate?: string } = {},
) {
  const { flags = [], rate = RATE[phase] } = options;
  const method = phase === 'precopy' ? [] : ['--postcopy'];
  const outcome = migrate(pair, 'hosta', 'hostb', [...method, '--max-bandwidth', rate, ...flags]);
  const host = phase === 'postcopy' ? 'hostb' : 'hosta';
  await pair.waitStatus(host, `it is in ${phase}`, ({ migration }) => {
    const state = migration?.state ?? '';
    if (phase === 'precopy') return state === 'precopy';
    if (phase === 'postcopy') return state === 'running';
    return ['switching', 'loading', 'givingUp', 'handedOver'].includes(state);
  });
  // Not the promise itself: who awaits this would wait for the end of the migration.
  return { outcome };
}

/** Nothing that the guest has confirmed is lost, and no connection that could be kept. */
function assertSound(
  t: ExecutionContext,
  { http, redis, stream }: ClientReports,
  { keepsConnections }: { keepsConnections: boolean },
): void {
  t.is(redis?.acknowledgedLost, 0);
  t.like(stream, { missing: 0, repeats: 0, malformed: 0 });
  if (!keepsConnections) return;
  for (const report of [http, redis, stream]) t.is(report?.connectionsLost, 0);
}

async function assertOnly(t: ExecutionContext, pair: PairLab, host: HostName): Promise<void> {
  await pair.waitGuest();
  t.deepEqual(await speakers(pair), [host]);
}

async function waitsAgain(pair: PairLab, host: HostName): Promise<void> {
  await pair.waitStatus(host, 'it waits again', ({ role, migration }) => {
    return role === 'secondary' && migration === null;
  });
}

async function waitMoved(t: ExecutionContext, pair: PairLab, outcome: Promise<Outcome>) {
  const { code, out, err } = await outcome;
  t.is(code, 0, `${out}${err}`);
  t.is(await pair.waitEnded('hosta'), 0);
  await assertOnly(t, pair, 'hostb');
}

async function decide(t: ExecutionContext, pair: PairLab, host: HostName, command: string[]) {
  const { code, out, err } = await colo(pair, host, command);
  t.is(code, 0, `${command.join(' ')}: ${out}${err}`);
}

/** QEMU goes with its agent. */
async function killAgent(pair: PairLab, host: HostName): Promise<void> {
  pair.signalAgent(host, 'SIGKILL');
  await pair.waitEnded(host);
  const untilUs = nowUs() + 10_000_000;
  while (await runsHere(pair, host)) {
    if (nowUs() > untilUs) throw new Error(`QEMU outlives its agent on ${host}`);
    await delay(20);
  }
}

// The network.

const NETWORK_FAULTS = [
  {
    name: 'its network was away',
    fault: async (pair: PairLab) => {
      await setLink(pair, 'down');
      await delay(OUTAGE_MS);
      await setLink(pair, 'up');
    },
    // Clients do not wait for so long.
    keepsConnections: false,
  },
  { name: 'its connections were killed', fault: killConnections, keepsConnections: true },
];

for (const { name, fault, keepsConnections } of NETWORK_FAULTS) {
  test.serial(`a postcopy goes on after ${name}`, async (t) => {
    await withMovable(t, {}, async (pair) => {
      const memory = await fillMemory(pair);
      const clients = await startClients(pair, { clients: CLIENTS });
      await clients.waitSuccesses({ names: CLIENTS, afterUs: 0, count: 5 });
      const { outcome } = await begin(pair, 'postcopy');
      await fault(pair);
      await memory.check(t);
      await waitMoved(t, pair, outcome);
      await clients.waitSuccesses({ names: CLIENTS, afterUs: nowUs(), count: 5 });
      assertSound(t, await clients.stop(), { keepsConnections });
    });
  });
}

test.serial('a postcopy without its network is completed from the backup file', async (t) => {
  await withMovable(t, {}, async (pair) => {
    const memory = await fillMemory(pair);
    const { outcome } = await begin(pair, 'postcopy', { flags: ['--recover-timeout', '2s'] });
    await setLink(pair, 'down');
    const state = join(pair.directory, 'hosta', 'state');
    await pair.waitStatus('hosta', 'the file is named', ({ lastFailure }) => {
      return /migrate-finish --from/.test(lastFailure ?? '');
    });
    const file = (await readdir(state)).find((name) => name.endsWith('.pages')) ?? 'none';
    await decide(t, pair, 'hostb', ['migrate-finish', '--from', join(state, file)]);
    await memory.check(t);
    t.not((await colo(pair, 'hosta', ['migrate-cancel'])).code, 0);
    await decide(t, pair, 'hosta', ['migrate-release']);
    await decide(t, pair, 'hostb', ['migrate-release']);
    await waitMoved(t, pair, outcome);
    await pair.waitStatus('hostb', 'it is like any other', ({ migration }) => migration === null);
  });
});

test.serial('a cancelled precopy leaves the guest where it was', async (t) => {
  await withMovable(t, {}, async (pair) => {
    const clients = await startClients(pair, { clients: CLIENTS });
    await clients.waitSuccesses({ names: CLIENTS, afterUs: 0, count: 5 });
    const { outcome } = await begin(pair, 'precopy');
    await decide(t, pair, 'hosta', ['migrate-cancel']);
    t.not((await outcome).code, 0);
    await waitsAgain(pair, 'hostb');
    t.false(await runsHere(pair, 'hostb'));
    await assertOnly(t, pair, 'hosta');
    await waitMoved(t, pair, migrate(pair, 'hosta', 'hostb', []));
    await clients.waitSuccesses({ names: CLIENTS, afterUs: nowUs(), count: 5 });
    assertSound(t, await clients.stop(), { keepsConnections: true });
  });
});

// A host dies.

test.serial('a destination that dies in a precopy costs nothing', async (t) => {
  await withMovable(t, {}, async (pair) => {
    const { outcome } = await begin(pair, 'precopy');
    await pair.kill('hostb');
    t.not((await outcome).code, 0);
    await assertOnly(t, pair, 'hosta');
  });
});

for (const phase of ['switchover', 'postcopy'] as const) {
  thorough(`a destination that dies, phase ${phase}: the source takes it back`, async (t) => {
    await withMovable(t, {}, async (pair) => {
      const { outcome } = await begin(pair, phase);
      if (phase === 'switchover') await pair.kill('hostb');
      else await killAgent(pair, 'hostb');
      await pair.restart('hostb');
      let word = '';
      await pair.waitStatus('hosta', 'it knows', ({ migration, lastFailure }) => {
        word = lastFailure ?? '';
        return migration === null || /operator to decide/.test(word);
      });
      // Where it may have run there, that is an operator's decision.
      if (/operator to decide/.test(word)) {
        t.false(await runsHere(pair, 'hostb'));
        await decide(t, pair, 'hosta', ['migrate-force']);
      } else t.is(phase, 'switchover');
      t.not((await outcome).code, 0);
      await assertOnly(t, pair, 'hosta');
      await waitsAgain(pair, 'hostb');
    });
  });
}

test.serial('a source that dies in a precopy boots its guest again', async (t) => {
  await withMovable(t, {}, async (pair) => {
    await begin(pair, 'precopy');
    await pair.kill('hosta');
    await waitsAgain(pair, 'hostb');
    t.false(await runsHere(pair, 'hostb'));
    await pair.restart('hosta');
    await assertOnly(t, pair, 'hosta');
  });
});

thorough('a source that dies at the switchover leaves one guest at most', async (t) => {
  await withMovable(t, {}, async (pair) => {
    await begin(pair, 'switchover');
    await pair.kill('hosta');
    await pair.restart('hosta');
    const there = await pair.waitStatus('hostb', 'it knows', ({ role, migration }) => {
      return (
        (role === 'secondary' && migration === null) ||
        ['running', 'loaded'].includes(migration?.state ?? '')
      );
    });
    const here = await pair.waitStatus('hosta', 'it has decided', ({ state, lastFailure }) => {
      return state !== 'joining' || /given the guest up/.test(lastFailure ?? '');
    });
    t.log(`hosta ${here.state}, hostb ${there.migration?.state ?? there.state}`);
    if (here.state !== 'joining') {
      // It had not given the guest up: what the destination keeps is old.
      if (there.migration !== null) await decide(t, pair, 'hostb', ['migrate-cancel']);
      await assertOnly(t, pair, 'hosta');
      await waitsAgain(pair, 'hostb');
      return;
    }
    if (there.migration === null) {
      // It was written down before the pause, and what came is nothing that could run.
      await decide(t, pair, 'hosta', ['failover', '--force']);
      await assertOnly(t, pair, 'hosta');
      await waitsAgain(pair, 'hostb');
      return;
    }
    if (there.migration.state === 'loaded') {
      await decide(t, pair, 'hostb', ['migrate-force']);
    } else t.is(there.migration.state, 'running');
    t.false(await runsHere(pair, 'hosta'));
  });
});

thorough('what a source sent before it died can be run by an operator', async (t) => {
  await withMovable(t, {}, async (pair) => {
    const moving = migrate(pair, 'hosta', 'hostb', ['--max-bandwidth', '64MiB']);
    await pair.waitStatus('hosta', 'all is sent', ({ migration }) => {
      return ['loading', 'givingUp', 'handedOver'].includes(migration?.state ?? '');
    });
    await pair.signalHost('hosta', 'SIGSTOP');
    const { migration } = await pair.waitStatus('hostb', 'all has come', ({ migration }) => {
      return migration === null || ['loaded', 'running', 'ended'].includes(migration.state);
    });
    await pair.kill('hosta');
    await moving;
    t.log(`hostb: ${migration?.state ?? 'the guest is its own'}`);
    if (migration?.state === 'loaded') {
      // Its session is lost soon: then nobody says any more that it runs at the source.
      let forced = await colo(pair, 'hostb', ['migrate-force']);
      while (/connected/.test(forced.err)) forced = await colo(pair, 'hostb', ['migrate-force']);
      t.is(forced.code, 0, forced.err);
    }
    await assertOnly(t, pair, 'hostb');
  });
});

test.serial('a source that dies in a postcopy does not boot the guest by itself', async (t) => {
  await withMovable(t, {}, async (pair) => {
    await begin(pair, 'postcopy');
    await killAgent(pair, 'hosta');
    await pair.restart('hosta');
    await pair.waitStatus('hosta', 'it waits', ({ state, lastFailure }) => {
      return state === 'joining' && /given the guest up/.test(lastFailure ?? '');
    });
    t.false(await runsHere(pair, 'hosta'));
    // The operator gives up what lacks its pages, and boots what there was at the switchover.
    pair.signalAgent('hostb', 'SIGTERM');
    await pair.waitEnded('hostb');
    t.false(await runsHere(pair, 'hostb'));
    await decide(t, pair, 'hosta', ['failover', '--force']);
    await assertOnly(t, pair, 'hosta');
  });
});

test.serial('a host whose guest has moved away does not boot it again', async (t) => {
  await withMovable(t, {}, async (pair) => {
    await waitMoved(t, pair, migrate(pair, 'hosta', 'hostb', []));
    await pair.restart('hosta');
    await pair.waitStatus('hosta', 'it waits', ({ state, lastFailure }) => {
      return state === 'joining' && /given the guest up/.test(lastFailure ?? '');
    });
    await assertOnly(t, pair, 'hostb');
  });
});

// A host hangs for longer than a session may be silent.

for (const [host, phase] of [
  ['hosta', 'precopy'],
  ['hostb', 'precopy'],
  ['hosta', 'switchover'],
  ['hostb', 'switchover'],
  ['hosta', 'postcopy'],
  ['hostb', 'postcopy'],
] as const) {
  thorough(`a host that hangs, phase ${phase}: ${host}`, async (t) => {
    await withMovable(t, {}, async (pair) => {
      const { outcome } = await begin(pair, phase);
      await pair.signalHost(host, 'SIGSTOP');
      await delay(OUTAGE_MS);
      await pair.signalHost(host, 'SIGCONT');
      const { code, err } = await outcome;
      t.log(`${phase}, ${host} hung: ${code === 0 ? 'moved' : err.trim().split('\n').at(-1)}`);
      if (phase === 'precopy') t.not(code, 0);
      if (phase === 'postcopy') t.is(code, 0, err);
      await assertOnly(t, pair, code === 0 ? 'hostb' : 'hosta');
      if (code === 0) return;
      const { migration } = await pair.status('hostb');
      if (migration?.state === 'loaded') await decide(t, pair, 'hostb', ['migrate-cancel']);
      await waitsAgain(pair, 'hostb');
    });
  });
}

// The guest has a will of its own.

for (const phase of ['precopy', 'postcopy'] as const) {
  test.serial(`a guest that powers off ends a ${phase}`, async (t) => {
    await withMovable(t, {}, async (pair) => {
      const { outcome } = await begin(pair, phase);
      const control = controlGuest(pair);
      await control.command('poweroff');
      control.close();
      await outcome;
      t.is(await pair.waitEnded('hosta'), 0);
      if (phase === 'precopy') await waitsAgain(pair, 'hostb');
      else t.is(await pair.waitEnded('hostb'), 0);
      for (const host of ['hosta', 'hostb'] as const) t.false(await runsHere(pair, host));
    });
  });

  thorough(`a guest that reboots is moved all the same by ${phase}`, async (t) => {
    await withMovable(t, {}, async (pair) => {
      const { outcome } = await begin(pair, phase, { rate: '32MiB' });
      const control = controlGuest(pair);
      control.command('exec echo b > /proc/sysrq-trigger').catch(() => undefined);
      await waitMoved(t, pair, outcome);
      control.close();
    });
  });
}

// The destination is not as it must be.

/** On every host, and no file that a guest is booted from. */
const OTHER_FILE = '/etc/passwd';
const INITRD_DIFFERS = /initrd \/etc\/passwd: another file, this one there/;

test.serial('a refusal names everything that is other there', async (t) => {
  const options = {
    secondaryFlags: ['--qemu-arg=-rtc', '--qemu-arg=base=utc', `--initrd=${OTHER_FILE}`],
    before: async (pair: PairLab) => {
      const { enter } = pair.lab.hostb;
      await run([...enter, 'ip', 'link', 'set', BRIDGE, 'down', 'name', 'other']);
    },
  };
  await withMovable(t, options, async (pair) => {
    const { code, err } = await migrate(pair, 'hosta', 'hostb', []);
    t.not(code, 0);
    t.regex(err, /list of qemu-arg: \[\], \["-rtc","base=utc"\] there/);
    t.regex(err, /bridge of NIC 0: br0, br0: missing there/);
    t.regex(err, INITRD_DIFFERS);
    await assertOnly(t, pair, 'hosta');
    await waitsAgain(pair, 'hostb');
  });
});

test.serial('a file that the guest is booted from is refused beside the launch', async (t) => {
  for (const method of [[], ['--postcopy']]) {
    await withMovable(t, { secondaryFlags: [`--initrd=${OTHER_FILE}`] }, async (pair) => {
      const { code, err } = await migrate(pair, 'hosta', 'hostb', method);
      t.not(code, 0);
      t.regex(err, INITRD_DIFFERS);
      await assertOnly(t, pair, 'hosta');
      await waitsAgain(pair, 'hostb');
    });
  }
});

thorough('a destination whose disk is full costs nothing', async (t) => {
  const before = async (pair: PairLab, cleanup: Cleanup): Promise<void> => {
    const state = join(pair.directory, 'hostb', 'state');
    await run(['mount', '-t', 'tmpfs', '-o', 'size=24m', 'none', state]);
    cleanup.add('the small disk', async () => {
      await run(['umount', '--lazy', state]);
    });
  };
  await withMovable(t, { before }, async (pair) => {
    const { code, err } = await migrate(pair, 'hosta', 'hostb', []);
    t.not(code, 0);
    t.regex(err, /ENOSPC|space/i);
    await assertOnly(t, pair, 'hosta');
    await waitsAgain(pair, 'hostb');
  });
});
