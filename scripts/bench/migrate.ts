/**
 * `npm run bench -- migrate`: the same guest moved by QEMU's own migration and by `colo migrate`, in
 * turns, each from a fresh boot, for each kind of guest and each method.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { describeError } from '../../src/lib/index.js';
import { run } from '../harness/child.js';
import { Cleanup, withDeadline } from '../harness/cleanup.js';
import { ClientProcess } from '../harness/client-process.js';
import { GuestControl, type GuestControlOptions, waitGuest } from '../harness/guest-control.js';
import { GUEST_ADDRESS, type Namespace } from '../harness/lab.js';
import { startProber } from '../harness/prober-process.js';
import { type MigrationResults, MOVERS, type Mover, moveSamples } from './migration-rows.js';
import { bringUpMovable, canMove, type Method, type Movable, type MoverOptions } from './movers.js';

/** What the guest does while it moves. */
export const GUESTS = ['idle', 'redis', 'scribble'] as const;
export type GuestKind = (typeof GUESTS)[number];

/** The load reaches its rate, and the prober its pace. */
const SETTLE_MS = 1500;
/** After a move: QEMU's guests that have lost pages fall over soon. */
const AFTER_MS = 1500;
const PROBER_DEADLINE_MS = 20_000;
/** MiB a second, and of how much memory: more than a link of a gigabit could not keep up with. */
const SCRIBBLE = { rate: 50, mib: 64 };

export interface MigrateBenchOptions extends MoverOptions {
  readonly guests: readonly GuestKind[];
  readonly methods: readonly Method[];
  readonly movers: readonly Mover[];
  readonly say: (text: string) => void;
}

/** One round: every guest, by every method, moved by both. */
export async function benchMigration(
  options: MigrateBenchOptions,
  results: MigrationResults,
): Promise<void> {
  for (const guest of options.guests) {
    for (const method of options.methods) {
      for (const mover of MOVERS) {
        if (!options.movers.includes(mover) || !canMove(mover, method)) continue;
        await measure(mover, { guest, method }, options, results);
      }
    }
  }
}

async function measure(
  mover: Mover,
  { guest, method }: { guest: GuestKind; method: Method },
  options: MigrateBenchOptions,
  results: MigrationResults,
): Promise<void> {
  const cleanup = new Cleanup();
  const stopListening = cleanup.onSignals();
  const name = `${guest}-${method}`;
  try {
    options.say(`${mover}: ${name}`);
    const movable = await bringUpMovable(mover, options, cleanup);
    const place = {
      enter: movable.lab.client.enter,
      buildDir: options.buildDir,
      host: GUEST_ADDRESS,
      logPath: `${movable.directory}/clients.log`,
    };
    await startLoad(guest, place, cleanup);
    const prober = await startProber(place, cleanup);
    await delay(SETTLE_MS);
    const before = await wireBytes(movable.lab.hosta);
    const moved = await movable.move(method);
    const after = await wireBytes(movable.lab.hosta);
    await delay(AFTER_MS);
    const outageMs = (await prober()).longestUs / 1000;
    const move = { ...moved, outageMs, wireBytes: after - before };
    for (const sample of moveSamples(name, move)) results.add(mover, sample);
    await tellBroken(`${mover}: ${name}`, movable, place, options.say);
  } catch (error) {
    // After a signal everything fails, and the process ends as soon as all is cleaned up.
    if (cleanup.started) await new Promise<never>(() => {});
    throw error;
  } finally {
    await cleanup.run();
    stopListening();
  }
}

async function startLoad(
  kind: GuestKind,
  place: GuestControlOptions,
  cleanup: Cleanup,
): Promise<void> {
  if (kind === 'redis') {
    const { enter, buildDir, host: target, logPath } = place;
    const clients = await ClientProcess.start({
      ...{ enter, buildDir, target, logPath },
      clients: ['redis'],
    });
    cleanup.add('redis load', () => clients.kill());
  }
  if (kind === 'scribble') {
    const control = new GuestControl(place);
    cleanup.add('guest control', () => control.close());
    await control.command(`scribble ${SCRIBBLE.rate} ${SCRIBBLE.mib}`);
  }
}

/** What a host has sent and received on the link between the hosts. */
async function wireBytes({ enter }: Namespace): Promise<number> {
  const files = ['rx', 'tx'].map((way) => `/sys/class/net/repl0/statistics/${way}_bytes`);
  const text = await run([...enter, 'cat', ...files]);
  return text
    .trim()
    .split('\n')
    .reduce((sum, line) => sum + Number(line), 0);
}

/** QEMU 7.2 loses pages under TCG: its figures stand, and whoever reads them must know. */
async function tellBroken(
  name: string,
  { lab, directory }: Movable,
  place: GuestControlOptions,
  say: (text: string) => void,
): Promise<void> {
  const consoles = [`${directory}/${lab.hostb.name}-console.log`, `${directory}/hostb/console.log`];
  const console = consoles.map(textOf).join('');
  const panic = /Kernel panic[^\r\n]*|BUG: [^\r\n]*|Oops: [^\r\n]*/.exec(console)?.[0];
  if (panic !== undefined) say(`${name}: the guest is broken after the move: ${panic}`);
  try {
    await withDeadline(waitGuest(place), PROBER_DEADLINE_MS, 'An answer of the guest');
  } catch (error) {
    say(`${name}: the guest does not answer after the move: ${describeError(error)}`);
  }
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    // The other mover's.
    return '';
  }
}
