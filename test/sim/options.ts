/**
 * What a seed stands for: options of the pair, habits of everything, and the faults to come (swarm
 * testing: each run has some kinds of trouble and not others, so that none hides behind the rest).
 */
import type { PeriodSetting } from '../../src/config/index.js';
import { Prng } from '../../src/lib/index.js';
import type { ClientHabits } from './clients.js';
import { CLIENTS_MAX, type GuestHabits } from './guest.js';
import type { NetworkHabits, Side, SimPolicy } from './network.js';

/** By the role that a host has when the fault strikes: the one that serves, and the other one. */
export type Who = 'primary' | 'secondary';

export type Fault =
  | { readonly kind: 'kill' | 'power' | 'guestDies'; readonly side: Who }
  | { readonly kind: 'guestOff' | 'diskFails' | 'reset' | 'checkpoint' }
  | { readonly kind: 'leave'; readonly side: Who }
  | { readonly kind: 'partition'; readonly from: Who | 'both'; readonly durationUs: number }
  | {
      readonly kind: 'stop';
      readonly side: Who;
      readonly host: boolean;
      readonly durationUs: number;
    }
  | { readonly kind: 'slow'; readonly delayUs: number; readonly durationUs: number }
  | { readonly kind: 'hang'; readonly side: Who; readonly durationUs: number }
  | { readonly kind: 'setPeriod'; readonly period: PeriodSetting }
  | { readonly kind: 'setMode'; readonly mode: 'checkpoint' | 'colo' }
  | { readonly kind: 'failover'; readonly force: boolean };

/** When a fault strikes: at a time, or right after a step was done for the n-th time. */
export type Moment =
  | { readonly atUs: number }
  | {
      readonly step: string;
      /** Of those done after `afterUs`. */
      readonly count: number;
      readonly afterUs: number;
      readonly delayUs: number;
    };

export interface PlannedFault {
  readonly fault: Fault;
  readonly moment: Moment;
}

/** Of one host; `stepUs` is the mean time of one step of a composite output. */
export interface HostOptions {
  readonly driftPpm: number;
  readonly stepUs: number;
  readonly peerTimeoutUs: number;
  readonly heartbeatUs: number;
  /** What its file of epochs holds at first. */
  readonly firstEpoch: number;
}

export interface RunOptions {
  readonly hosts: Readonly<Record<Side, HostOptions>>;
  /** As the host that is configured as the primary begins; it goes on so after a failover. */
  readonly policy: SimPolicy;
  readonly minIntervalUs: number;
  readonly onPeerLoss: 'failover' | 'wait';
  readonly disks: number;
  readonly guest: GuestHabits;
  readonly clients: ClientHabits;
  readonly network: NetworkHabits;
  readonly captureFailureRate: number;
  /** How often the guest has not read all its input when it is stopped. */
  readonly inexactRate: number;
  readonly compareTimeoutUs: number;
  readonly slowestSyncUs: number;
  /** A process that has ended is started again after so long, at most. */
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
  'promote.announce',
  'promote.handOver',
] as const;

const TAKEOVER_STEPS = [
  'drop.staged',
  'promote.merge',
  'promote.open',
  'promote.resume',
  'promote.announce',
  'promote.handOver',
] as const;

/** Kinds of fault; those that are there twice are drawn twice as often. */
export const KINDS = [
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
/** What ends the service of a host. */
const ENDS = ['kill', 'kill', 'power', 'guestDies', 'leave', 'failover'] as const;
export type Kind = (typeof KINDS)[number];

/** Faults of one run at most, without those that are aimed at the take-over that others cause. */
const FAULTS_MAX = 8;

/** The options that a seed draws, with faults of these kinds only. */
export function drawOptions(seed: number, kinds: readonly Kind[] = KINDS): RunOptions {
  const rng = new Prng(Math.imul(seed + 1, 0x2545f491));
  const heartbeatUs = rng.nextInt(20, 100) * 1000;
  const peerTimeoutUs = heartbeatUs * rng.nextInt(4, 10);
  const alternates = rng.chance(0.2) && kinds === KINDS;
  const troubleUs = (alternates ? rng.nextInt(6000, 12_000) : rng.nextInt(800, 4000)) * 1000;
  const host = (timeoutUs: number): HostOptions => ({
    driftPpm: rng.nextInt(-20_000, 20_000),
    stepUs: rng.nextInt(5, 400),
    peerTimeoutUs: timeoutUs,
    heartbeatUs,
    firstEpoch: rng.nextInt(0, 1000),
  });
  return {
    hosts: {
      a: host(rng.chance(0.5) ? peerTimeoutUs : rng.nextInt(150, 1000) * 1000),
      b: host(peerTimeoutUs),
    },
    policy: { mode: drawMode(rng), period: drawPeriod(rng, 500) },
    minIntervalUs: rng.nextInt(5, 100) * 1000,
    onPeerLoss: rng.chance(0.75) ? 'failover' : 'wait',
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
    captureFailureRate: rng.chance(0.15) ? 0.05 : 0,
    inexactRate: rng.chance(0.3) ? 0.2 : 0,
    compareTimeoutUs: rng.nextInt(5, 200) * 1000,
    slowestSyncUs: rng.chance(0.1) ? 4_000_000 : 50_000,
    restartUs: rng.nextInt(5, 1500) * 1000,
    faults: alternates ? drawAlternation(rng, troubleUs) : drawFaults(rng, troubleUs, kinds),
    troubleUs,
  };
}

function drawMode(rng: Prng): 'checkpoint' | 'colo' {
  return rng.chance(0.6) ? 'colo' : 'checkpoint';
}

function drawPeriod(rng: Prng, longestMs: number): PeriodSetting {
  return rng.chance(0.2) ? 'auto' : rng.nextInt(20, longestMs) * 1000;
}

function drawFaults(rng: Prng, troubleUs: number, kinds: readonly Kind[]): PlannedFault[] {
  const enabled = [rng.pick(kinds), rng.pick(kinds), rng.pick(kinds)];
  const faults: PlannedFault[] = [];
  for (let count = rng.nextInt(1, FAULTS_MAX); count > 0; count -= 1) {
    const fault = drawFault(rng, rng.pick(enabled));
    const moment = drawMoment(rng, 0, troubleUs);
    faults.push({ fault, moment });
    if (rng.chance(0.15)) faults.push(drawSecondFault(rng, moment, kinds));
  }
  return faults;
}

/** The host that serves ends, again and again, with time for the other one to come back. */
function drawAlternation(rng: Prng, troubleUs: number): PlannedFault[] {
  const rounds = rng.nextInt(4, 8);
  const faults: PlannedFault[] = [];
  for (let round = 0; round < rounds; round += 1) {
    const kind = rng.pick(ENDS);
    const fault: Fault = kind === 'failover' ? { kind, force: false } : { kind, side: 'primary' };
    const fromUs = Math.round((round * troubleUs) / rounds);
    const moment = drawMoment(rng, fromUs, Math.round(troubleUs / rounds));
    faults.push({ fault, moment });
    if (rng.chance(0.15)) faults.push(drawSecondFault(rng, moment, KINDS));
  }
  return faults;
}

/** Something else goes wrong in the same moment, or while the secondary takes over. */
function drawSecondFault(rng: Prng, first: Moment, kinds: readonly Kind[]): PlannedFault {
  if (rng.chance(0.5)) {
    const laterUs = rng.nextInt(0, 8_000);
    const moment =
      'atUs' in first
        ? { atUs: first.atUs + laterUs }
        : { ...first, delayUs: first.delayUs + laterUs };
    return { fault: drawFault(rng, rng.pick(kinds)), moment };
  }
  const afterUs = 'atUs' in first ? first.atUs : first.afterUs;
  const step = rng.pick(['apply.ram1', 'apply.disk', 'apply.resume', ...TAKEOVER_STEPS]);
  const delayUs = rng.chance(0.5) ? 0 : rng.nextInt(0, 2_000);
  const fault = drawFault(rng, rng.pick(kinds));
  return { fault, moment: { step, count: 1, afterUs, delayUs } };
}

function drawMoment(rng: Prng, fromUs: number, lengthUs: number): Moment {
  const atUs = fromUs + rng.nextInt(0, lengthUs);
  if (rng.chance(0.3)) return { atUs };
  const delayUs = rng.chance(0.5) ? 0 : rng.nextInt(0, 2_000);
  return { step: rng.pick(STEPS), count: rng.nextInt(1, 4), afterUs: atUs, delayUs };
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
