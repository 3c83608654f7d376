/**
 * What becomes of a migration when the network or a host fails in the middle: exactly one guest is
 * left, and a postcopy goes on when it can, or is completed from the source's backup file.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { nowUs } from '../../scripts/clients/clock.js';
import type { PairLab } from '../../scripts/harness/pair-lab.js';
import { colo, migrate, runsHere, setLink, withMovable } from './migrate-harness.js';
import { assertNothingLost, startClients } from './pair-harness.js';

const CLIENTS = ['http', 'redis', 'stream'] as const;
const SLOW = ['--postcopy', '--max-bandwidth', '8MiB'];
/** Longer than a session may be silent: it is over, and another one must go on. */
const CUT_MS = 12_000;

/** A slow postcopy in which the guest runs at the destination already. */
async function beginPostcopy(pair: PairLab, flags: readonly string[] = []) {
  const moving = migrate(pair, 'hosta', 'hostb', [...SLOW, ...flags]);
  await pair.waitStatus('hostb', 'the guest runs there', ({ migration }) => {
    return migration?.state === 'running';
  });
  return moving;
}

test.serial('a postcopy goes on after its network was away', async (t) => {
  await withMovable(t, {}, async (pair) => {
    const clients = await startClients(pair, { clients: CLIENTS });
    await clients.waitSuccesses({ names: CLIENTS, afterUs: 0, count: 5 });
    const moving = beginPostcopy(pair);
    await pair.waitStatus('hostb', 'it runs', ({ migration }) => migration?.state === 'running');
    await setLink(pair, 'down');
    await new Promise((resolve) => setTimeout(resolve, CUT_MS));
    await setLink(pair, 'up');
    const { code, out, err } = await moving;
    t.is(code, 0, `${out}${err}`);
    const atUs = nowUs();
    await clients.waitSuccesses({ names: CLIENTS, afterUs: atUs, count: 5 });
    assertNothingLost(t, await clients.stop());
  });
});

test.serial('a postcopy without its network is completed from the backup file', async (t) => {
  await withMovable(t, {}, async (pair) => {
    const moving = beginPostcopy(pair, ['--recover-timeout', '2s']);
    await pair.waitStatus('hostb', 'it runs', ({ migration }) => migration?.state === 'running');
    await setLink(pair, 'down');
    const state = join(pair.directory, 'hosta', 'state');
    await pair.waitStatus('hosta', 'the file is written', ({ lastFailure }) => {
      return /backup|file/.test(lastFailure ?? '');
    });
    const file = (await readdir(state)).find((name) => name.endsWith('.pages'));
    t.truthy(file);
    const finished = await colo(pair, 'hostb', [
      'migrate-finish',
      '--from',
      join(state, file ?? ''),
    ]);
    t.is(finished.code, 0, `${finished.out}${finished.err}`);
    const clients = await startClients(pair, { clients: CLIENTS });
    await clients.waitSuccesses({ names: CLIENTS, afterUs: 0, count: 5 });
    assertNothingLost(t, await clients.stop());
    await setLink(pair, 'up');
    t.is((await moving).code, 0);
  });
});

test.serial('a cancelled precopy leaves the guest where it was', async (t) => {
  await withMovable(t, {}, async (pair) => {
    const clients = await startClients(pair, { clients: CLIENTS });
    await clients.waitSuccesses({ names: CLIENTS, afterUs: 0, count: 5 });
    const moving = migrate(pair, 'hosta', 'hostb', ['--max-bandwidth', '1MiB']);
    await pair.waitStatus('hosta', 'pages move', ({ migration }) => migration?.state === 'precopy');
    const cancelled = await colo(pair, 'hosta', ['migrate-cancel']);
    t.is(cancelled.code, 0, cancelled.err);
    t.not((await moving).code, 0);
    t.true(await runsHere(pair, 'hosta'));
    await pair.waitStatus('hostb', 'it waits again', ({ state }) => state === 'waiting');
    t.false(await runsHere(pair, 'hostb'));
    await clients.waitSuccesses({ names: CLIENTS, afterUs: nowUs(), count: 5 });
    const again = await migrate(pair, 'hosta', 'hostb', []);
    t.is(again.code, 0, `${again.out}${again.err}`);
    await clients.waitSuccesses({ names: CLIENTS, afterUs: nowUs(), count: 5 });
    assertNothingLost(t, await clients.stop());
  });
});

test.serial('a destination that dies in a precopy costs nothing', async (t) => {
  await withMovable(t, {}, async (pair) => {
    const clients = await startClients(pair, { clients: CLIENTS });
    await clients.waitSuccesses({ names: CLIENTS, afterUs: 0, count: 5 });
    const moving = migrate(pair, 'hosta', 'hostb', ['--max-bandwidth', '4MiB']);
    await pair.waitStatus('hosta', 'pages move', ({ migration }) => migration?.state === 'precopy');
    await pair.kill('hostb');
    t.not((await moving).code, 0);
    t.true(await runsHere(pair, 'hosta'));
    await clients.waitSuccesses({ names: CLIENTS, afterUs: nowUs(), count: 5 });
    assertNothingLost(t, await clients.stop());
  });
});
