/**
 * The two ways in which the bench moves the same guest from hosta to hostb over the replication
 * link: by QEMU's own migration between two stock processes, and by `colo migrate` between two
 * agents. Both share the image, or both move it.
 */
import { mkdtempSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { QmpClient } from '../../src/emulator/index.js';
import type { DiskPlace } from '../../src/migration/index.js';
import { nowUs } from '../clients/clock.js';
import { Child, run } from '../harness/child.js';
import type { Cleanup } from '../harness/cleanup.js';
import { waitGuest } from '../harness/guest-control.js';
import { GUEST_ADDRESS, GUEST_MAC, Lab, REPLICATION_ADDRESS } from '../harness/lab.js';
import { NOBODY } from '../harness/migration.js';
import { DEFAULT_MODE } from '../harness/modes.js';
import { PairLab } from '../harness/pair-lab.js';
import { plainGuestImage, startPlainGuest } from '../harness/plain-guest.js';
import { beginMirror, endMirror, MIRROR_CAPABILITIES } from './disk-mirror.js';
import {
  betweenLines,
  type Faults,
  faultsOfTrace,
  type Move,
  type Mover,
} from './migration-rows.js';
import { chooseAccelerator, type SetupOptions } from './setups.js';

export const METHODS = ['precopy', 'hybrid', 'postcopy', 'no-background'] as const;
/** `no-background`: postcopy that sends only what is asked for. */
export type Method = (typeof METHODS)[number];

/** What QEMU has of them: no round before postcopy that ends by itself, and always background. */
const QEMU_METHODS: readonly Method[] = ['precopy', 'postcopy'];

export interface MoverOptions extends SetupOptions {
  /** Both movers get it, ms. */
  readonly downtimeLimitMs: number;
  /** Both movers' disk. */
  readonly disk: DiskPlace;
  /** How long a postcopy without background is watched, s. */
  readonly seconds: number;
  /** The agents' logs stay, with how long each part of a move took. */
  readonly keepLogs: boolean;
}

/** What was not seen from outside. */
export type Moved = Omit<Move, 'outageMs' | 'wireBytes'>;

/** A guest on hosta that can be moved once. */
export interface Movable {
  readonly lab: Lab;
  readonly directory: string;
  move(method: Method): Promise<Moved>;
}

const PORT = 4444;
const NBD_PORT = 4445;
const MOVE_DEADLINE_MS = 300_000;
const SOCKET_DEADLINE_MS = 20_000;
const POLL_MS = 5;
const QUIET = { debug: nothing, info: nothing, warn: nothing, error: nothing };

export function canMove(mover: Mover, method: Method): boolean {
  return mover === 'colo' || QEMU_METHODS.includes(method);
}

export async function bringUpMovable(
  mover: Mover,
  options: MoverOptions,
  cleanup: Cleanup,
): Promise<Movable> {
  return mover === 'qemu' ? bringUpQemu(options, cleanup) : bringUpColo(options, cleanup);
}

async function bringUpQemu(options: MoverOptions, cleanup: Cleanup): Promise<Movable> {
  const directory = mkdtempSync('/tmp/colo-bench-');
  cleanup.add('temporary files', () => rm(directory, { recursive: true, force: true }));
  const lab = await Lab.up(options.root, cleanup);
  const { guest, memoryMib } = options;
  const movesDisk = options.disk === 'moved';
  const empty = join(directory, 'empty.img');
  if (movesDisk) await run(['truncate', `--reference=${guest.image}`, empty]);
  const common = { directory, guest, memoryMib, mac: GUEST_MAC, accelerator: chooseAccelerator() };
  const imageThere = movesDisk ? empty : plainGuestImage(directory, lab.hosta);
  const start = async (host: 'hosta' | 'hostb', more: readonly string[]) => {
    const path = join(directory, `${host}.qmp`);
    const qemu = await startPlainGuest({
      ...common,
      host: lab[host],
      image: host === 'hosta' ? undefined : imageThere,
      more: ['-qmp', `unix:${path},server=on,wait=off`, ...more],
    });
    cleanup.add(`QEMU on ${host}`, async () => {
      qemu.kill('SIGKILL');
      await qemu.ended;
    });
    return await openQmp(path);
  };
  const source = await start('hosta', []);
  await waitGuest({
    enter: lab.client.enter,
    buildDir: options.buildDir,
    host: GUEST_ADDRESS,
    logPath: `${directory}/clients.log`,
  });
  const move = async (method: Method): Promise<Moved> => {
    const postcopy = method === 'postcopy';
    const launchedUs = nowUs();
    const traced = ['postcopy_ram_fault_thread_request', 'postcopy_place_page*'];
    const trace = traced.flatMap((event) => ['-trace', `enable=${event}`]);
    const destination = await start('hostb', [
      ...['-incoming', 'defer'],
      ...(postcopy ? ['-msg', 'timestamp=on', ...trace] : []),
    ]);
    const ends = { source, destination, host: REPLICATION_ADDRESS.hostb, port: NBD_PORT };
    const capabilities = [
      { capability: 'postcopy-ram', state: postcopy },
      ...MIRROR_CAPABILITIES.map((capability) => ({ capability, state: movesDisk })),
    ];
    for (const end of [source, destination]) {
      await end.execute('migrate-set-capabilities', { capabilities });
    }
    await destination.execute('migrate-incoming', {
      uri: `tcp:${REPLICATION_ADDRESS.hostb}:${PORT}`,
    });
    await source.execute('migrate-set-parameters', {
      'downtime-limit': options.downtimeLimitMs,
      // Its default is a gigabit a second.
      'max-bandwidth': 2 ** 40,
    });
    let [stoodUs, ranUs] = [Number.NaN, Number.NaN];
    source.onEvent(({ name }) => {
      if (name === 'STOP') stoodUs = nowUs();
    });
    destination.onEvent(({ name }) => {
      if (name === 'RESUME') ranUs = nowUs();
    });
    const startUs = nowUs();
    if (movesDisk) await beginMirror(ends);
    const mirrorEnded = movesDisk ? endMirror(ends) : undefined;
    await source.execute('migrate', { uri: `tcp:${REPLICATION_ADDRESS.hostb}:${PORT}` });
    if (postcopy) await source.execute('migrate-start-postcopy');
    await mirrorEnded;
    const info = await completed(source);
    const endUs = nowUs();
    const logPath = join(directory, `${lab.hostb.name}-qemu.log`);
    await completed(destination);
    const stoppedMs = (ranUs - stoodUs) / 1000;
    return {
      totalMs: (endUs - startUs) / 1000,
      launchedMs: (endUs - launchedUs) / 1000,
      downtimeMs: info.downtime ?? null,
      stoppedMs: Number.isNaN(stoppedMs) ? null : stoppedMs,
      ramBytes: info.ram?.transferred ?? null,
      faults: postcopy ? await qemuFaults(destination, logPath) : null,
    };
  };
  return { lab, directory, move };
}

/** Of query-migrate, QEMU's qapi/migration.json; ms and bytes. */
interface MigrationInfo {
  readonly status?: string;
  readonly downtime?: number;
  readonly ram?: { readonly transferred: number };
  readonly 'error-desc'?: string;
}

async function completed(source: QmpClient): Promise<MigrationInfo> {
  const untilUs = nowUs() + MOVE_DEADLINE_MS * 1000;
  while (nowUs() < untilUs) {
    const info = (await source.execute('query-migrate')) as MigrationInfo;
    if (info.status === 'completed') return info;
    if (info.status === 'failed' || info.status === 'cancelled') {
      throw new Error(`QEMU's migration: ${info.status}: ${info['error-desc'] ?? 'no reason'}`);
    }
    await delay(POLL_MS);
  }
  throw new Error(`QEMU's migration did not end within ${MOVE_DEADLINE_MS / 1000} s`);
}

/** The destination has placed the last page when it says so, too. */
async function qemuFaults(destination: QmpClient, logPath: string): Promise<Faults> {
  await completed(destination);
  return faultsOfTrace(await readFile(logPath, 'utf8'));
}

async function openQmp(path: string): Promise<QmpClient> {
  const untilUs = nowUs() + SOCKET_DEADLINE_MS * 1000;
  for (;;) {
    const stream = connect(path);
    try {
      const client = new QmpClient({ stream, log: QUIET });
      await client.start();
      return client;
    } catch (error) {
      stream.destroy();
      if (nowUs() > untilUs) throw error;
      await delay(POLL_MS);
    }
  }
}

async function bringUpColo(options: MoverOptions, cleanup: Cleanup): Promise<Movable> {
  const pair = await PairLab.up(
    {
      ...{ root: options.root, guest: options.guest, memoryMib: options.memoryMib },
      ...{ periodMs: options.periodMs, mode: DEFAULT_MODE, peer: NOBODY },
      disk: options.disk,
      primaryFlags: ['--accel', chooseAccelerator()],
      secondaryFlags: ['--peer', NOBODY],
      logLevel: 'debug',
    },
    cleanup,
  );
  if (options.keepLogs) pair.keepFiles('logs');
  await pair.startSecondary();
  await pair.startPrimary();
  await pair.waitGuest();
  return {
    lab: pair.lab,
    directory: pair.directory,
    move: (method) => moveByColo(pair, method, options),
  };
}

async function moveByColo(pair: PairLab, method: Method, options: MoverOptions): Promise<Moved> {
  const flags = {
    precopy: [],
    hybrid: ['--hybrid'],
    postcopy: ['--postcopy'],
    'no-background': ['--postcopy', '--no-background'],
  }[method];
  const command = [
    ...[process.execPath, join(pair.buildDir, 'src/cli/colo.js'), 'migrate'],
    ...[REPLICATION_ADDRESS.hostb, '--json', '--downtime-limit', `${options.downtimeLimitMs}ms`],
    ...['--socket', join(pair.directory, 'hosta/run/control.sock'), ...flags],
  ];
  if (method === 'no-background') return await watchForeground(pair, command, options.seconds);
  const startUs = nowUs();
  const answer = JSON.parse(await run(command, { deadlineMs: MOVE_DEADLINE_MS })) as ColoAnswer;
  const totalMs = (nowUs() - startUs) / 1000;
  const { migration } = answer;
  const stoppedMs = await stoppedByLogs(pair);
  return {
    // The program's own start is no part of the migration.
    totalMs: migration.totalMs,
    launchedMs: totalMs,
    downtimeMs: migration.downtimeMs,
    stoppedMs,
    ramBytes: migration.sentBytes,
    faults: migration.faults,
  };
}

async function stoppedByLogs(pair: PairLab): Promise<number | null> {
  const log = (host: 'hosta' | 'hostb') => readFile(pair.logPath(host), 'utf8');
  return betweenLines(
    { log: await log('hosta'), words: 'The guest stands still' },
    { log: await log('hostb'), words: 'The guest executes' },
  );
}

interface ColoAnswer {
  readonly migration: {
    readonly totalMs: number;
    readonly downtimeMs: number | null;
    readonly sentBytes: number;
    readonly faults: Faults | null;
  };
}

/** It does not end by itself: most of the pages are never asked for. */
async function watchForeground(
  pair: PairLab,
  command: readonly string[],
  seconds: number,
): Promise<Moved> {
  const child = new Child({
    name: 'colo',
    command,
    logPath: join(pair.directory, 'colo.log'),
    onLine: () => {},
  });
  try {
    await pair.waitStatus('hostb', 'the guest runs', ({ migration }) => {
      return migration?.state === 'running';
    });
    await delay(seconds * 1000);
    const { migration } = await pair.status('hostb');
    const { migration: source } = await pair.status('hosta');
    return {
      ...{ totalMs: null, launchedMs: null },
      downtimeMs: source?.downtimeMs ?? null,
      stoppedMs: await stoppedByLogs(pair),
      ramBytes: source?.sentBytes ?? null,
      faults: migration?.faults ?? null,
    };
  } finally {
    // Killed, as an interrupted command would ask the agent to cancel.
    child.kill('SIGKILL');
    await child.ended;
  }
}

function nothing(): void {}
