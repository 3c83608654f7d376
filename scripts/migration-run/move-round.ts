/**
 * One cell of the matrix, with two guests of its own. The first moves with RAM verified at the
 * switchover; the second without, as digests of all RAM are a part of the pause: its downtime is
 * compared with what the prober sees. Clients use both, and both have a pattern in memory.
 */
import { describeError } from '../../src/lib/index.js';
import type { ClientName } from '../clients/client.js';
import { nowUs } from '../clients/clock.js';
import type { GuestControl } from '../harness/guest-control.js';
import { GUEST_ADDRESS } from '../harness/lab.js';
import { migrate } from '../harness/migration.js';
import { startProber } from '../harness/prober-process.js';
import { type Cell, METHOD_FLAGS, nameOf } from './cells.js';
import { type DowntimeVerdict, judgeClients, judgeDowntime, judgeRam } from './judge.js';
import { type LabContext, MovableLab } from './movable-lab.js';

const SUCCESSES = 5;
/** What writes all the time, in the guest: random bytes, of which nothing can be saved. */
const NOISE = '/mnt/noise';
const NOISE_MIB = 24;
/** Its link, slower than it writes; told apart from a machine that is too busy to write so much. */
const LINK_MIB_S = 12;
const WRITES_FASTER = 1.5;
const WATCH_MS = 600_000;

export interface MoveResult {
  readonly cell: string;
  readonly round: number;
  readonly ramVerified: boolean;
  readonly downtimeMs: number | null;
  readonly seen: DowntimeVerdict | null;
  readonly totalMs: number | null;
  /** Of what writes all the time, before it was moved; MiB a second. */
  readonly writesMibS: number | null;
  readonly throttlePercent: number;
  readonly seconds: number;
  readonly problems: readonly string[];
}

interface Leg {
  readonly problems: string[];
  ramVerified: boolean;
  downtimeMs: number | null;
  seen: DowntimeVerdict | null;
  totalMs: number | null;
  writesMibS: number | null;
  throttlePercent: number;
}

/** Never rejects: what breaks off is a problem of the round. */
export async function moveRound(
  context: LabContext,
  {
    cell,
    round,
    slackMs,
  }: { readonly cell: Cell; readonly round: number; readonly slackMs: number },
): Promise<MoveResult> {
  const startUs = nowUs();
  const verified = await leg(context, { cell, verify: true, slackMs });
  const timed = await leg(context, { cell, verify: false, slackMs });
  const { downtimeMs, seen, totalMs, writesMibS } = timed;
  return {
    ...{ cell: nameOf(cell), round, ramVerified: verified.ramVerified },
    ...{ downtimeMs, seen, totalMs, writesMibS },
    throttlePercent: Math.max(verified.throttlePercent, timed.throttlePercent),
    seconds: Math.round((nowUs() - startUs) / 1e5) / 10,
    problems: [...verified.problems, ...timed.problems],
  };
}

interface LegWish {
  readonly cell: Cell;
  readonly verify: boolean;
  readonly slackMs: number;
}

async function leg(context: LabContext, wish: LegWish): Promise<Leg> {
  const { cell, verify } = wish;
  const result: Leg = {
    ...{ problems: [], ramVerified: false, downtimeMs: null, seen: null },
    ...{ totalMs: null, writesMibS: null, throttlePercent: 0 },
  };
  let lab: MovableLab | undefined;
  try {
    lab = await MovableLab.up(context, { security: cell.security, verify });
    await move(lab, wish, result);
  } catch (error) {
    result.problems.push(`Broke off: ${describeError(error)}`);
  }
  if (result.problems.length > 0) lab?.keepLogs();
  await lab?.down();
  return result;
}

/** Clients that the guest is busy with, or that hardly ask for anything. */
function clientsOf({ guest }: Cell): readonly ClientName[] {
  const few = ['stream', 'accepted', 'dialled'] as const;
  return guest === 'redis' ? ['http', 'redis', ...few] : few;
}

async function move(lab: MovableLab, wish: LegWish, result: Leg): Promise<void> {
  const { pair, cleanup } = lab;
  const { cell, verify, slackMs } = wish;
  const flags = ['--json', ...METHOD_FLAGS[cell.method]];
  if (cell.guest === 'scribble') {
    result.writesMibS = await scribble(pair.control());
    if (result.writesMibS < WRITES_FASTER * LINK_MIB_S) {
      result.problems.push(`The guest writes no more than ${result.writesMibS} MiB/s`);
    }
    flags.push('--max-bandwidth', `${LINK_MIB_S}MiB`);
    if (cell.method === 'precopy') flags.push('--auto-converge');
  }
  const names = clientsOf(cell);
  const clients = await lab.startClients(names);
  await clients.waitSuccesses({ names, afterUs: 0, count: SUCCESSES });
  const place = {
    enter: pair.lab.client.enter,
    buildDir: pair.buildDir,
    host: GUEST_ADDRESS,
    logPath: `${pair.directory}/clients.log`,
  };
  const prober = await startProber(place, cleanup);
  const stopWatching = watchThrottle(lab, result);
  const { code, out, err } = await migrate(pair, 'hosta', 'hostb', flags);
  await stopWatching();
  if (code !== 0) throw new Error(`The guest was not moved: ${out}${err}`);
  await pair.waitEnded('hosta');
  await pair.waitStatus('hostb', 'it is the primary', ({ role, migration }) => {
    return role === 'primary' && migration === null;
  });
  await clients.waitSuccesses({ names, afterUs: nowUs(), count: SUCCESSES });
  const { silences } = await prober();
  if (!(await lab.pattern.isWhole()))
    result.problems.push('Memory of the guest is not what it was');
  result.problems.push(...judgeClients(await clients.stop()));
  const { migration } = JSON.parse(out) as {
    migration: { totalMs: number; downtimeMs: number | null };
  };
  if (verify) {
    const wrong = judgeRam(await lab.log('hostb'));
    result.ramVerified = wrong.length === 0;
    result.problems.push(...wrong);
    return;
  }
  const { downtimeMs, totalMs } = migration;
  const { method } = cell;
  const runsUs = await ranAtUs(lab);
  const seen = judgeDowntime({ method, downtimeMs, silences, runsUs, slackMs });
  Object.assign(result, { downtimeMs, totalMs, seen });
  result.problems.push(...seen.problems);
  if (cell.guest === 'scribble' && method === 'precopy' && result.throttlePercent === 0) {
    result.problems.push('The guest did not have to be slowed down: it writes too little');
  }
}

/** CLOCK_MONOTONIC; to the millisecond, as logs are. */
async function ranAtUs(lab: MovableLab): Promise<number> {
  const time = /^(\S+) .* The guest runs here/m.exec(await lab.log('hostb'))?.[1];
  if (time === undefined) throw new Error('hostb does not say when the guest ran there');
  return nowUs() - (Date.now() - Date.parse(time)) * 1000;
}

/** Begins to write, and gives how much in a second, in MiB. */
async function scribble(control: GuestControl): Promise<number> {
  const write = `dd if=/dev/urandom of=${NOISE} bs=1M count=${NOISE_MIB} conv=notrunc`;
  try {
    await control.exec(`mount -o remount,size=${64 + NOISE_MIB}m /mnt && ${write} 2>&1`);
    const startUs = nowUs();
    await control.exec(`${write} 2>&1`);
    const rate = (NOISE_MIB * 1e6) / (nowUs() - startUs);
    await control.exec(`(while :; do ${write}; done >/dev/null 2>&1 </dev/null &)`);
    return Math.round(rate * 10) / 10;
  } finally {
    control.close();
  }
}

/** How far the guest is slowed down while it moves; what it gives ends that. */
function watchThrottle({ pair }: MovableLab, result: Leg): () => Promise<void> {
  let over = false;
  const watching = pair
    .waitStatus(
      'hosta',
      'the guest has moved',
      ({ migration }) => {
        const throttle = migration?.throttlePercent ?? 0;
        result.throttlePercent = Math.max(result.throttlePercent, throttle);
        return over;
      },
      WATCH_MS,
    )
    // Its agent ends when the guest has moved.
    .then(
      () => undefined,
      () => undefined,
    );
  return async () => {
    over = true;
    await watching;
  };
}
