/** What the bench measures, by name: each takes a set-up that is ready and returns its samples. */
import { setTimeout as delay } from 'node:timers/promises';
import { nowUs } from '../clients/clock.js';
import { run as runChild } from '../harness/child.js';
import { ClientProcess } from '../harness/client-process.js';
import { GUEST_ADDRESS, type HostName, type Lab } from '../harness/lab.js';
import { median } from '../harness/median.js';
import type { PairLab } from '../harness/pair-lab.js';
import { cpuSeconds } from './cpu.js';
import type { LoadName, LoadResult } from './loads.js';
import { outageSamples } from './outages.js';
import type { Sample } from './rows.js';
import type { Setup } from './setups.js';

/** Much shorter than the shortest period, so that no checkpoint is missed. */
const POLL_MS = 20;
/** The guest's scribbler reaches its rate and the pre-send its pace. */
const SETTLE_MS = 1000;
const WRITTEN_MIB_PER_EPOCH = [0, 1, 10, 50, 100];
const DISK_DEPTH = 16;
/** Before this, completions of large fetches with held output say nothing about the service. */
const WARM_UP_MS = 3000;

export interface MeasureOptions {
  readonly buildDir: string;
  readonly seconds: number;
  /**
   * How long each load runs before it is measured, in every set-up alike: a guest under TCG
   * translates, and V8 compiles, what they have never run.
   */
  readonly warmUpSeconds: number;
  readonly periodMs: number;
  /** Also tell who used how much CPU time during each load. */
  readonly cpu: boolean;
}

type Measure = (setup: Setup, options: MeasureOptions) => Promise<Sample[]>;

/** In the order in which they run; `failover` destroys the set-up and is last. */
export const MEASURES = { pause, http, redis, rtt, bulk, disk, failover } as const satisfies Record<
  string,
  Measure
>;
export type MeasureName = keyof typeof MEASURES;
export const MEASURE_NAMES = Object.keys(MEASURES) as MeasureName[];

/** How long the PVM stands still at a checkpoint while the guest writes so much in each epoch. */
async function pause({ pair, controls }: Setup, options: MeasureOptions): Promise<Sample[]> {
  const [control] = controls;
  if (pair === undefined || control === undefined) return [];
  const samples: Sample[] = [];
  for (const mib of WRITTEN_MIB_PER_EPOCH) {
    const rate = Math.ceil((mib * 1000) / options.periodMs);
    if (mib > 0) await control.command(`scribble ${rate} ${mib}`);
    await delay(SETTLE_MS);
    const seen = await watchCheckpoints(pair, options.seconds);
    if (mib > 0) await control.command('scribble off');
    const name = `pause-${mib === 0 ? 'idle' : `${mib}MiB`}`;
    const pauses = seen.map((checkpoint) => checkpoint.pauseMs).sort((a, b) => a - b);
    const p99 = pauses[Math.ceil(pauses.length * 0.99) - 1] ?? 0;
    const pages = median(seen.map((checkpoint) => checkpoint.dirtyPages));
    samples.push({ name, unit: 'ms', better: 'less', value: median(pauses) });
    samples.push({ name: `${name}-p99`, unit: 'ms', better: 'less', value: p99 });
    samples.push({ name: `${name}-shipped`, unit: 'MiB', better: 'less', value: pages / 256 });
  }
  return samples;
}

interface SeenCheckpoint {
  readonly pauseMs: number;
  readonly dirtyPages: number;
}

async function watchCheckpoints(pair: PairLab, seconds: number): Promise<SeenCheckpoint[]> {
  const seen: SeenCheckpoint[] = [];
  const untilUs = nowUs() + seconds * 1e6;
  let last = (await pair.status('hosta')).checkpoints.total;
  while (nowUs() < untilUs) {
    const { checkpoints, pauseMs, dirtyPages } = await pair.status('hosta');
    if (checkpoints.total !== last && pauseMs.last !== null) {
      seen.push({ pauseMs: pauseMs.last, dirtyPages: dirtyPages.last ?? 0 });
    }
    last = checkpoints.total;
    await delay(POLL_MS);
  }
  if (seen.length === 0) throw new Error(`No checkpoint within ${seconds} s`);
  return seen;
}

async function http(setup: Setup, options: MeasureOptions): Promise<Sample[]> {
  const samples: Sample[] = [];
  for (const [label, load] of [
    ['new', 'httpNew'],
    ['keepalive', 'httpKeepAlive'],
  ] as const) {
    for (const concurrency of [1, 8]) {
      const result = await loadAll(setup, options, { load, concurrency });
      const name = `http-${label}-${concurrency}`;
      samples.push(
        { name, unit: 'requests/s', better: 'more', value: result.perSecond },
        { name: `${name}-median`, unit: 'ms', better: 'less', value: result.medianUs / 1000 },
        { name: `${name}-p99`, unit: 'ms', better: 'less', value: result.p99Us / 1000 },
        ...cpuSamples(name, result, options),
      );
    }
  }
  return samples;
}

async function redis(setup: Setup, options: MeasureOptions): Promise<Sample[]> {
  const samples: Sample[] = [];
  for (const concurrency of [1, 8]) {
    const result = await loadAll(setup, options, { load: 'redisSet', concurrency });
    const name = `redis-set-${concurrency}`;
    samples.push({ name, unit: 'SET/s', better: 'more', value: result.perSecond });
    samples.push(...cpuSamples(name, result, options));
  }
  return samples;
}

async function rtt(setup: Setup, options: MeasureOptions): Promise<Sample[]> {
  const result = await loadAll(setup, options, { load: 'udpEcho', concurrency: 1 });
  return [
    { name: 'rtt-median', unit: 'ms', better: 'less', value: result.medianUs / 1000 },
    { name: 'rtt-p99', unit: 'ms', better: 'less', value: result.p99Us / 1000 },
    ...cpuSamples('rtt', result, options),
  ];
}

async function bulk(setup: Setup, options: MeasureOptions): Promise<Sample[]> {
  const samples: Sample[] = [];
  for (const load of ['download', 'upload'] as const) {
    const result = await loadAll(setup, options, { load, concurrency: 1 });
    samples.push({ name: load, unit: 'MB/s', better: 'more', value: result.perSecond / 1e6 });
    samples.push(...cpuSamples(load, result, options));
  }
  return samples;
}

async function disk(setup: Setup, options: MeasureOptions): Promise<Sample[]> {
  const samples: Sample[] = [];
  for (const [label, command] of [
    ['4KiB-random', `disk rand ${options.seconds * 2} ${DISK_DEPTH}`],
    ['1MiB-sequential', `disk seq ${options.seconds * 2}`],
  ]) {
    const answers = await Promise.all(
      setup.controls.map((control) => control.command(command ?? '')),
    );
    for (const direction of ['read', 'write'] as const) {
      const values = answers.map((answer) => readFigure(answer, direction));
      const unit = /unit=(\S+)/.exec(answers[0] ?? '')?.[1] ?? '';
      const name = `disk-${label}-${direction}`;
      samples.push({ name, unit, better: 'more', value: mean(values) });
    }
  }
  if (setup.pair !== undefined) {
    const { diskMemoryBytes } = await setup.pair.status('hosta');
    const value = diskMemoryBytes / 2 ** 20;
    samples.push({ name: 'disk-memory', unit: 'MiB', better: 'less', value });
  }
  return samples;
}

/** What the three load clients see of a SIGKILL of everything on hosta. */
async function failover({ pair }: Setup, options: MeasureOptions): Promise<Sample[]> {
  if (pair === undefined) return [];
  const clients = await ClientProcess.start({
    enter: pair.lab.client.enter,
    buildDir: options.buildDir,
    target: GUEST_ADDRESS,
    logPath: `${pair.directory}/clients.log`,
    args: ['--warm-up-ms', String(WARM_UP_MS)],
  });
  await delay(options.seconds * 1000);
  await pair.kill('hosta');
  await delay(options.seconds * 1000);
  return outageSamples(await clients.stop());
}

/** What a load did, and the CPU shares of the hosts while its processes ran. */
interface LoadOutcome extends LoadResult {
  readonly hostShares: Readonly<Record<HostName, number>>;
}

/**
 * The same load on all guests of the set-up at once; the result is the mean of what they did, and
 * `cpuShare` the sum of what all load generators used.
 */
async function loadAll(
  setup: Setup,
  options: MeasureOptions,
  shape: { load: LoadName; concurrency: number },
): Promise<LoadOutcome> {
  const worker = `${options.buildDir}/scripts/bench/worker.js`;
  const run = (seconds: number): Promise<LoadResult[]> => {
    const args = (host: string) => [shape.load, host, String(seconds), String(shape.concurrency)];
    return Promise.all(
      setup.hosts.map(async (host) => {
        const text = await runChild([...setup.enter, process.execPath, worker, ...args(host)], {
          deadlineMs: seconds * 1000 + 60_000,
        });
        return JSON.parse(text) as LoadResult;
      }),
    );
  };
  if (options.warmUpSeconds > 0) await run(options.warmUpSeconds);
  const hostShares = await watchHosts(setup.lab);
  const results = await run(options.seconds);
  return {
    perSecond: mean(results.map((result) => result.perSecond)),
    medianUs: mean(results.map((result) => result.medianUs)),
    p99Us: mean(results.map((result) => result.p99Us)),
    cpuShare: results.reduce((sum, result) => sum + result.cpuShare, 0),
    hostShares: await hostShares(),
  };
}

/** Returns what tells the CPU shares since now. */
async function watchHosts(lab: Lab): Promise<() => Promise<Record<HostName, number>>> {
  const startUs = nowUs();
  const before = [await cpuSeconds(lab.hosta), await cpuSeconds(lab.hostb)];
  return async () => {
    const seconds = (nowUs() - startUs) / 1e6;
    const after = [await cpuSeconds(lab.hosta), await cpuSeconds(lab.hostb)];
    const [hosta = 0, hostb = 0] = after.map((value, i) => (value - (before[i] ?? 0)) / seconds);
    return { hosta, hostb };
  };
}

function cpuSamples(name: string, outcome: LoadOutcome, options: MeasureOptions): Sample[] {
  if (!options.cpu) return [];
  const shares = { client: outcome.cpuShare, ...outcome.hostShares };
  return Object.entries(shares).map(([who, share]) => {
    return { name: `${name}-cpu-${who}`, unit: '% core', better: 'less', value: share * 100 };
  });
}

function readFigure(answer: string, name: string): number {
  const value = new RegExp(`${name}=([0-9.]+)`).exec(answer)?.[1];
  if (value === undefined) throw new Error(`The guest's bench answered ${JSON.stringify(answer)}`);
  return Number(value);
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
