/**
 * The primary's state machine: when to synchronise, when to checkpoint, what may be released.
 *
 * In: what the link, the emulator, the operator and the clock report. Out: instructions for the
 * node's shell, to be carried out in order. The transaction is that of DESIGN section 3:
 *
 *   running -> presending -> capturing -> committing -> applying -> running
 *
 * While `committing` and `applying` the guest already runs the next epoch. Output of epoch N is
 * released by exactly two things: the secondary's `committed N` (I1), or the loss of the secondary,
 * after which the primary runs on alone and nothing is held. A lost link alone releases nothing:
 * the failure detector must say that the peer is lost, or alive without us.
 *
 * In mode colo the end record of a checkpoint tells the secondary to let the SVM execute; once it
 * has been applied, the shell is told to compare (`startCompare`) and releases what both guests say.
 * What a comparison asks for concerns the epoch that it was made in and is void in the next.
 *
 * Before its first commit a session protects nothing: the guest's output is not held until the
 * first capture, and the secondary is not allowed to take over from it.
 *
 * With a witness a loss alone releases nothing either: from `protecting` on a secondary may hold a
 * state, and what is held stays held until the witness says that nobody else goes on from it
 * (`granted`), or until the next secondary has committed it. Who starts this core has that right.
 */
import { FailureDetector } from '../failover/index.js';
import { assert, type Core } from '../lib/index.js';
import type { GoodbyeKind } from '../replication/index.js';
import { CheckpointPace } from './checkpoint-pace.js';
import { HoldLimit } from './hold-limit.js';
import { REFUSED_RETRY_US, STOP_TIMEOUT_US } from './limits.js';
import { Parting } from './parting.js';
import type { PrimaryInput, PrimaryOutput } from './primary-instructions.js';
import {
  nextPresend,
  nextSync,
  type PrimaryOptions,
  type PrimaryPhase,
  type PrimarySession,
  type PrimaryState,
  type RequestedTrigger,
  type Trigger,
} from './primary-state.js';

export type { PrimaryInput, PrimaryOutput } from './primary-instructions.js';
export type { PrimaryOptions, PrimaryState, Trigger } from './primary-state.js';

const SILENCE: PrimaryOutput = { kind: 'silence' };
const FIRST_PHASE: PrimaryPhase = { kind: 'synchronising', round: 1 };

/** The pure core of the primary node; `epoch` is the one that the guest runs now. */
export class PrimaryCore implements Core<PrimaryInput, PrimaryOutput> {
  readonly #options: PrimaryOptions;
  readonly #detector: FailureDetector;
  #state: PrimaryState = { kind: 'alone', retryAtUs: 0, reason: 'Started' };
  readonly #pace: CheckpointPace;
  readonly #hold: HoldLimit;
  /** The guest is to go on at the peer after the next checkpoint, and this is what it is told. */
  #handover: 'yielded' | 'goodbye' | undefined;
  /** The node is to end after that, or without it at `byUs`. */
  #leaving: { readonly reason: string; readonly byUs: number } | undefined;
  /** The secondary is to be told so, and waited for. */
  #parting: Parting | undefined;
  #isDetached = false;
  #epoch: number;
  #resumedAtUs = 0;
  #heartbeatAtUs = 0;
  /** A trigger that came while a transaction was under way or too early. */
  #pending: RequestedTrigger | undefined;
  /** The epoch that was released while the session was interrupted. */
  #releasedMeanwhile: number | undefined;
  /** What the last captured end record says. */
  #svmRuns = false;
  /** No other node has a state that it may go on from. */
  #mayRunAlone = true;

  constructor(options: PrimaryOptions) {
    this.#options = options;
    this.#pace = new CheckpointPace(options);
    this.#hold = new HoldLimit(options);
    this.#epoch = options.firstEpoch;
    this.#detector = new FailureDetector({
      peerTimeoutUs: options.peerTimeoutUs,
      tickUs: options.heartbeatUs,
    });
  }

  get state(): PrimaryState {
    return this.#state;
  }

  get epoch(): number {
    return this.#epoch;
  }

  get pace(): Readonly<Pick<CheckpointPace, 'mode' | 'periodUs' | 'setting'>> {
    return this.#pace;
  }

  get peerHeardAtUs(): number | undefined {
    return this.#detector.heardAtUs;
  }

  /** The guest is to go on at the peer: too late for anything else. */
  get isHandingOver(): boolean {
    return this.#handover !== undefined || this.#leaving !== undefined;
  }

  /** No secondary is looked for. */
  get isDetached(): boolean {
    return this.#isDetached;
  }

  get peerSuspected(): boolean {
    return this.#detector.suspected;
  }

  /** True while a failover would lose nothing that the clients have seen. */
  get isProtected(): boolean {
    return this.#state.kind === 'session' && this.#state.committed && !this.#detector.suspected;
  }

  deadlineUs(): number | undefined {
    const state = this.#state;
    switch (state.kind) {
      case 'alone':
        return state.retryAtUs;
      case 'connecting':
      case 'left':
        return undefined;
      case 'session':
        return Math.min(
          this.#heartbeatAtUs,
          this.#leaving?.byUs ?? Number.POSITIVE_INFINITY,
          this.#parting?.byUs ?? Number.POSITIVE_INFINITY,
          this.#detector.deadlineUs() ?? Number.POSITIVE_INFINITY,
          this.#phaseDeadlineUs(state.phase),
        );
    }
  }

  step(input: PrimaryInput, nowUs: number): PrimaryOutput[] {
    if (this.#state.kind === 'left') return [];
    switch (input.kind) {
      case 'tick':
        return this.#tick(nowUs);
      case 'peerConnected':
        return this.#connected(nowUs);
      case 'peerRefused':
        return this.#state.kind === 'connecting' ? this.#refused(input, nowUs) : [];
      case 'linkLost':
      case 'interrupted':
      case 'probed':
        return this.#link(input, nowUs);
      case 'resumed':
        return this.#resumed(nowUs);
      case 'heard':
        this.#detector.heard(nowUs, input.isDeaf);
        return [];
      case 'syncRound':
        return this.#syncRound(input.remainingBytes, nowUs);
      case 'presendRound':
        return this.#presendRound(input.pages, nowUs);
      case 'captured':
        return this.#captured(input.epoch, input.atUs, nowUs);
      case 'captureFailed':
        return this.#dismiss(input.reason);
      case 'peerUnfit':
        return this.#unfit(input.reason, nowUs);
      case 'granted':
        return this.#granted();
      case 'fenced':
        return this.#demote([SILENCE], input.reason);
      case 'committed':
        return this.#committed(input.epoch);
      case 'released':
        return this.#released(input.epoch);
      case 'applied':
        return this.#applied(input.epoch, nowUs);
      case 'checkpointRequested':
        if (input.epoch !== undefined && input.epoch < this.#epoch) return [];
        return this.#requested(input.trigger, nowUs);
      case 'periodChanged':
        this.#pace.setting = input.period;
        return this.#maybeBegin(nowUs);
      case 'modeChanged':
        if (input.mode === this.#pace.mode) return [];
        this.#pace.mode = input.mode;
        return this.#state.kind === 'session' ? this.#requested('mode', nowUs) : [];
      case 'takeoverRequested':
        return this.#switchOver('yielded', nowUs);
      case 'switchoverRequested':
        return this.#switchOver('goodbye', nowUs);
      case 'guestEnded':
        return this.#guestEnded(input.goodbye, input.reason);
      case 'partingRequested':
        return this.#part(input.goodbye, nowUs);
      case 'attachRequested':
        this.#isDetached = false;
        if (this.#state.kind === 'alone') this.#enterAlone(nowUs, this.#state.reason);
        return [];
      case 'stopRequested':
        return this.#stop(input.reason, nowUs);
      case 'diskFailed':
        // The secondary's disk is whole. Without one, a guest that waits is better than none.
        return this.isProtected ? this.#end('handover', input.reason, 1) : [];
    }
  }

  #phaseDeadlineUs(phase: PrimaryPhase): number {
    // Nothing begins until the detector has judged: no tick would help.
    const begins = phase.kind === 'running' && this.#mayBegin && !this.#detector.suspected;
    if (begins) return this.#beginAtUs();
    return this.#mayOverrun ? this.#hold.dueUs : Number.POSITIVE_INFINITY;
  }

  /** With a witness nobody needs to know first what has become of a peer that is suspected. */
  get #mayOverrun(): boolean {
    return this.#options.hasWitness || !this.#detector.suspected;
  }

  /** When the next transaction may begin: at its period, or as early as a trigger is allowed to. */
  #beginAtUs(): number {
    const waitUs = this.#pending === undefined ? this.#pace.periodUs : this.#options.minIntervalUs;
    return this.#resumedAtUs + waitUs;
  }

  #tick(nowUs: number): PrimaryOutput[] {
    const state = this.#state;
    if (state.kind === 'alone' && nowUs >= (state.retryAtUs ?? Number.POSITIVE_INFINITY)) {
      this.#state = { kind: 'connecting' };
      return [{ kind: 'connect' }];
    }
    if (state.kind !== 'session') return [];
    if (this.#leaving !== undefined && nowUs >= this.#leaving.byUs) {
      return this.#end('handover', this.#leaving.reason, 0);
    }
    if (this.#parting !== undefined && nowUs >= this.#parting.byUs) {
      this.#parting.byUs = Number.POSITIVE_INFINITY;
      return this.#dismiss('The secondary did not answer the goodbye');
    }
    const verdict = this.#detector.tick(nowUs);
    if (verdict?.kind === 'lost') {
      return this.#alone(`Secondary lost: ${verdict.reason}`, nowUs, verdict.proof);
    }
    const outputs: PrimaryOutput[] = verdict?.kind === 'probe' ? [{ kind: 'probe' }] : [];
    if (nowUs >= this.#heartbeatAtUs) {
      this.#heartbeatAtUs = nowUs + this.#options.heartbeatUs;
      const { isOver, hears } = this.#detector;
      if (!isOver) outputs.push({ kind: 'heartbeat', hears });
    }
    if (this.#hold.isOverdue(nowUs) && this.#mayOverrun) return this.#overran(nowUs);
    return [...outputs, ...this.#maybeBegin(nowUs)];
  }

  #connected(nowUs: number): PrimaryOutput[] {
    if (this.#state.kind !== 'connecting') return [];
    this.#detector.start(nowUs);
    this.#heartbeatAtUs = nowUs;
    this.#state = { kind: 'session', committed: false, shared: false, phase: FIRST_PHASE };
    if (this.#isDetached) return this.#part('detach', nowUs);
    return [{ kind: 'syncRound', epoch: this.#epoch, first: true }];
  }

  #link(
    input: Extract<PrimaryInput, { kind: 'linkLost' | 'interrupted' | 'probed' }>,
    nowUs: number,
  ): PrimaryOutput[] {
    if (this.#state.kind !== 'session') return [];
    const verdict = this.#detector.told(input);
    switch (verdict?.kind) {
      case undefined:
        return [];
      case 'probe':
      case 'renew':
        return [verdict];
      case 'superseded':
        // It was stopped for a while, and the secondary has taken over.
        return this.#demote([SILENCE], verdict.reason);
      case 'lost':
        return this.#alone(`Secondary lost: ${verdict.reason}`, nowUs, verdict.proof);
      case 'abandoned':
        return this.#alone(`Secondary abandoned: ${verdict.reason}`, nowUs);
    }
  }

  /** The secondary has let go of what it held. */
  #unfit(reason: string, nowUs: number): PrimaryOutput[] {
    if (this.#state.kind !== 'session') return [];
    return this.#alone(this.#parting?.said === true ? this.#parting.reason : reason, nowUs);
  }

  /** What had to wait while the peer was in doubt. */
  #resumed(nowUs: number): PrimaryOutput[] {
    if (this.#state.kind !== 'session' || !this.#detector.interrupted) return [];
    this.#detector.resumed();
    const epoch = this.#releasedMeanwhile;
    this.#releasedMeanwhile = undefined;
    return [...(epoch === undefined ? [] : this.#released(epoch)), ...this.#maybeBegin(nowUs)];
  }

  #syncRound(remainingBytes: number, nowUs: number): PrimaryOutput[] {
    const phase = this.#phase();
    if (phase?.kind !== 'synchronising') return [];
    const next = nextSync(phase, remainingBytes);
    if (next === undefined) return this.#enterPresending('sync', nowUs);
    this.#setPhase(next);
    return [{ kind: 'syncRound', epoch: this.#epoch, first: false }];
  }

  #maybeBegin(nowUs: number): PrimaryOutput[] {
    if (this.#phase()?.kind !== 'running' || this.#detector.suspected) return [];
    if (!this.#mayBegin || nowUs < this.#beginAtUs()) return [];
    const trigger = this.#pending ?? 'period';
    this.#pending = undefined;
    return this.#enterPresending(trigger, nowUs);
  }

  #enterPresending(trigger: Trigger, nowUs: number): PrimaryOutput[] {
    // Before its first end record a session holds nothing.
    if (trigger !== 'sync') this.#hold.begin(nowUs);
    this.#setPhase({ kind: 'presending', trigger, round: 1, pages: Number.POSITIVE_INFINITY });
    return [{ kind: 'presendRound', epoch: this.#epoch }];
  }

  #presendRound(pages: number, nowUs: number): PrimaryOutput[] {
    const phase = this.#phase();
    if (phase?.kind !== 'presending') return [];
    const next = nextPresend(phase, pages);
    if (next === undefined) {
      this.#hold.pause(nowUs);
      this.#setPhase({ kind: 'capturing', trigger: phase.trigger });
      const { trigger } = phase;
      // What the PVM says of the last epoch is dropped: the SVM must say all of it, later.
      this.#svmRuns = this.#pace.mode === 'colo' && this.#handover === undefined;
      const capture = { epoch: this.#epoch, trigger, svmRuns: this.#svmRuns };
      return [...this.#protecting(), { kind: 'capture', ...capture }];
    }
    this.#setPhase(next);
    return [{ kind: 'presendRound', epoch: this.#epoch }];
  }

  /** Once a session, before its first end record. */
  #protecting(): PrimaryOutput[] {
    if (!this.#options.hasWitness || this.#state.kind !== 'session') return [];
    if (this.#state.shared) return [];
    this.#state = { ...this.#state, shared: true };
    this.#mayRunAlone = false;
    return [{ kind: 'protecting' }];
  }

  #granted(): PrimaryOutput[] {
    // What comes after `protecting` was asked for before it.
    const isShared = this.#state.kind === 'session' && this.#state.shared;
    if (isShared || this.#mayRunAlone) return [];
    this.#mayRunAlone = true;
    // A session that begins is not disturbed: it ends in a commit, which releases, or in a loss.
    return this.#state.kind === 'alone' ? [{ kind: 'open' }] : [];
  }

  #captured(epoch: number, atUs: number, nowUs: number): PrimaryOutput[] {
    const phase = this.#phase();
    // Of a session that ended while the guest was paused.
    if (phase?.kind !== 'capturing' || epoch !== this.#epoch) return [];
    this.#epoch += 1;
    this.#resumedAtUs = atUs;
    // What was asked about the epoch that has ended is answered by this checkpoint.
    const lasts = this.#pending === 'operator' || this.#pending === 'mode';
    if (!lasts && this.#pending !== 'switchover') this.#pending = undefined;
    this.#pace.checkpointed(phase.trigger === 'divergence' || phase.trigger === 'timeout');
    this.#hold.goOn(nowUs);
    this.#setPhase({ kind: 'committing', trigger: phase.trigger });
    return [];
  }

  #committed(epoch: number): PrimaryOutput[] {
    const phase = this.#phase();
    if (phase === undefined) return [];
    if (phase.kind !== 'committing' || epoch !== this.#epoch - 1) {
      return this.#dismiss(`Secondary committed epoch ${epoch} out of turn`);
    }
    this.#setPhase({ kind: 'applying' });
    this.#state = { ...this.#session(), committed: true };
    return [
      { kind: 'release', epoch },
      { kind: 'checkpointDone', epoch, trigger: phase.trigger },
    ];
  }

  /** The last checkpoint's output has left: all that the clients will ever hear from here. */
  #released(epoch: number): PrimaryOutput[] {
    if (!this.#isLast || this.#state.kind !== 'session' || epoch !== this.#epoch - 1) return [];
    if (this.#detector.suspected) {
      this.#releasedMeanwhile = epoch;
      return [];
    }
    const reason = this.#leaving?.reason ?? 'The guest goes on at the peer, as asked';
    const said: PrimaryOutput =
      this.#handover === 'yielded'
        ? { kind: 'sendYielded' }
        : { kind: 'sendGoodbye', goodbye: 'handover', reason };
    if (this.#leaving === undefined) return this.#demote([SILENCE, said], reason);
    const outputs: PrimaryOutput[] = [SILENCE, said, { kind: 'checkpointFailed', reason }];
    return this.#leave(outputs, { kind: 'exit', code: 0, reason });
  }

  /** The guest goes on at the peer without loss, if that is soon; asked again, at once. */
  #stop(reason: string, nowUs: number): PrimaryOutput[] {
    if (!this.isProtected || this.#leaving !== undefined) return this.#end('handover', reason, 0);
    this.#leaving = { reason, byUs: nowUs + STOP_TIMEOUT_US };
    return this.#switchOver('goodbye', nowUs);
  }

  /** Another transaction would make sense. */
  get #mayBegin(): boolean {
    return !this.#isOver && this.#parting === undefined;
  }

  /** The last checkpoint was taken: there is nothing to do but to leave once it is released. */
  get #isOver(): boolean {
    return this.#isLast && this.#pending !== 'switchover';
  }

  /** A switch-over was asked for in time for the last capture. */
  get #isLast(): boolean {
    return this.#handover !== undefined && !this.#svmRuns;
  }

  /**
   * Nothing is lost: a last checkpoint, its output is released, and the SVM executes what comes
   * after it from the beginning, on the input that was mirrored.
   */
  #switchOver(told: 'yielded' | 'goodbye', nowUs: number): PrimaryOutput[] {
    if (this.#state.kind !== 'session') return [];
    if (this.#parting !== undefined) {
      return [{ kind: 'checkpointFailed', reason: this.#parting.reason }];
    }
    this.#handover = told;
    return this.#requested('switchover', nowUs);
  }

  #applied(epoch: number, nowUs: number): PrimaryOutput[] {
    const phase = this.#phase();
    if (phase === undefined) return [];
    if (phase.kind !== 'applying' || epoch !== this.#epoch - 1) {
      return this.#dismiss(`Secondary applied epoch ${epoch} out of turn`);
    }
    this.#hold.end();
    this.#setPhase({ kind: 'running' });
    if (this.#parting !== undefined) return this.#sayParting();
    const compare: PrimaryOutput[] = this.#svmRuns
      ? [{ kind: 'startCompare', epoch: this.#epoch }]
      : [];
    return [...compare, ...this.#maybeBegin(nowUs)];
  }

  #requested(trigger: RequestedTrigger, nowUs: number): PrimaryOutput[] {
    if (this.#state.kind !== 'session') {
      return trigger === 'operator'
        ? [{ kind: 'checkpointFailed', reason: 'No secondary is connected' }]
        : [];
    }
    // An operator waits for an answer, and a comparison's reason is told before a bound's.
    const first = trigger === 'operator' && this.#pending !== 'switchover';
    if (first || trigger === 'switchover' || this.#pending === undefined) this.#pending = trigger;
    return this.#maybeBegin(nowUs);
  }

  /**
   * Ends a session of our own accord. The secondary may hold a state that it could take over from,
   * so that nothing leaves before it has let go, or is lost: the probes will tell.
   */
  #dismiss(reason: string): PrimaryOutput[] {
    if (this.#state.kind !== 'session') return [];
    const verdict = this.#detector.linkLost(reason);
    return verdict === undefined ? [] : [{ kind: 'endSession' }, { kind: 'probe' }];
  }

  /**
   * Clients have waited long enough for a secondary that lives. With a witness its end of the
   * session needs not be waited for, too: whoever asks first has the guest.
   */
  #overran(nowUs: number): PrimaryOutput[] {
    const reason = this.#hold.overran(this.#epoch, nowUs);
    return this.#options.hasWitness ? this.#alone(reason, nowUs) : this.#dismiss(reason);
  }

  #refused(
    { reason, needsOperator }: Extract<PrimaryInput, { kind: 'peerRefused' }>,
    nowUs: number,
  ): PrimaryOutput[] {
    const outputs = this.#alone(reason, nowUs);
    if (needsOperator === true) this.#enterAlone(nowUs + REFUSED_RETRY_US, reason);
    return outputs;
  }

  /**
   * The session is over and the peer can't or won't take over: everything held may go, once the
   * witness agrees.
   */
  #alone(reason: string, nowUs: number, proof = false): PrimaryOutput[] {
    if (this.#leaving !== undefined) return this.#end('handover', this.#leaving.reason, 0);
    this.#detector.stop();
    this.#pending = undefined;
    this.#handover = undefined;
    this.#releasedMeanwhile = undefined;
    // Parts of the running epoch, and of the next, may have been sent: no later session uses them.
    this.#epoch += 2;
    this.#enterAlone(nowUs + this.#hold.over(), reason);
    const over: PrimaryOutput = this.#mayRunAlone
      ? { kind: 'runAlone', reason }
      : { kind: 'askAlone', proof, reason };
    return [over, { kind: 'checkpointFailed', reason }, ...this.#parted()];
  }

  #enterAlone(retryAtUs: number, reason: string): void {
    this.#state = { kind: 'alone', retryAtUs: this.#isDetached ? undefined : retryAtUs, reason };
  }

  /** A checkpoint that is under way is finished first; the guest never stops for it. */
  #part(goodbye: 'detach' | 'stop', nowUs: number): PrimaryOutput[] {
    if (this.isHandingOver) return [];
    this.#isDetached ||= goodbye === 'detach';
    switch (this.#state.kind) {
      case 'session':
        this.#parting = new Parting(goodbye, nowUs);
        return this.#sayParting();
      case 'alone':
        this.#enterAlone(nowUs, this.#state.reason);
        return [{ kind: 'parted' }];
      case 'connecting':
      case 'left':
        return [];
    }
  }

  /** The secondary answers that it is unfit, and then it holds nothing any more. */
  #sayParting(): PrimaryOutput[] {
    const phase = this.#phase()?.kind;
    const isCalm = phase === 'running' || phase === 'synchronising';
    return isCalm ? (this.#parting?.say() ?? []) : [];
  }

  /** Who asked for it, if anybody, is answered. */
  #parted(): PrimaryOutput[] {
    const wasAsked = this.#parting !== undefined || this.#isDetached;
    this.#parting = undefined;
    return wasAsked ? [{ kind: 'parted' }] : [];
  }

  /** A guest that powered itself off stays off. One that died lives on where its state is held. */
  #guestEnded(goodbye: GoodbyeKind, reason: string): PrimaryOutput[] {
    const isHeld = this.#state.kind === 'session' && this.#state.committed;
    if (goodbye === 'handover' && isHeld) {
      return this.#demote([SILENCE, { kind: 'sendGoodbye', goodbye, reason }], reason);
    }
    return this.#end(goodbye, reason, goodbye === 'guest-off' ? 0 : 1);
  }

  #end(goodbye: GoodbyeKind, reason: string, code: number): PrimaryOutput[] {
    const outputs: PrimaryOutput[] = [SILENCE];
    if (this.#state.kind === 'session') {
      outputs.push({ kind: 'sendGoodbye', goodbye, reason });
    }
    return this.#leave([...outputs, { kind: 'checkpointFailed', reason }], {
      kind: 'exit',
      code,
      reason,
    });
  }

  #demote(outputs: PrimaryOutput[], reason: string): PrimaryOutput[] {
    return this.#leave([...outputs, { kind: 'checkpointFailed', reason }], {
      kind: 'demote',
      reason,
    });
  }

  #leave(
    outputs: PrimaryOutput[],
    end: Extract<PrimaryOutput, { kind: 'exit' | 'demote' }>,
  ): PrimaryOutput[] {
    this.#detector.stop();
    this.#state = { kind: 'left', reason: end.reason };
    return [...outputs, ...this.#parted(), end];
  }

  #phase(): PrimaryPhase | undefined {
    return this.#state.kind === 'session' ? this.#state.phase : undefined;
  }

  #setPhase(phase: PrimaryPhase): void {
    this.#state = { ...this.#session(), phase };
  }

  #session(): PrimarySession {
    assert(this.#state.kind === 'session', `A session is needed in state ${this.#state.kind}`);
    return this.#state;
  }
}
