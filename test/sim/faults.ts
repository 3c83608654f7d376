/**
 * Does to the pair what the options of a run have planned, and undoes it at the end of phase 1.
 */
import type { Checker, Disturbance } from './checker.js';
import type { Coverage } from './coverage.js';
import type { Network, Side } from './network.js';
import type { Fault, PlannedFault, RunOptions } from './options.js';
import type { SimPrimary } from './sim-primary.js';
import type { SimSecondary } from './sim-secondary.js';
import type { World } from './world.js';

/** They end no session. */
const HARMLESS: ReadonlySet<Fault['kind']> = new Set(['checkpoint', 'setPeriod', 'setMode']);

export interface Victims {
  readonly world: World;
  readonly network: Network;
  readonly primary: SimPrimary;
  readonly secondary: SimSecondary;
  readonly checker: Checker;
  readonly coverage: Coverage;
}

export class FaultInjector {
  readonly #victims: Victims;
  readonly #options: RunOptions;
  readonly #steps = new Map<string, number>();
  readonly #waiting: Set<PlannedFault>;
  readonly #ongoing = new Map<Disturbance, number>();
  #over = false;
  /** The guest powered itself off, or an operator stopped both: no service is the right service. */
  guestOff = false;
  /** What has struck so far and could end a session. */
  struck = 0;

  constructor(victims: Victims, options: RunOptions) {
    this.#victims = victims;
    this.#options = options;
    this.#waiting = new Set(options.faults);
    for (const planned of options.faults) {
      if (!('atUs' in planned.moment)) continue;
      this.#waiting.delete(planned);
      victims.world.schedule(planned.moment.atUs, () => this.#strike(planned.fault));
    }
  }

  get ongoing(): Disturbance[] {
    return [...this.#ongoing].filter(([, count]) => count > 0).map(([kind]) => kind);
  }

  stepDone(step: string): void {
    const count = (this.#steps.get(step) ?? 0) + 1;
    this.#steps.set(step, count);
    for (const planned of this.#waiting) {
      const { moment } = planned;
      if (!('step' in moment) || moment.step !== step || moment.count > count) continue;
      this.#waiting.delete(planned);
      this.#victims.world.schedule(moment.delayUs, () => this.#strike(planned.fault));
    }
  }

  /** End of phase 1: no more faults, and those that can be undone are. */
  heal(): void {
    const { world, network, primary, secondary } = this.#victims;
    this.#over = true;
    world.trace('faults', () => 'PHASE 2: everything is healed');
    network.heal();
    network.slowUs = 0;
    this.#ongoing.clear();
    for (const node of [primary, secondary]) this.#awaken(node);
    this.#restartSecondary(1);
    this.operatorLooks();
  }

  /**
   * The operator ends a wait: the secondary takes over from a dead primary, and starts afresh for
   * one that runs on alone. No node can tell the two apart: one that rebooted says hello as well.
   */
  operatorLooks(): void {
    const { primary, secondary } = this.#victims;
    if (secondary.core.state.kind !== 'waitingForOperator' || secondary.operatorWaits) return;
    if (primary.alive) {
      if (primary.left) return;
      secondary.deliver(() =>
        secondary.input({ kind: 'stopRequested', reason: 'The operator sees a live primary' }),
      );
      this.#restartSecondary(1);
      return;
    }
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
    const { world, coverage, primary, secondary } = this.#victims;
    world.trace('faults', () => `FAULT ${JSON.stringify(fault)}`);
    coverage.fault(fault, primary.currentStep, secondary.currentStep);
    if (!HARMLESS.has(fault.kind)) this.struck += 1;
    this.#do(fault);
  }

  #do(fault: Fault): void {
    const { network, primary, secondary, checker } = this.#victims;
    switch (fault.kind) {
      case 'kill':
      case 'power':
        this.#kill(fault.side, fault.kind === 'power');
        return;
      case 'guestDies':
        if (fault.side === 'primary') primary.guestEnds('handover');
        else secondary.guestEnds();
        return;
      case 'diskFails':
        primary.diskFails();
        return;
      case 'guestOff':
        this.guestOff ||= primary.alive;
        primary.guestEnds('guest-off');
        return;
      case 'leave': {
        const node = fault.side === 'primary' ? primary : secondary;
        node.deliver(() => node.input({ kind: 'stopRequested', reason: 'The operator stops it' }));
        if (fault.side === 'secondary') this.#restartSecondary(this.#options.restartUs);
        return;
      }
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
        this.#hang(fault);
        return;
      case 'setPeriod':
        primary.deliver(() => primary.input({ kind: 'periodChanged', period: fault.period }));
        return;
      case 'setMode':
        primary.deliver(() => primary.input({ kind: 'modeChanged', mode: fault.mode }));
        return;
      case 'checkpoint':
        primary.checkpoint();
        return;
      case 'failover':
        this.#failover(fault.force);
        return;
    }
  }

  #kill(side: Side, power: boolean): void {
    const { primary, secondary } = this.#victims;
    const node = side === 'primary' ? primary : secondary;
    if (power) node.powered = false;
    node.die();
    if (side === 'secondary') this.#restartSecondary(this.#options.restartUs);
  }

  /** By systemd, unless it was the one that ran the guest: then nothing is left to restart. */
  #restartSecondary(afterUs: number): void {
    const { world, secondary } = this.#victims;
    world.schedule(afterUs, () => {
      if (!secondary.alive && !secondary.ranGuest) secondary.restart();
    });
  }

  #partition(fault: Extract<Fault, { kind: 'partition' }>): void {
    const { network } = this.#victims;
    if (fault.from !== 'secondary') network.cutFrom.primary = true;
    if (fault.from !== 'primary') network.cutFrom.secondary = true;
    this.#during('partition', fault.durationUs, () => network.heal());
  }

  #stop(fault: Extract<Fault, { kind: 'stop' }>): void {
    const { primary, secondary } = this.#victims;
    const node = fault.side === 'primary' ? primary : secondary;
    if (!node.alive || node.stopped) return;
    node.stop();
    if (fault.host) node.freezeGuest(true);
    this.#during('stop', fault.durationUs, () => this.#awaken(node));
  }

  #hang(fault: Extract<Fault, { kind: 'hang' }>): void {
    const { primary, secondary } = this.#victims;
    const node = fault.side === 'primary' ? primary : secondary;
    node.hung = true;
    this.#during('hang', fault.durationUs, () => {
      node.hung = false;
    });
  }

  #awaken(node: SimPrimary | SimSecondary): void {
    node.hung = false;
    node.freezeGuest(false);
    node.goOn();
  }

  /** A careful operator: a waiting secondary is promoted only when the primary is dead. */
  #failover(force: boolean): void {
    const { primary, secondary } = this.#victims;
    if (secondary.core.state.kind === 'waitingForOperator' && primary.alive) return;
    secondary.failover(force);
  }

  #during(kind: Disturbance, durationUs: number, undo: () => void): void {
    const { world, checker } = this.#victims;
    checker.disturbed(kind);
    this.#ongoing.set(kind, (this.#ongoing.get(kind) ?? 0) + 1);
    world.schedule(durationUs, () => {
      if (this.#over) return;
      world.trace('faults', () => `END of ${kind}`);
      this.#ongoing.set(kind, (this.#ongoing.get(kind) ?? 0) - 1);
      undo();
    });
  }
}
