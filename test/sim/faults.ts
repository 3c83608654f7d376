/**
 * Does to the pair what the options of a run have planned, and undoes it at the end of phase 1.
 */
import type { Prng } from '../../src/lib/index.js';
import type { Checker, Disturbance } from './checker.js';
import type { Coverage } from './coverage.js';
import type { SimHost } from './host.js';
import { type Network, otherSide, RETRANSMIT_MAX_US, SIDES, type Side } from './network.js';
import {
  type Fault,
  HARMLESS,
  type PlannedFault,
  type RunOptions,
  type Who,
  type WITNESS_KINDS,
} from './options.js';
import type { SimWitness } from './witness.js';
import type { World } from './world.js';

/** How often a pair that is not healthy yet is looked at. */
const LOOK_US = 20_000;

export interface Victims {
  readonly world: World;
  readonly network: Network;
  readonly witness: SimWitness | undefined;
  readonly hosts: Readonly<Record<Side, SimHost>>;
  readonly checker: Checker;
  readonly coverage: Coverage;
}

export class FaultInjector {
  readonly #victims: Victims;
  readonly #options: RunOptions;
  readonly #rng: Prng;
  readonly #steps = new Map<PlannedFault, number>();
  readonly #waiting: Set<PlannedFault>;
  readonly #ongoing = new Map<Disturbance, number>();
  readonly #endedAtUs = new Map<Disturbance, number>();
  #over = false;
  /** The guest powered itself off. */
  guestOff = false;
  /** What has struck so far and could end a session. */
  struck = 0;
  /** The first fault that struck, and when. */
  first: { readonly fault: Fault; readonly side: Side; readonly atUs: number } | undefined;

  constructor(victims: Victims, options: RunOptions) {
    this.#victims = victims;
    this.#options = options;
    this.#rng = victims.world.stream();
    this.#waiting = new Set(options.faults);
    for (const planned of options.faults) {
      const { moment, fault } = planned;
      if ('step' in moment) continue;
      this.#waiting.delete(planned);
      if ('atUs' in moment) victims.world.schedule(moment.atUs, () => this.#strike(fault));
      else this.#strikeHealthy(fault, moment.healthyUs);
    }
  }

  #strikeHealthy(fault: Fault, afterUs: number): void {
    const { world } = this.#victims;
    const speech = this.#primary.speech;
    const { primary } = this.#primary;
    const isHealthy = primary?.core.isProtected === true && speech?.isHealthy === true;
    if (isHealthy) world.schedule(afterUs, () => this.#strike(fault));
    else if (world.nowUs < this.#options.troubleUs / 3) {
      world.schedule(LOOK_US, () => this.#strikeHealthy(fault, afterUs));
    }
  }

  get ongoing(): Disturbance[] {
    return [...this.#ongoing].filter(([, count]) => count > 0).map(([kind]) => kind);
  }

  /** The kind is in effect, or was so lately that a time-out may count its silence. */
  recently(kind: Disturbance): boolean {
    if ((this.#ongoing.get(kind) ?? 0) > 0) return true;
    const endedAtUs = this.#endedAtUs.get(kind);
    if (endedAtUs === undefined) return false;
    const { a, b } = this.#options.hosts;
    const countsUs = 2.5 * Math.max(a.peerTimeoutUs, b.peerTimeoutUs) + RETRANSMIT_MAX_US;
    return this.#victims.world.nowUs < endedAtUs + countsUs;
  }

  /** Who serves, or would. */
  get #primary(): SimHost {
    const { a, b } = this.#victims.hosts;
    return b.serves && !a.serves ? b : a;
  }

  get #secondary(): SimHost {
    return this.#victims.hosts[otherSide(this.#primary.side)];
  }

  #host(who: Who): SimHost {
    return who === 'primary' ? this.#primary : this.#secondary;
  }

  stepDone(step: string): void {
    const { world } = this.#victims;
    for (const planned of this.#waiting) {
      const { moment } = planned;
      if (!('step' in moment) || moment.step !== step || world.nowUs < moment.afterUs) continue;
      const count = (this.#steps.get(planned) ?? 0) + 1;
      this.#steps.set(planned, count);
      if (count < moment.count) continue;
      this.#waiting.delete(planned);
      world.schedule(moment.delayUs, () => this.#strike(planned.fault));
    }
  }

  /** End of phase 1: no more faults, and those that can be undone are. */
  heal(): void {
    const { world, network, hosts } = this.#victims;
    this.#over = true;
    world.trace('faults', () => 'PHASE 2: everything is healed');
    network.heal();
    network.slowUs = 0;
    network.weather = { delayUs: 0, lossPart: 0 };
    this.#victims.witness?.heal();
    for (const kind of this.#ongoing.keys()) this.#endedAtUs.set(kind, world.nowUs);
    this.#ongoing.clear();
    for (const side of SIDES) {
      this.#awaken(hosts[side]);
      this.#restart(hosts[side], 1);
    }
    this.operatorLooks();
  }

  /** A process has ended: systemd starts it again, or its operator does. */
  ended(host: SimHost): void {
    if (this.#over) this.#restart(host, 1_000);
    // Sometimes it takes until everything is healed.
    else if (this.#rng.chance(0.8)) {
      this.#restart(host, this.#rng.nextInt(5_000, this.#options.restartUs));
    }
  }

  #restart(host: SimHost, afterUs: number): void {
    this.#victims.world.schedule(afterUs, () => host.start());
  }

  /**
   * The operator ends a wait: the secondary takes over from a dead primary, and starts afresh for
   * one that runs on alone. No node can tell the two apart: one that rebooted says hello as well.
   */
  operatorLooks(): void {
    for (const side of SIDES) this.#looksAt(this.#victims.hosts[side]);
  }

  #looksAt(host: SimHost): void {
    const { secondary } = host;
    if (secondary?.core.state.kind !== 'waitingForOperator' || secondary.operatorWaits) return;
    const peer = this.#victims.hosts[otherSide(host.side)];
    if (peer.serves) {
      if (peer.primary?.left === true) return;
      this.#victims.coverage.count('Operator', 'restarts a secondary that waits beside a primary');
      host.leave();
      return;
    }
    this.#victims.coverage.count('Operator', 'ends a wait');
    for (const force of [false, true]) {
      secondary.deliver(() => {
        // Told that the state may be old, with nobody else left to serve, the operator insists.
        if (secondary.core.state.kind !== 'waitingForOperator') return;
        secondary.failover(force);
      });
    }
  }

  #strike(fault: Fault): void {
    if (this.#over) return;
    const { world, coverage } = this.#victims;
    world.trace('faults', () => `FAULT ${JSON.stringify(fault)}`);
    coverage.fault(fault, this.#primary.currentStep, this.#secondary.currentStep);
    if (!HARMLESS.has(fault.kind)) this.struck += 1;
    const side = 'side' in fault ? this.#host(fault.side).side : this.#primary.side;
    this.first ??= { fault, side, atUs: world.nowUs };
    this.#do(fault);
  }

  #do(fault: Fault): void {
    const { network, checker } = this.#victims;
    const { primary } = this.#primary;
    switch (fault.kind) {
      case 'kill':
      case 'power':
        this.#kill(this.#host(fault.side), fault.kind === 'power');
        return;
      case 'guestDies':
        if (fault.side === 'primary') primary?.guestEnds('handover');
        else this.#secondary.secondary?.guestEnds();
        return;
      case 'diskFails':
        primary?.diskFails();
        return;
      case 'guestOff':
        this.guestOff ||= primary !== undefined;
        primary?.guestEnds('guest-off');
        return;
      case 'leave':
        this.#host(fault.side).leave();
        return;
      case 'reset':
        checker.disturbed('reset');
        network.session?.reset();
        return;
      case 'partition':
        this.#partition(fault);
        return;
      case 'stop':
        this.#stop(fault);
        return;
      case 'slow':
        network.slowUs = fault.delayUs;
        this.#during('slow', fault.durationUs, () => {
          network.slowUs = 0;
        });
        return;
      case 'hang':
        this.#hang(this.#host(fault.side), fault.durationUs);
        return;
      case 'setPeriod':
        primary?.deliver(() => primary.input({ kind: 'periodChanged', period: fault.period }));
        return;
      case 'setMode':
        primary?.deliver(() => primary.input({ kind: 'modeChanged', mode: fault.mode }));
        return;
      case 'checkpoint':
        primary?.checkpoint();
        return;
      case 'failover':
        this.#failover(fault.force);
        return;
      default:
        this.#doWithWitness(fault);
    }
  }

  #doWithWitness(fault: Extract<Fault, { kind: (typeof WITNESS_KINDS)[number] }>): void {
    const { network, witness } = this.#victims;
    if (witness === undefined) return;
    switch (fault.kind) {
      case 'blackout':
        for (const side of SIDES) this.#kill(this.#victims.hosts[side], true);
        return;
      case 'witnessDown':
        witness.up = false;
        this.#during('witness', fault.durationUs, () => {
          witness.up = true;
        });
        return;
      case 'witnessCut': {
        const { side } = this.#host(fault.side);
        witness.cut(side, fault.ways, true);
        this.#during('witness', fault.durationUs, () => witness.cut(side, fault.ways, false));
        return;
      }
      case 'witnessLate':
        witness.late(fault.part);
        this.#during('witness', fault.durationUs, () => witness.late(0));
        return;
      case 'weather':
        network.weather = { delayUs: fault.delayUs, lossPart: fault.lossPart };
        this.#during('weather', fault.durationUs, () => {
          network.weather = { delayUs: 0, lossPart: 0 };
        });
        return;
      case 'lan': {
        const host = this.#host(fault.side);
        host.cutLan(true);
        this.#during('lan', fault.durationUs, () => host.cutLan(false));
        return;
      }
      case 'stall': {
        const host = this.#host(fault.side);
        if (!host.alive) return;
        host.stall(fault.thread);
        this.#during('stall', fault.durationUs, () => host.unstall(fault.thread));
        return;
      }
      case 'diskFull': {
        const host = this.#host(fault.side);
        host.diskFull = true;
        host.primary?.diskFails();
        this.#during('disk full', fault.durationUs, () => this.#makeRoom(host));
        return;
      }
    }
  }

  #makeRoom(host: SimHost): void {
    host.diskFull = false;
    host.primary?.diskFails(false);
  }

  #kill(host: SimHost, power: boolean): void {
    if (power) host.powered = false;
    host.die();
  }

  #partition(fault: Extract<Fault, { kind: 'partition' }>): void {
    const { network } = this.#victims;
    if (fault.from !== 'secondary') network.cutFrom[this.#primary.side] = true;
    if (fault.from !== 'primary') network.cutFrom[this.#secondary.side] = true;
    this.#during('partition', fault.durationUs, () => network.heal());
  }

  #stop(fault: Extract<Fault, { kind: 'stop' }>): void {
    const host = this.#host(fault.side);
    if (!host.alive || host.stopped) return;
    host.stop();
    if (fault.host) host.freezeGuest(true);
    this.#during('stop', fault.durationUs, () => this.#awaken(host));
  }

  #hang(host: SimHost, durationUs: number): void {
    host.hung = true;
    this.#during('hang', durationUs, () => {
      host.hung = false;
    });
  }

  #awaken(host: SimHost): void {
    host.hung = false;
    if (this.#over) {
      host.cutLan(false);
      this.#makeRoom(host);
      host.unstall('main');
      host.unstall('guard');
    }
    host.freezeGuest(false);
    host.goOn();
  }

  /** A careful operator: a waiting secondary is promoted only when the primary is dead. */
  #failover(force: boolean): void {
    const { secondary } = this.#secondary;
    if (secondary?.core.state.kind === 'waitingForOperator' && this.#primary.serves) return;
    secondary?.failover(force);
  }

  #during(kind: Disturbance, durationUs: number, undo: () => void): void {
    const { world, checker } = this.#victims;
    checker.disturbed(kind);
    this.#ongoing.set(kind, (this.#ongoing.get(kind) ?? 0) + 1);
    world.schedule(durationUs, () => {
      if (this.#over) return;
      world.trace('faults', () => `END of ${kind}`);
      this.#ongoing.set(kind, (this.#ongoing.get(kind) ?? 0) - 1);
      this.#endedAtUs.set(kind, world.nowUs);
      undo();
    });
  }
}
