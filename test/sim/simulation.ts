/**
 * One run: two nodes with the production cores, clients, faults, checkers; all from one seed.
 *
 * Phase 1 injects faults and checks safety after each event. Phase 2 heals what can be healed and
 * demands progress in bounded virtual time: clients are served if anything survives, and two nodes
 * that are alive form a protected pair again.
 */
import { AssertionFailed } from '../../src/lib/index.js';
import { type Breakage, Checker, KnownGap, KnownLimit, Violation } from './checker.js';
import { Clients } from './clients.js';
import { Coverage } from './coverage.js';
import { FaultInjector } from './faults.js';
import type { Frame } from './guest.js';
import { type Answer, SimHost } from './host.js';
import { Network, otherSide, SIDES, type Side } from './network.js';
import { type Drawing, drawOptions, type HostOptions, type RunOptions } from './options.js';
import { Outage } from './outage.js';
import { SimPrimary } from './sim-primary.js';
import type { SimSecondary } from './sim-secondary.js';
import { SimWitness } from './witness.js';
import { type TraceLine, World } from './world.js';

/** Virtual time in which a healed pair must have made progress. */
const PROGRESS_US = 40_000_000;
/** Answers that every client must get in phase 2. */
const PROGRESS_ANSWERS = 3;
/** After so long without a guest the operator comes. */
const OPERATOR_US = 100_000;
/** A node asks its peer ten times in it. */
const WAIT_US = 1_000_000;
/** With a witness nobody has to wait for him in the first place: he comes when that fails. */
const WITNESS_WAIT_US = 10_000_000;

export interface RunResult {
  readonly seed: number;
  readonly verdict: 'ok' | 'known limit' | 'known gap' | 'failed';
  /** Which limit, or what failed. */
  readonly detail: string;
  readonly events: number;
  readonly virtualUs: number;
}

export interface RunParts extends Drawing {
  readonly coverage?: Coverage;
  readonly breakage?: Breakage | undefined;
  readonly sink?: (line: TraceLine) => void;
  /** Instead of what the seed draws. */
  readonly options?: RunOptions;
}

/** Runs one seed to its end; throws only for a bug of the simulation itself. */
export function runSeed(parts: RunParts): RunResult {
  const run = new Run(parts);
  const result = outcomeOf(run, parts.seed);
  run.summarise(result);
  return result;
}

function outcomeOf(run: Run, seed: number): RunResult {
  const result = (verdict: RunResult['verdict'], detail: string): RunResult => ({
    seed,
    verdict,
    detail,
    events: run.world.events,
    virtualUs: run.world.nowUs,
  });
  try {
    return result('ok', run.toTheEnd());
  } catch (error) {
    if (error instanceof RunOver) return result('ok', error.message);
    if (error instanceof KnownLimit) return result('known limit', error.limit);
    if (error instanceof KnownGap) return result('known gap', error.gap);
    if (error instanceof Violation) return result('failed', error.message);
    if (error instanceof AssertionFailed) return result('failed', `Assertion: ${error.message}`);
    throw error;
  }
}

/** Nothing can become of this run any more, and that is right. */
class RunOver extends Error {}

class Run {
  readonly world: World;
  readonly #options: RunOptions;
  readonly #coverage: Coverage;
  readonly #checker: Checker;
  readonly #network: Network;
  readonly #hosts: Readonly<Record<Side, SimHost>>;
  readonly #clients: Clients;
  readonly #faults: FaultInjector;
  readonly #witness: SimWitness | undefined;
  readonly #outage: Outage | undefined;
  /** Where the guest has been started or promoted last. */
  #served: SimHost | undefined;
  #waiting: { readonly host: SimHost; readonly sinceUs: number } | undefined;
  #idleSinceUs: number | undefined;
  #boots = 0;
  /** An operator has had a guest booted whatever the other host has. */
  #forced = false;

  constructor(parts: RunParts) {
    const { breakage } = parts;
    const options = parts.options ?? drawOptions(parts);
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
      hasWitness: options.witness !== undefined,
      otherSpeaks: (side) => this.#speaks(this.#hosts[otherSide(side)]),
      secondaryStandsBy: () => this.#secondary?.core.state.kind === 'standby',
      onPeerLoss: () => options.onPeerLoss,
      survivor: () => this.#secondary?.survivor,
      ongoing: () => this.#faults.ongoing,
      recently: (kind) => this.#faults.recently(kind),
    });
    this.#checker = checker;
    const host = (side: Side): SimHost =>
      new SimHost({
        side,
        options,
        world,
        network: () => this.#network,
        witness: () => this.#witness,
        leaseMoved: () => this.#checkLeases(),
        rejoinRefused: (at, reason) => this.#rejoinRefused(this.#hosts[at], reason),
        checker,
        breakage,
        guestRng: world.stream(),
        stepDone: (step) => this.#faults.stepDone(step),
        toLan: (frame) => this.#toLan(frame),
        booting: (at, answer) => this.#booting(at, answer),
        ended: (ended) => this.#faults.ended(ended),
      });
    this.#hosts = { a: host('a'), b: host('b') };
    this.#network = new Network(world, options.network, this.#hosts);
    this.#clients = new Clients(world, options.clients, (request) => {
      for (const side of SIDES) {
        const { lanCut, role } = this.#hosts[side];
        if (!lanCut) role?.receive(request);
      }
    });
    if (options.witness !== undefined) {
      this.#witness = new SimWitness(world, options.witness, breakage);
    }
    this.#faults = new FaultInjector(
      {
        world,
        network: this.#network,
        witness: this.#witness,
        hosts: this.#hosts,
        checker,
        coverage: this.#coverage,
      },
      options,
    );
    if (options.alone) this.#outage = new Outage(options, this.#hosts, this.#faults);
    this.#hosts.b.start();
    this.#hosts.a.start();
  }

  /** Both phases; the outcome in words. */
  toTheEnd(): string {
    this.world.run(this.#options.troubleUs, () => {
      this.#look();
      return false;
    });
    this.#outage?.check(this.world.nowUs);
    this.#faults.heal();
    const outcome = this.#progress();
    for (const side of SIDES) {
      const { role, serves } = this.#hosts[side];
      if (!serves) continue;
      if (role?.guest !== undefined) this.#checker.oneHistory(role.guest.snapshot());
      if (role instanceof SimPrimary) role.lan.checkNothingLost();
    }
    return outcome;
  }

  get #secondary(): SimSecondary | undefined {
    const { a, b } = this.#hosts;
    return a.secondary?.svm === undefined ? b.secondary : a.secondary;
  }

  get #primaries(): SimPrimary[] {
    return SIDES.flatMap((side) => this.#hosts[side].primary ?? []);
  }

  /** With a witness: it may, whoever else says what it likes and is not heard. */
  #speaks(host: SimHost): boolean {
    if (this.#options.witness === undefined) return host.speaks;
    return (host.speech?.leaseEndsUs ?? 0) > this.world.nowUs;
  }

  #checkLeases(): void {
    if (SIDES.every((side) => this.#speaks(this.#hosts[side]))) this.#checker.bothMaySpeak();
  }

  #toLan(frame: Frame): void {
    const side = this.#checker.speaker;
    if (side === undefined || !this.#hosts[side].lanCut) this.#clients.receive(frame);
  }

  /** Right where only one of two guests can be kept; then it is for the operator to say which. */
  #rejoinRefused(host: SimHost, reason: string): void {
    host.trace(() => `refuses: ${reason}`);
    if (this.#options.witness !== undefined && !this.#forced) {
      throw new Violation('Rejoin', `With a witness nobody's images are at stake: ${reason}`);
    }
    this.#coverage.count('Operator', 'gives up the images of a secondary');
    host.records.discard();
  }

  #look(): void {
    this.#outage?.look(this.world.nowUs);
    this.#checkStandby();
    this.#checkService();
  }

  #checkStandby(): void {
    for (const side of SIDES) {
      const host = this.#hosts[side];
      if (!host.touched) continue;
      host.touched = false;
      const isHeard = this.#options.witness === undefined || this.#checker.speaker === side;
      if (host.serves && isHeard) this.#served = host;
      const standby = host.secondary?.standbyState();
      if (standby !== undefined) this.#checker.standby(standby.state, standby.epoch);
    }
  }

  /**
   * A guest that died unprotected is nowhere, and two hosts that both wait for a primary never
   * start it: the operator starts the one that is configured for it.
   */
  #checkService(): void {
    const { a, b } = this.#hosts;
    for (const side of SIDES) this.#checkWait(this.#hosts[side]);
    const idle = a.secondary?.idle === true && b.secondary?.idle === true;
    if (!idle || a.stopped || b.stopped) {
      this.#idleSinceUs = undefined;
      return;
    }
    this.#checker.guestIsGone();
    this.#idleSinceUs ??= this.world.nowUs;
    if (this.world.nowUs < this.#idleSinceUs + OPERATOR_US) return;
    this.#idleSinceUs = undefined;
    const primary = a.configured === 'primary' ? a : b;
    if (this.#witness !== undefined && this.#witness.aloneHost !== primary.side) {
      this.#coverage.count('Operator', 'makes the other host the primary: nobody has the guest');
      this.#swap(primary);
    } else if (this.#hasNewestImage(primary)) {
      this.#coverage.count('Operator', 'restarts the configured primary: nobody has the guest');
      primary.leave();
    } else throw new RunOver('an unprotected guest died on the configured secondary');
  }

  /**
   * A host that would boot the guest, and waits for a peer that has not got it, needs the operator:
   * who boots it from his own images, or has the other host do it, which has the newer ones.
   */
  #checkWait(host: SimHost): void {
    const peer = this.#hosts[otherSide(host.side)];
    const waits = host.joins && !host.stopped && peer.secondary?.idle === true && !peer.stopped;
    if (!waits) {
      if (this.#waiting?.host === host) this.#waiting = undefined;
      return;
    }
    if (this.#waiting?.host !== host) this.#waiting = { host, sinceUs: this.world.nowUs };
    const waitUs = this.#options.witness === undefined ? WAIT_US : WITNESS_WAIT_US;
    if (this.world.nowUs < this.#waiting.sinceUs + waitUs) return;
    this.#waiting = undefined;
    if (this.#hasNewestImage(host) && host.records.isStartable) {
      this.#coverage.count('Operator', 'boots a guest that waits for its peer');
      this.#forced = true;
      host.force();
      return;
    }
    this.#coverage.count('Operator', 'starts the other host as the primary');
    this.#swap(host);
  }

  /** The configured primary becomes the secondary, and the other way round. */
  #swap(host: SimHost): void {
    const peer = this.#hosts[otherSide(host.side)];
    host.configured = 'secondary';
    peer.configured = 'primary';
    host.leave();
    peer.leave();
  }

  #hasNewestImage(host: SimHost): boolean {
    const served = this.#served;
    if (served === undefined || served === host) return true;
    return host.images.every((image, disk) =>
      image.every((value, block) => value === served.images[disk]?.[block]),
    );
  }

  /** A guest starts from its disks: nobody else may have it, or a newer state of it. */
  #booting(host: SimHost, answer: Answer): void {
    const peer = this.#hosts[otherSide(host.side)];
    const hasWitness = this.#options.witness !== undefined;
    const holds = peer.serves || peer.speaks || peer.role?.probeAnswer === 'holding';
    if (holds && !hasWitness) throw this.#bootedBeside(peer, answer);
    if (hasWitness && this.#speaks(peer)) this.#checker.bothMaySpeak();
    if (!host.records.isStartable) {
      throw new Violation('Availability', 'A guest is to be booted from an image without a state');
    }
    this.#checker.guestIsGone();
    if (!hasWitness && !this.#hasNewestImage(host)) {
      throw new KnownGap(
        `boots an old image: the guest has run on the peer, which is ${answer.result}`,
      );
    }
    this.#boots += 1;
    this.#served = host;
    this.#checker.boots(host.side, host.images);
    this.#clients.begin();
  }

  #bootedBeside(peer: SimHost, { result, blind: by }: Answer): Error {
    const what = `boots beside a peer that ${peer.serves ? 'serves' : 'holds'}`;
    const blind = result === 'silent' || result === 'unreachable';
    if (blind && by === 'stop') return new KnownLimit(`${what}: stopped node without witness`);
    if (blind && by === 'partition') return new KnownLimit(`${what}: partition without witness`);
    return new Violation('I4', `The configured primary ${what} and is ${result}`);
  }

  #progress(): string {
    const { a, b } = this.#hosts;
    const before = [...this.#clients.totals];
    const done = (): number => a.checkpointsDone + b.checkpointsDone;
    const checkpoints = done();
    const served = (): boolean =>
      this.#clients.totals.every(
        (answers, client) => answers >= (before[client] ?? 0) + PROGRESS_ANSWERS,
      );
    const pairStands = (): boolean => {
      const primary = this.#primaries.find(({ core }) => core.isProtected);
      const waits = primary?.operatorWaits === true || this.#secondary?.operatorWaits === true;
      return primary !== undefined && done() >= checkpoints + 2 && !waits;
    };
    const reached = (): boolean => served() && pairStands();
    let nextLookUs = 0;
    this.world.run(this.world.nowUs + PROGRESS_US, () => {
      this.#look();
      if (this.world.nowUs < nextLookUs) return false;
      nextLookUs = this.world.nowUs + 10_000;
      this.#faults.operatorLooks();
      return reached();
    });
    if (reached()) return 'a protected pair';
    const states = SIDES.map((side) => {
      const { alive, role, joins } = this.#hosts[side];
      const name = role instanceof SimPrimary ? 'primary' : joins ? 'joining' : 'secondary';
      return `${side} is ${alive ? `${name} ${JSON.stringify(role?.core.state)}` : 'dead'}`;
    });
    throw new Violation('Progress', `None in ${PROGRESS_US / 1e6} s: ${states.join(', ')}`);
  }

  summarise(result: RunResult): void {
    const coverage = this.#coverage;
    const names = { ok: 'Runs end with', 'known limit': 'Runs end at a known limit' } as const;
    if (result.verdict === 'known gap') coverage.count('Runs end at a known gap', result.detail);
    else if (result.verdict !== 'failed') coverage.count(names[result.verdict], result.detail);
    const { a, b } = this.#hosts;
    const { promotions } = this.#checker;
    coverage.count('Failovers in a run', promotions > 5 ? 'more' : String(promotions));
    coverage.count('Totals', 'checkpoints', a.checkpointsDone + b.checkpointsDone);
    coverage.count('Totals', 'promotions', promotions);
    coverage.count('Totals', 'promotions of a running SVM', this.#checker.promotionsOfRunning);
    coverage.count('Totals', 'starts of the guest', this.#boots);
    if (this.#options.alone && this.#faults.first !== undefined) {
      coverage.count('Totals', 'single faults in a healthy pair');
    }
    coverage.count('Totals', 'answers to clients', this.#clients.answered);
    coverage.count('Runs begin in mode', this.#options.policy.mode);
    for (const side of SIDES) {
      for (const [what, count] of Object.entries(this.#hosts[side].outputTotals)) {
        coverage.count('Output', what, count);
      }
    }
  }
}

/**
 * What time-out, apply and promotion add up to at most: a clock that runs slow, silence that is
 * counted in whole ticks, every step at its slowest.
 */
function promotionWithinUs({ hosts, network, witness }: RunOptions): number {
  const most = (of: (host: HostOptions) => number): number => Math.max(of(hosts.a), of(hosts.b));
  const silenceUs = 1.05 * most((host) => host.peerTimeoutUs) + 4 * hosts.a.heartbeatUs;
  const workUs = 16 * 50 * most((host) => host.stepUs);
  // A speaker that was insured, on a bad link or soon after its start: its grant has to expire.
  const witnessUs = witness === undefined ? 0 : witness.ttlUs + 2 * witness.timeoutUs + 2_000_000;
  return silenceUs + workUs + network.probeTimeoutUs + 8 * network.jitterUs + witnessUs;
}
