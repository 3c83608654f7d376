/**
 * Mode colo: what both guests say leaves at once, so a failover must continue from the SVM's
 * running state. Connections that were opened since the last checkpoint live on, and nothing that
 * was seen is contradicted.
 */
import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import test from 'ava';
import { CLIENT_NAMES, type ClientName, type OpenCount } from '../../scripts/clients/client.js';
import { nowUs } from '../../scripts/clients/clock.js';
import { takeCensus } from '../../scripts/clients/connections.js';
import { callAgent, isProtected } from '../../scripts/harness/agent-control.js';
import type { ClientProcess } from '../../scripts/harness/client-process.js';
import type { PairLab } from '../../scripts/harness/pair-lab.js';
import { MatrixNetwork } from '../../scripts/matrix-run/network.js';
import {
  assertNothingLost,
  socketPath,
  startClients,
  type TestPairOptions,
  withPair,
} from './pair-harness.js';

const CHECKPOINTS = 5;
/** Longer than it takes until enough connections are new. */
const LONG_PERIOD_US = 20_000_000;
/** New connections that must be there at the fault. */
const NEW_CONNECTIONS: OpenCount = { accepted: 6, dialled: 3 };
const POLL_MS = 20;
const DEADLINE_MS = 120_000;
/** Each client must get so much done after the fault; `random` is asked twice a second. */
const SUCCESSES_AFTER = 5;

/** Waits until so many checkpoints more are committed. */
async function waitCheckpoints(pair: PairLab, count: number): Promise<void> {
  const { checkpoints } = await pair.status('hosta');
  const wanted = checkpoints.total + count;
  await pair.waitStatus('hosta', `${count} more checkpoints`, (status) => {
    return status.checkpoints.total >= wanted;
  });
}

interface Moment {
  readonly committedEpoch: number | null;
  /** Not before the commit of that epoch. */
  readonly committedUs: number;
}

/** Which epoch was the last that hostb had committed; its status tells that of its own sessions. */
async function takenOverFrom(pair: PairLab): Promise<number | undefined> {
  const log = await readFile(pair.logPath('hostb'), 'utf8');
  const epoch = / epoch=(\d+) Failover:/.exec(log)?.[1];
  return epoch === undefined ? undefined : Number(epoch);
}

/** Waits for a moment at which enough connections are open that are newer than every checkpoint. */
async function waitNewConnections(pair: PairLab, clients: ClientProcess): Promise<Moment> {
  const untilUs = nowUs() + DEADLINE_MS * 1000;
  let moment: Moment = { committedEpoch: null, committedUs: nowUs() };
  while (nowUs() < untilUs) {
    const count = await clients.openSince(moment.committedUs);
    const status = await pair.status('hosta');
    if (!isProtected(status)) throw new Error(`Not protected: ${status.lastFailure}`);
    const { committedEpoch } = status;
    if (committedEpoch !== moment.committedEpoch) {
      moment = { committedEpoch, committedUs: nowUs() };
    } else if (
      count.accepted >= NEW_CONNECTIONS.accepted &&
      count.dialled >= NEW_CONNECTIONS.dialled
    ) {
      return moment;
    }
    await delay(POLL_MS);
  }
  throw new Error(`Checkpoints came faster than connections for ${DEADLINE_MS / 1000} s`);
}

/** One way; long enough that some connections are opened within it, whenever the fault comes. */
const DELAY_MS = 300;
const OPEN_OFTEN = ['--accepted-interval-ms', '40'];

/** A divergence may bring a checkpoint right before the fault; then it must be tried again. */
const ATTEMPTS = 5;

test('connections opened between two checkpoints survive the death of the primary', async (t) => {
  let missed = 0;
  const attempt = async (pair: PairLab): Promise<void> => {
    // An answer of the random service would end the epoch.
    const steady = CLIENT_NAMES.filter((name) => name !== 'random');
    const clients = await startClients(pair, { clients: steady });
    await waitCheckpoints(pair, CHECKPOINTS);
    await callAgent(socketPath(pair, 'hosta'), {
      command: 'set-period',
      arguments: { periodUs: LONG_PERIOD_US },
    });
    const moment = await waitNewConnections(pair, clients);
    const faultUs = await pair.kill('hosta');
    await pair.waitStatus('hostb', 'hostb took over', ({ role }) => role === 'primary');
    await clients.waitSuccesses({ names: steady, afterUs: faultUs, count: SUCCESSES_AFTER });
    const reports = await clients.stop();
    assertNothingLost(t, reports);
    if ((await takenOverFrom(pair)) !== moment.committedEpoch) {
      t.log('A checkpoint came in between');
      missed += 1;
      return;
    }
    for (const name of ['accepted', 'dialled'] as const) {
      const records = reports[name]?.connections ?? [];
      const census = takeCensus(records, { faultUs, checkpointUs: moment.committedUs });
      t.log(name, JSON.stringify(census));
      t.true(census.sinceCheckpoint > 0);
      t.is(census.sinceCheckpointSurvived, census.sinceCheckpoint);
      t.is(census.survived, census.open);
    }
  };
  for (let attempts = 1; attempts <= ATTEMPTS; attempts++) {
    await withPair(t, { mode: 'colo', periodMs: 1000 }, attempt);
    if (missed < attempts) return;
  }
  t.fail(`A checkpoint came in between ${ATTEMPTS} times`);
});

test('a link on which everything is late loses no connection when its end dies', async (t) => {
  const names = ['accepted', 'dialled'] as const satisfies ClientName[];
  let network: MatrixNetwork | undefined;
  let missed = 0;
  const attempt = async (pair: PairLab): Promise<void> => {
    const clients = await startClients(pair, { clients: names, args: OPEN_OFTEN });
    await waitCheckpoints(pair, CHECKPOINTS);
    await callAgent(socketPath(pair, 'hosta'), {
      command: 'set-period',
      arguments: { periodUs: LONG_PERIOD_US },
    });
    await network?.spoil('hosta', { loss: 0, delayMs: DELAY_MS });
    const moment = await waitNewConnections(pair, clients);
    // A power cut: what is under way does not arrive.
    await network?.spoil('hosta', { loss: 1, delayMs: 0 });
    const faultUs = await pair.kill('hosta');
    await pair.waitStatus('hostb', 'hostb took over', ({ role }) => role === 'primary');
    await clients.waitSuccesses({ names, afterUs: faultUs, count: SUCCESSES_AFTER });
    const reports = await clients.stop();
    t.like(reports.accepted, { dead: 0, wrong: 0 });
    t.like(reports.dialled, { dead: 0, wrong: 0, controlsLost: 0 });
    const census = names.map((name) => {
      const records = reports[name]?.connections ?? [];
      const taken = takeCensus(records, { faultUs, checkpointUs: moment.committedUs });
      t.log(name, JSON.stringify(taken));
      t.is(taken.survived, taken.open);
      return taken;
    });
    const isNew = census.some(({ agesMs }) => (agesMs?.[0] ?? DELAY_MS) < DELAY_MS);
    if (isNew && (await takenOverFrom(pair)) === moment.committedEpoch) return;
    t.log('No connection was as new as that, or a checkpoint came in between');
    missed += 1;
  };
  for (let attempts = 1; attempts <= ATTEMPTS; attempts++) {
    const options: TestPairOptions = {
      mode: 'colo',
      periodMs: 1000,
      primaryFlags: ['--compare-timeout', '5s'],
      before: async (pair, cleanup) => {
        network = await MatrixNetwork.up(pair, cleanup, 0);
      },
    };
    await withPair(t, options, attempt);
    if (missed < attempts) return;
  }
  t.fail(`Nothing was new enough ${ATTEMPTS} times`);
});

test('a service whose answers differ in both guests is never contradicted', async (t) => {
  await withPair(t, { mode: 'colo', periodMs: 1000 }, async (pair) => {
    const clients = await startClients(pair, {
      clients: CLIENT_NAMES,
      args: ['--random-interval-ms', '20'],
    });
    await waitCheckpoints(pair, CHECKPOINTS);
    await clients.waitSuccesses({ names: CLIENT_NAMES, afterUs: 0, count: SUCCESSES_AFTER });
    t.is((await clients.verify()).contradictions, 0);
    const faultUs = await pair.kill('hosta');
    await pair.waitStatus('hostb', 'hostb took over', ({ role }) => role === 'primary');
    // Soon after the fault, when little has been said since.
    t.is((await clients.verify()).contradictions, 0);
    await clients.waitSuccesses({ names: CLIENT_NAMES, afterUs: faultUs, count: SUCCESSES_AFTER });
    const reports = await clients.stop();
    t.log(`${reports.random?.successes} random answers`);
    assertNothingLost(t, reports);
  });
});

test('every client survives the death of the secondary', async (t) => {
  await withPair(t, { mode: 'colo', periodMs: 1000 }, async (pair) => {
    const clients = await startClients(pair, {
      clients: CLIENT_NAMES,
      args: ['--random-interval-ms', '500'],
    });
    await waitCheckpoints(pair, CHECKPOINTS);
    const faultUs = await pair.kill('hostb');
    await pair.waitStatus('hosta', 'hosta serves on', ({ peer }) => peer.state !== 'connected');
    await clients.waitSuccesses({ names: CLIENT_NAMES, afterUs: faultUs, count: SUCCESSES_AFTER });
    assertNothingLost(t, await clients.stop());
  });
});
