/**
 * What a seed stands for: options of the pair, habits of everything, and the faults to come (swarm
 * testing: each run has some kinds of trouble and not others, so that none hides behind the rest).
 */
import type { PeriodSetting } from '../../src/config/index.js';
import { Prng } from '../../src/lib/index.js';
import type { PrimaryOptions } from '../../src/primary/index.js';
import type { SecondaryOptions } from '../../src/secondary/index.js';
import type { ClientHabits } from './clients.js';
import { CLIENTS_MAX, type GuestHabits } from './guest.js';
import type { NetworkHabits, Side } from './network.js';
import type { NodeHabits } from './node.js';

export type Fault =
  | { readonly kind: 'kill' | 'power' | 'guestDies'; readonly side: Side }
  | { readonly kind: 'guestOff' | 'diskFails' | 'reset' | 'checkpoint' }
  | { readonly kind: 'leave'; readonly side: Side }
  | { readonly kind: 'partition'; readonly from: Side | 'both'; readonly durationUs: number }
  | {
      readonly kind: 'stop';
      readonly side: Side;
      readonly host: boolean;
      readonly durationUs: number;
    }
  | { readonly kind: 'slow'; readonly delayUs: number; readonly durationUs: number }
  | { readonly kind: 'hang'; readonly side: Side; readonly durationUs: number }
  | { readonly kind: 'setPeriod'; readonly period: PeriodSetting }
  | { readonly kind: 'setMode'; readonly mode: 'checkpoint' | 'colo' }
  | { readonly kind: 'failover'; readonly force: boolean };

/** When a fault strikes: at a time, or right after a step was done for the n-th time. */
export type Moment =
  | { readonly atUs: number }
  | { readonly step: string; readonly count: number; readonly delayUs: number };

export interface PlannedFault {
  readonly fault: Fault;
  readonly moment: Moment;
}

export interface RunOptions {
  readonly primary: PrimaryOptions;
  readonly secondary: SecondaryOptions;
  readonly disks: number;
  readonly guest: GuestHabits;
  readonly clients: ClientHabits;
  readonly network: NetworkHabits;
  readonly nodes: Readonly<Record<Side, NodeHabits>>;
  readonly captureFailureRate: number;
  /** How often the guest has not read all its input when it is stopped. */
  readonly inexactRate: number;
  readonly compareTimeoutUs: number;
  readonly slowestSyncUs: number;
  /** A killed secondary is started again after so long; the primary never is (no rejoin yet). */
  readonly restartUs: number;
  readonly faults: readonly PlannedFault[];
  /** Length of phase 1. */
  readonly troubleUs: number;
}

/** Steps after which faults are aimed; all steps of both shells but the launch. */
export const STEPS = [
  'sync.track',
  'sync.disk',
  'sync.scan',
  'sync.copy',
  'presend.scan',
  'presend.copy',
  'capture.quiesce',
  'capture.pause',
  'capture.save',
  'capture.scan',
  'capture.edge',
  'capture.resume',
  'ship.ram',
  'ship.device',
  'ship.ramEnd',
  'ship.endRecord',
  'commit.seal',
  'commit.send',
  'apply.quiesce',
  'apply.pause',
  'apply.ram1',
  'apply.ram2',
  'apply.ram3',
  'apply.dropOwn',
  'apply.disk',
  'apply.device',
  'apply.resume',
  'drop.staged',
  'promote.merge',
  'promote.open',
  'promote.resume',
] as const;

const TAKEOVER_STEPS = ['drop.staged', 'promote.merge', 'promote.open', 'promote.resume'] as const;

const KINDS = [
  'kill',
  'kill',
  'power',
  'guestDies',
  'guestOff',
  'diskFails',
  'reset',
  'reset',
  'checkpoint',
  'leave',
  'partition',
  'stop',
  'slow',
  'hang',
  'setPeriod',
  'setMode',
  'failover',
] as const;
type Kind = (typeof KINDS)[number];

/** The options that a seed draws. */
export function drawOptions(seed: number): RunOptions {
  const rng = new Prng(Math.imul(seed + 1, 0x2545f491));
  const heartbeatUs = rng.nextInt(20, 100) * 1000;
  const peerTimeoutUs = heartbeatUs * rng.nextInt(4, 10);
  const troubleUs = rng.nextInt(800, 3000) * 1000;
  const node = (): NodeHabits => ({
    driftPpm: rng.nextInt(-20_000, 20_000),
    stepUs: rng.nextInt(5, 400),
  });
  return {
    primary: {
      mode: drawMode(rng),
      period: drawPeriod(rng, 500),
      minIntervalUs: rng.nextInt(5, 100) * 1000,
      peerTimeoutUs: rng.chance(0.5) ? peerTimeoutUs : rng.nextInt(150, 1000) * 1000,
      heartbeatUs,
      hasWitness: false,
      firstEpoch: rng.nextInt(0, 1000),
    },
    secondary: {
      peerTimeoutUs,
      heartbeatUs,
      hasWitness: false,
      onPeerLoss: rng.chance(0.75) ? 'failover' : 'wait',
    },
    disks: rng.nextInt(0, 3),
    guest: {
      serviceUs: rng.nextInt(30, 300),
      idleUs: rng.nextInt(1_000, 10_000),
      scribblePages: rng.nextInt(1, 8),
      acks: rng.chance(0.5),
      divergence: rng.pick([0, 0, 0.01, 0.2]),
    },
    clients: {
      services: Array.from({ length: rng.nextInt(1, CLIENTS_MAX) }, () =>
        rng.chance(0.3) ? 'datagram' : 'stream',
      ),
      thinkUs: rng.nextInt(500, 10_000),
      retransmitUs: 40_000,
    },
    network: {
      delayUs: rng.nextInt(20, 500),
      jitterUs: rng.chance(0.3) ? rng.nextInt(1_000, 30_000) : rng.nextInt(10, 500),
      probeTimeoutUs: rng.nextInt(20, 200) * 1000,
    },
    nodes: { primary: node(), secondary: node() },
    captureFailureRate: rng.chance(0.15) ? 0.05 : 0,
    inexactRate: rng.chance(0.3) ? 0.2 : 0,
    compareTimeoutUs: rng.nextInt(5, 200) * 1000,
    slowestSyncUs: rng.chance(0.1) ? 4_000_000 : 50_000,
    restartUs: rng.nextInt(5, 1500) * 1000,
    faults: drawFaults(rng, troubleUs),
    troubleUs,
  };
}

function drawMode(rng: Prng): 'checkpoint' | 'colo' {
  return rng.chance(0.6) ? 'colo' : 'checkpoint';
}

function drawPeriod(rng: Prng, longestMs: number): PeriodSetting {
  return rng.chance(0.2) ? 'auto' : rng.nextInt(20, longestMs) * 1000;
}

function drawFaults(rng: Prng, troubleUs: number): PlannedFault[] {
  if (rng.chance(0.15)) return drawDoubleFault(rng, troubleUs);
  const enabled = [rng.pick(KINDS), rng.pick(KINDS), rng.pick(KINDS)];
  const count = rng.nextInt(1, 4);
  return Array.from({ length: count }, () => ({
    fault: drawFault(rng, rng.pick(enabled)),
    moment: drawMoment(rng, troubleUs),
  }));
}

/** The primary ends, and something else goes wrong while the secondary takes over. */
function drawDoubleFault(rng: Prng, troubleUs: number): PlannedFault[] {
  const step = rng.pick(['apply.ram1', 'apply.disk', 'apply.resume', ...TAKEOVER_STEPS]);
  const end = rng.pick(['kill', 'power', 'guestDies', 'leave'] as const);
  return [
    { fault: { kind: end, side: 'primary' }, moment: drawMoment(rng, troubleUs) },
    {
      fault: drawFault(rng, rng.pick(KINDS)),
      moment: { step, count: 1, delayUs: rng.chance(0.5) ? 0 : rng.nextInt(0, 2_000) },
    },
  ];
}

function drawMoment(rng: Prng, troubleUs: number): Moment {
  if (rng.chance(0.3)) return { atUs: rng.nextInt(0, troubleUs) };
  const delayUs = rng.chance(0.5) ? 0 : rng.nextInt(0, 2_000);
  return { step: rng.pick(STEPS), count: rng.nextInt(1, 6), delayUs };
}

function drawFault(rng: Prng, kind: Kind): Fault {
  // Short and long: well below and well above every peer time-out.
  const durationUs = rng.nextInt(1, rng.chance(0.5) ? 100 : 2500) * 1000;
  const side = rng.pick(['primary', 'secondary'] as const);
  switch (kind) {
    case 'kill':
    case 'power':
    case 'guestDies':
    case 'leave':
      return { kind, side };
    case 'guestOff':
    case 'diskFails':
    case 'reset':
    case 'checkpoint':
      return { kind };
    case 'partition':
      return { kind, from: rng.pick(['primary', 'secondary', 'both'] as const), durationUs };
    case 'stop':
      return { kind, side, host: rng.chance(0.5), durationUs };
    case 'slow':
      return { kind, delayUs: rng.nextInt(1, 50) * 1000, durationUs };
    case 'hang':
      return { kind, side, durationUs: rng.chance(0.5) ? durationUs : 20_000_000 };
    case 'setPeriod':
      return { kind, period: drawPeriod(rng, 1000) };
    case 'setMode':
      return { kind, mode: drawMode(rng) };
    case 'failover':
      return { kind, force: rng.chance(0.3) };
  }
}
