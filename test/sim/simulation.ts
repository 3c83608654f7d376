/**
 * One run: two nodes with the production cores, clients, faults, checkers; all from one seed.
 *
 * Phase 1 injects faults and checks safety after each event. Phase 2 heals what can be healed and
 * demands progress in bounded virtual time: clients are served if anything survives, and two nodes
 * that are alive form a protected pair again.
 */
import { AssertionFailed } from '../../src/lib/index.js';
import { type Breakage, Checker, KnownLimit, Violation } from './checker.js';
import { Clients } from './clients.js';
import { Coverage } from './coverage.js';
import { FaultInjector } from './faults.js';
import type { ModelGuest } from './guest.js';
import { Network } from './network.js';
import { drawOptions, type RunOptions } from './options.js';
import { SimPrimary } from './sim-primary.js';
import { SimSecondary } from './sim-secondary.js';
import { type TraceLine, World } from './world.js';

/** Virtual time in which a healed pair must have made progress. */
const PROGRESS_US = 40_000_000;
/** Answers that every client must get in phase 2. */
const PROGRESS_ANSWERS = 3;

export interface RunResult {
  readonly seed: number;
  readonly verdict: 'ok' | 'known limit' | 'failed';
  /** Which limit, or what failed. */
  readonly detail: string;
  readonly events: number;
  readonly virtualUs: number;
}

export interface RunParts {
  readonly seed: number;
  readonly coverage?: Coverage;
  readonly breakage?: Breakage | undefined;
  readonly sink?: (line: TraceLine) => void;
  /** Instead of what the seed draws. */
  readonly options?: RunOptions;
}

/** Runs one seed to its end; throws only for a bug of the simulation itself. */
export function runSeed(parts: RunParts): RunResult {
  const run = new Run(parts);
  const result = (verdict: RunResult['verdict'], detail: string): RunResult => ({
    seed: parts.seed,
    verdict,
    detail,
    events: run.world.events,
    virtualUs: run.world.nowUs,
  });
  try {
    return result('ok', run.toTheEnd());
  } catch (error) {
    if (error instanceof KnownLimit) return result('known limit', error.limit);
    if (error instanceof Violation) return result('failed', error.message);
    if (error instanceof AssertionFailed) return result('failed', `Assertion: ${error.message}`);
    throw error;
  }
}

class Run {
  readonly world: World;
  readonly #options: RunOptions;
  readonly #coverage: Coverage;
  readonly #checker: Checker;
  readonly #network: Network;
  readonly #primary: SimPrimary;
  readonly #secondary: SimSecondary;
  readonly #clients: Clients;
  readonly #faults: FaultInjector;

  constructor(parts: RunParts) {
    const { breakage } = parts;
    const options = parts.options ?? drawOptions(parts.seed);
    const world = new World(parts.seed, parts.sink);
    world.trace('options', () => JSON.stringify(options));
    this.world = world;
    this.#options = options;
    this.#coverage = parts.coverage ?? new Coverage();
    const checker = new Checker({
      nowUs: () => world.nowUs,
      undisturbed: () => this.#faults.struck === 0 && options.captureFailureRate === 0,
      // A session that a failed capture has ended has no way to say goodbye.
      onlyPoweredOff: () =>
        this.#faults.guestOff && this.#faults.struck === 1 && options.captureFailureRate === 0,
      promotionWithinUs: () => promotionWithinUs(options),
      primarySpeaks: () => this.#primary.alive && this.#primary.lan.gate.state !== 'silent',
      secondaryStandsBy: () =>
        this.#secondary.alive && this.#secondary.core.state.kind === 'standby',
      onPeerLoss: () => options.secondary.onPeerLoss,
      survivor: () => this.#secondary.survivor,
      ongoing: () => this.#faults.ongoing,
    });
    this.#checker = checker;
    const common = {
      world,
      observer: { stepDone: (_: string, step: string) => this.#faults.stepDone(step) },
      network: () => this.#network,
      checker,
      disks: options.disks,
      guest: options.guest,
      breakage,
      toLan: (frame: Parameters<Clients['receive']>[0]) => this.#clients.receive(frame),
    };
    this.#primary = new SimPrimary({
      ...common,
      habits: options.nodes.primary,
      core: options.primary,
      captureFailureRate: options.captureFailureRate,
      inexactRate: options.inexactRate,
      compareTimeoutUs: options.compareTimeoutUs,
      slowestSyncUs: options.slowestSyncUs,
      guestRng: world.stream(),
      onSession: (session) => this.#secondary.join(session),
    });
    this.#secondary = new SimSecondary({
      ...common,
      habits: options.nodes.secondary,
      core: options.secondary,
      guestRng: world.stream(),
    });
    this.#network = new Network(world, options.network, {
      primary: this.#primary,
      secondary: this.#secondary,
    });
    this.#clients = new Clients(world, options.clients, (request) => {
      this.#primary.receive(request);
      this.#secondary.receive(request);
    });
    this.#faults = new FaultInjector(
      {
        world,
        network: this.#network,
        primary: this.#primary,
        secondary: this.#secondary,
        checker,
        coverage: this.#coverage,
      },
      options,
    );
  }

  /** Both phases; the outcome in words. */
  toTheEnd(): string {
    this.world.run(this.#options.troubleUs, () => {
      this.#checkStandby();
      return false;
    });
    this.#faults.heal();
    const outcome = this.#progress();
    const guest = this.#servingGuest();
    if (guest !== undefined) this.#checker.oneHistory(guest.snapshot());
    this.#primary.lan.checkNothingLost();
    this.#summarise(outcome);
    return outcome;
  }

  #checkStandby(): void {
    if (!this.#secondary.touched) return;
    this.#secondary.touched = false;
    const standby = this.#secondary.standbyState();
    if (standby !== undefined) this.#checker.standby(standby.state, standby.epoch);
  }

  #servingGuest(): ModelGuest | undefined {
    const { state } = this.#secondary.core;
    if (this.#secondary.alive && state.kind === 'active') return this.#secondary.svm?.guest;
    return this.#primary.alive ? this.#primary.guest : undefined;
  }

  #progress(): string {
    const before = this.#clients.answers.map((answers) => answers.length);
    const checkpoints = this.#primary.checkpointsDone;
    const served = (): boolean =>
      this.#clients.answers.every(
        (answers, client) => answers.length >= (before[client] ?? 0) + PROGRESS_ANSWERS,
      );
    const pairStands = (): boolean =>
      this.#primary.core.isProtected &&
      this.#primary.checkpointsDone >= checkpoints + 2 &&
      !this.#primary.operatorWaits &&
      !this.#secondary.operatorWaits;
    const outcome = (): string | undefined => {
      const { state } = this.#secondary.core;
      if (this.#primary.alive) return served() && pairStands() ? 'a protected pair' : undefined;
      if (!this.#secondary.alive) return 'both are dead';
      if (state.kind === 'active') {
        const answered = served() && !this.#secondary.operatorWaits;
        return answered ? 'the promoted secondary serves' : undefined;
      }
      const idle = state.kind === 'waiting' && this.#secondary.currentStep === undefined;
      return idle ? this.#endWithoutService() : undefined;
    };
    let nextLookUs = 0;
    this.world.run(this.world.nowUs + PROGRESS_US, () => {
      this.#checkStandby();
      if (this.world.nowUs < nextLookUs) return false;
      nextLookUs = this.world.nowUs + 10_000;
      this.#faults.operatorLooks();
      return outcome() !== undefined;
    });
    const reached = outcome();
    if (reached !== undefined) return reached;
    const primary = this.#primary.alive ? this.#primary.core.state : 'dead';
    const secondary = this.#secondary.alive ? this.#secondary.core.state : 'dead';
    const states = `primary ${JSON.stringify(primary)}, secondary ${JSON.stringify(secondary)}`;
    throw new Violation('Progress', `None in ${PROGRESS_US / 1e6} s: ${states}`);
  }

  /** The primary is dead and the secondary holds nothing: right only if nothing could be held. */
  #endWithoutService(): string {
    if (this.#faults.guestOff) return 'the guest powered off';
    if (this.#checker.wasProtectedAtDeath) {
      throw new Violation('Availability', 'A protected primary died and nobody serves');
    }
    return 'the primary died unprotected';
  }

  #summarise(outcome: string): void {
    const coverage = this.#coverage;
    coverage.count('Runs end with', outcome);
    coverage.count('Totals', 'checkpoints', this.#primary.checkpointsDone);
    coverage.count('Totals', 'promotions', this.#checker.promotions);
    coverage.count('Totals', 'promotions of a running SVM', this.#checker.promotionsOfRunning);
    coverage.count('Runs begin in mode', this.#options.primary.mode);
    for (const [what, count] of Object.entries(this.#primary.lan.totals)) {
      coverage.count('Output', what, count);
    }
    coverage.count('Totals', 'answers to clients', this.#clients.answered);
  }
}

/**
 * What time-out, apply and promotion add up to at most: a clock that runs slow, silence that is
 * counted in whole ticks, every step at its slowest.
 */
function promotionWithinUs({ secondary, nodes, network }: RunOptions): number {
  const silenceUs = 1.05 * secondary.peerTimeoutUs + 4 * secondary.heartbeatUs;
  const workUs = 16 * 50 * nodes.secondary.stepUs;
  return silenceUs + workUs + network.probeTimeoutUs + 8 * network.jitterUs;
}
