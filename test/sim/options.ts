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
  /** Both hosts lose their power. */
  | { readonly kind: 'blackout' }
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
  | { readonly kind: 'failover'; readonly force: boolean }
  | { readonly kind: 'witnessDown'; readonly durationUs: number }
  | {
      readonly kind: 'witnessCut';
      readonly side: Who;
      readonly ways: 'both' | 'to' | 'from';
      readonly durationUs: number;
    }
  /** `part` of what goes to or from the witness comes seconds late. */
  | { readonly kind: 'witnessLate'; readonly part: number; readonly durationUs: number }
  | {
      readonly kind: 'weather';
      readonly delayUs: number;
      readonly lossPart: number;
      readonly durationUs: number;
    }
  | { readonly kind: 'lan'; readonly side: Who; readonly durationUs: number }
  /** A thread of the agent stands still, the others go on. */
  | {
      readonly kind: 'stall';
      readonly side: Who;
      readonly thread: 'main' | 'guard';
      readonly durationUs: number;
    }
  | { readonly kind: 'diskFull'; readonly side: Who; readonly durationUs: number };

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
  /** `healthyUs`: so long after the pair is protected and needs no witness. */
  readonly moment: Moment | { readonly healthyUs: number };
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

/** The third machine, and the wires to it. */
export interface WitnessHabits {
  readonly ttlUs: number;
  readonly timeoutUs: number;
  readonly delayUs: number;
  readonly driftPpm: number;
}

export interface RunOptions {
  readonly witness: WitnessHabits | undefined;
  /** One fault alone befalls a healthy pair: what clients may miss is bounded. */
  readonly alone: boolean;
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
  readonly holdLimitUs: number;
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
/** Those that need a witness to be told from a crash, or are about it. */
export const WITNESS_KINDS = [
  'blackout',
  'witnessDown',
  'witnessCut',
  'witnessLate',
  'weather',
  'lan',
  'stall',
  'diskFull',
] as const;
const ALL_KINDS = [...KINDS, ...WITNESS_KINDS];
/** For the command line. */
export const KIND_GROUPS: Readonly<Record<string, readonly Kind[]>> = {
  crash: ['kill', 'power', 'blackout', 'guestDies', 'guestOff', 'diskFails', 'diskFull'],
  network: ['reset', 'partition', 'slow', 'weather', 'lan'],
  pause: ['stop', 'stall', 'hang'],
  witness: ['witnessDown', 'witnessCut', 'witnessLate'],
  operator: ['checkpoint', 'leave', 'setPeriod', 'setMode', 'failover'],
};
/** What ends the service of a host. */
const ENDS = ['kill', 'kill', 'power', 'guestDies', 'leave', 'failover'] as const;
export type Kind = (typeof KINDS)[number] | (typeof WITNESS_KINDS)[number];

/** Faults of one run at most, without those that are aimed at the take-over that others cause. */
const FAULTS_MAX = 8;

/** What a run is drawn with. */
export interface Drawing {
  readonly seed: number;
  /** Of the faults; all if left out. */
  readonly kinds?: readonly Kind[] | undefined;
  readonly witness?: boolean | undefined;
}

export function drawOptions({ seed, kinds, witness = false }: Drawing): RunOptions {
  return witness ? drawWitnessed(seed, kinds ?? ALL_KINDS) : drawPlain(seed, kinds ?? KINDS);
}

/**
 * With a witness both hosts have one time-out and clocks that are what the product asks for, and
 * everything lasts longer: pauses beyond every time-out, and what comes after them.
 */
function drawWitnessed(seed: number, kinds: readonly Kind[]): RunOptions {
  const plain = drawPlain(seed, kinds);
  const rng = new Prng(Math.imul(seed + 1, 0x6c8e9cf5));
  const alone = rng.chance(0.35);
  const troubleUs = (alone ? 12_000 : rng.nextInt(2_000, 10_000)) * 1000;
  const { peerTimeoutUs } = plain.hosts.b;
  const host = (options: HostOptions): HostOptions => ({
    ...options,
    peerTimeoutUs,
    driftPpm: rng.nextInt(-2_500, 2_500),
  });
  const ttlUs = rng.pick([500, 2_000, 5_000]) * 1000;
  return {
    ...plain,
    hosts: { a: host(plain.hosts.a), b: host(plain.hosts.b) },
    witness: {
      ttlUs,
      timeoutUs: Math.floor(ttlUs / 5),
      delayUs: rng.nextInt(50, 3_000),
      driftPpm: rng.nextInt(-2_500, 2_500),
    },
    // Impatience is a fault of its own.
    ...(alone
      ? { onPeerLoss: 'failover' as const, captureFailureRate: 0, holdLimitUs: 15_000_000 }
      : {}),
    alone,
    faults: alone ? [drawAlone(rng, kinds)] : drawFaults(rng, troubleUs, kinds),
    troubleUs,
  };
}

/** A cell of the matrix: one fault, for good, in a healthy pair. */
function drawAlone(rng: Prng, kinds: readonly Kind[]): PlannedFault {
  const fault = drawFault(rng, rng.pick(kinds.filter((kind) => !HARMLESS.has(kind))));
  const durationUs = rng.chance(0.7) ? 60_000_000 : rng.nextInt(10, 5_000) * 1000;
  const lasting = 'durationUs' in fault ? { ...fault, durationUs } : fault;
  return { fault: lasting, moment: { healthyUs: rng.nextInt(0, 200_000) } };
}

/** They end no session. */
export const HARMLESS: ReadonlySet<Fault['kind']> = new Set(['checkpoint', 'setPeriod', 'setMode']);

function drawPlain(seed: number, kinds: readonly Kind[]): RunOptions {
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
    witness: undefined,
    alone: false,
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
    // Drawn last: what older seeds are known for stays what it is.
    holdLimitUs: rng.pick([15_000, 15_000, 2_000, 300]) * 1000,
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
  const longestMs = rng.chance(0.5) ? 100 : 2500;
  const durationUs = rng.nextInt(1, longestMs) * 1000;
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
    default:
      return drawWitnessFault(rng, kind, side);
  }
}

function drawWitnessFault(rng: Prng, kind: (typeof WITNESS_KINDS)[number], side: Who): Fault {
  // MAIN_SILENCE_US_MAX and each lease are below the longest.
  const durationUs = rng.nextInt(1, rng.pick([100, 2_500, 8_000])) * 1000;
  switch (kind) {
    case 'blackout':
      return { kind };
    case 'witnessDown':
      return { kind, durationUs };
    case 'witnessCut':
      return { kind, side, ways: rng.pick(['both', 'to', 'from'] as const), durationUs };
    case 'witnessLate':
      return { kind, part: rng.pick([0.1, 0.5]), durationUs };
    case 'weather':
      return {
        kind,
        delayUs: rng.pick([0, 40_000, 300_000]),
        lossPart: rng.pick([0, 0.05, 0.3]),
        durationUs,
      };
    case 'lan':
    case 'diskFull':
      return { kind, side, durationUs };
    case 'stall':
      return { kind, side, thread: rng.pick(['main', 'guard'] as const), durationUs };
  }
}
