/**
 * The role of the node that runs the PVM: carries out what the core decides, and tells the core
 * what happened.
 *
 * Reading order: the constructor wires the parts, `#perform` has a line or two per instruction of the core,
 * the rest are the instructions that take more. Work on the guest's state (synchronising, pre-send,
 * capture) is strictly one after the other, also across sessions.
 */
import { setTimeout as delay } from 'node:timers/promises';
import {
  type CaptureOptions,
  type CommandResult,
  type Configuration,
  formatPeriod,
  type MigrateOptions,
  type MigrationControl,
  type Mode,
  type NodeLogger,
  type NodeStatus,
  type PeriodSetting,
  type RoleView,
  type VerifyAnswer,
  type VerifyOptions,
} from '../config/index.js';
import type { GuestEvent } from '../emulator/index.js';
import { DiskRetry, FaultSource, type Guest, type NodeRole, type RoleEnd } from '../guest/index.js';
import { describeError, ProtocolError } from '../lib/index.js';
import { monotonicUs } from '../linux/index.js';
import {
  type ControlMessage,
  CoreDriver,
  decodeControl,
  type EpochReserve,
  encodeControl,
  isDeaf,
  type Policy,
  type SpeechOffer,
  watchSession,
} from '../replication/index.js';
import {
  type AcceptDecision,
  type Frame,
  type ProbeAnswer,
  probePeer,
  type Session,
} from '../transport/index.js';
import { GuestLife } from './guest-life-shell.js';
import { listenToThreads } from './guest-threads.js';
import { HeldOutput } from './held-output-shell.js';
import { GOODBYE_TIMEOUT_MS, QEMU_EXIT_MS } from './limits.js';
import { type MetSecondary, meetSecondary } from './meet-secondary-shell.js';
import { PartingCommands } from './parting-commands-shell.js';
import {
  PrimaryCore,
  type PrimaryInput,
  type PrimaryOutput,
  type Trigger,
} from './primary-core.js';
import { NO_SECONDARY, NOT_COMPARED, NOT_MOVABLE, NOT_PROTECTED } from './primary-refusals.js';
import type { PrimaryRoleOptions } from './primary-role-options.js';
import { failoverOfPrimary, listenToSpeech } from './primary-speech-shell.js';
import { primaryStatus, primaryView } from './primary-status.js';
import { Replicator } from './replicator-shell.js';
import { CheckpointStatistics } from './statistics.js';
import { whyUnprotectable } from './unprotectable.js';
import { verifyDisks } from './verify-shell.js';

interface CurrentSession {
  readonly session: Session;
  readonly replicator: Replicator;
  /** Of the secondary's process. */
  readonly instance: Buffer;
  /** Null without a witness. */
  readonly speech: SpeechOffer | null;
}

/** Runs until the guest ends, lives on at the peer, or the operator stops the node. */
export class PrimaryRole implements NodeRole {
  readonly ended: Promise<RoleEnd>;
  readonly #options: PrimaryRoleOptions;
  readonly #configuration: Configuration;
  readonly #log: NodeLogger;
  readonly #pvm: Guest;
  readonly #reserve: EpochReserve;
  readonly #core: PrimaryCore;
  readonly #driver: CoreDriver<PrimaryInput, PrimaryOutput>;
  readonly #statistics = new CheckpointStatistics();
  readonly #startedAtUs = monotonicUs();
  readonly #diskRetry: DiskRetry;
  readonly #parting: PartingCommands;
  readonly #guestLife: GuestLife;
  #current: CurrentSession | undefined;
  #bytesSentBefore = 0;
  #lastFailure: string | null = null;
  #lastSync: NodeStatus['lastSync'] = null;
  #committedEpoch: number | null;
  #work: Promise<void> = Promise.resolve();
  readonly #held: HeldOutput;
  #silenced: Promise<void> = Promise.resolve();
  #protecting: Promise<void> = Promise.resolve();
  #checkpointWaiters: ((result: CommandResult) => void)[] = [];
  #finish: (end: RoleEnd) => void = () => undefined;
  #leaving = false;
  #connecting: Promise<void> = Promise.resolve();

  constructor(options: PrimaryRoleOptions) {
    const { configuration, log, guest: pvm, policy } = options;
    this.#options = options;
    this.#configuration = configuration;
    this.#log = log;
    this.#pvm = pvm;
    this.#reserve = options.reserve;
    this.#committedEpoch = options.continuedFrom ?? null;
    this.ended = new Promise((resolve) => {
      this.#finish = resolve;
    });
    this.#core = new PrimaryCore({
      mode: policy.mode,
      period: policy.period,
      minIntervalUs: policy.minIntervalUs,
      peerTimeoutUs: configuration.peerTimeoutUs,
      holdLimitUs: configuration.holdLimitUs,
      heartbeatUs: configuration.heartbeatIntervalUs,
      hasWitness: options.speech !== undefined,
      firstEpoch: options.firstEpoch,
    });
    this.#held = new HeldOutput({
      guest: pvm,
      onDiskFailed: (reason) => this.#diskFailed(reason),
      isLeaving: () => this.#leaving,
    });
    this.#diskRetry = new DiskRetry({ guest: pvm.emulator, log });
    this.#driver = new CoreDriver(
      this.#core,
      (output) => this.#perform(output),
      () => options.watch.stepped(),
    );
    const input = (what: PrimaryInput): void => this.#driver.input(what);
    this.#parting = new PartingCommands(this.#core, input, whyUnprotectable(options));
    listenToThreads(pvm, {
      input,
      onDiskFailed: (reason) => this.#diskFailed(reason),
      onThreadFailed: (name, error) => this.#threadFailed(name, error),
    });
    void pvm.emulator.exited.then(({ reason }) => {
      this.#driver.input({ kind: 'guestEnded', goodbye: 'handover', reason: `QEMU: ${reason}` });
    });
    this.#guestLife = new GuestLife({
      guest: pvm.emulator,
      ...{ policy: policy.onGuestPanic, watch: options.watch, log },
      onEnded: (goodbye, reason) => this.#driver.input({ kind: 'guestEnded', goodbye, reason }),
      between: (work) => {
        this.#work = this.#work.then(work);
      },
    });
    pvm.emulator.onGuestEvent((event) => this.#onGuestEvent(event));
    log.setContext({ role: 'primary', epoch: this.#core.epoch });
    this.#parting.begin();
    listenToSpeech(options.speech, input, () => this.switchover());
    FaultSource.prepare();
  }

  /** While it leaves, who asks is to ask again: silent, but not at its end yet. */
  get probeAnswer(): ProbeAnswer {
    return this.#core.state.kind === 'left' ? 'holding' : 'serving';
  }

  accept(): AcceptDecision {
    return { ok: false, reason: 'This node runs the guest' };
  }

  onSession(session: Session): void {
    session.destroy();
  }

  stop(reason: string): void {
    this.#driver.input({ kind: 'stopRequested', reason });
  }

  get migration(): MigrationControl {
    return { migrate: (options) => this.#migrate(options) };
  }

  /** The guest changes hands as it is: from here on it is another role's, which answers. */
  async #migrate(options: MigrateOptions): Promise<CommandResult> {
    const { kind } = this.#core.state;
    if ((kind !== 'alone' && kind !== 'connecting') || this.#leaving) return NOT_MOVABLE;
    this.#leaving = true;
    this.#driver.stop();
    this.#diskRetry.stop();
    this.#endReplication();
    // An attempt that is under way lets go of the guest's threads at its end.
    await this.#connecting;
    await this.#held.parted;
    const has = { guest: this.#pvm, epoch: this.#core.epoch, policy: this.#policy };
    return await new Promise((answer) => {
      this.#finish({ kind: 'departing', ...has, peer: this.#options.peer, options, answer });
    });
  }

  /** With what operators have changed since the start. */
  get #policy(): Policy {
    const { mode, setting: period } = this.#core.pace;
    return { ...this.#options.policy, mode, period };
  }

  status(): NodeStatus {
    return primaryStatus({
      configuration: this.#configuration,
      peer: this.#options.peer,
      core: this.#core,
      guest: this.#pvm,
      speech: this.#options.speech,
      downtimeUs: this.#options.downtimeUs,
      statistics: this.#statistics,
      committedEpoch: this.#committedEpoch,
      bytesSent: this.#bytesSentBefore + (this.#current?.session.bytesSent ?? 0),
      sync: this.#current?.replicator.sync ?? null,
      lastSync: this.#lastSync,
      lastFailure: this.#diskRetry.problem ?? this.#lastFailure ?? this.#parting.unprotectable,
      startedAtUs: this.#startedAtUs,
      nowUs: monotonicUs(),
    });
  }

  get view(): RoleView {
    return primaryView(this.#core, this.#lastFailure, this.#lastSync);
  }

  async failover({ force }: { force: boolean }): Promise<CommandResult> {
    const { state } = this.#core;
    const secondary = this.#options.peer.host;
    return failoverOfPrimary(this.#options.speech, { force, state, secondary });
  }

  /** Resolves when the guest goes on at the peer, and this node is its secondary. */
  async switchover(): Promise<CommandResult> {
    if (!this.#core.isProtected) return NOT_PROTECTED;
    const done = this.#nextCheckpoint();
    this.#driver.input({ kind: 'switchoverRequested' });
    const result = await done;
    if (!result.ok) return result;
    await this.ended;
    return { ok: true, detail: `The guest runs on ${this.#options.peer.host} now` };
  }

  setPeriod(period: PeriodSetting): CommandResult {
    this.#driver.input({ kind: 'periodChanged', period });
    this.#log.info('Period changed', { period: formatPeriod(period) });
    return { ok: true, detail: `The period is ${formatPeriod(period)}` };
  }

  /** A protected guest changes with the next checkpoint; it is waited for. */
  async setMode(mode: Mode): Promise<CommandResult> {
    if (mode === this.#core.pace.mode) return { ok: true, detail: `The mode is ${mode} already` };
    this.#log.info('Mode changed', { mode });
    const done = this.#core.state.kind === 'session' ? this.#nextCheckpoint() : undefined;
    this.#driver.input({ kind: 'modeChanged', mode });
    const result = await done;
    return result?.ok === false ? result : { ok: true, detail: `The mode is ${mode}` };
  }

  async capture(options: CaptureOptions): Promise<CommandResult> {
    return this.#core.pace.mode === 'colo' ? this.#pvm.network.capture(options) : NOT_COMPARED;
  }

  async verify(options: VerifyOptions): Promise<VerifyAnswer> {
    if (this.#core.state.kind !== 'session') return NO_SECONDARY;
    return verifyDisks(options, this.#pvm, () => {
      this.#driver.input({ kind: 'checkpointRequested', trigger: 'operator' });
    });
  }

  detach(): Promise<CommandResult> {
    return this.#parting.detach();
  }

  async attach(): Promise<CommandResult> {
    return this.#parting.attach();
  }

  stopPeer(): Promise<CommandResult> {
    return this.#parting.stopPeer();
  }

  checkpoint(): Promise<CommandResult> {
    const done = this.#nextCheckpoint();
    this.#driver.input({ kind: 'checkpointRequested', trigger: 'operator' });
    return done;
  }

  #nextCheckpoint(): Promise<CommandResult> {
    return new Promise((resolve) => this.#checkpointWaiters.push(resolve));
  }

  #perform(output: PrimaryOutput): void {
    switch (output.kind) {
      case 'connect':
        this.#connecting = this.#connect();
        return;
      case 'probe':
        void this.#probe();
        return;
      case 'renew':
        this.#current?.session.renew();
        return;
      case 'heartbeat':
        this.#tell(output);
        return;
      case 'syncRound':
        this.#enqueue(async ({ replicator }) => {
          const remainingBytes = await replicator.syncRound(output.first);
          return { kind: 'syncRound', remainingBytes };
        });
        return;
      case 'presendRound':
        this.#enqueue(async ({ replicator }) => {
          return { kind: 'presendRound', pages: await replicator.presendRound() };
        });
        return;
      case 'capture':
        this.#enqueue((current) => this.#capture(current, output));
        return;
      case 'release':
        this.#committedEpoch = output.epoch;
        this.#pvm.disks.committed(output.epoch);
        void this.#release(output.epoch);
        return;
      case 'startCompare':
        void this.#held.startCompare(output.epoch);
        return;
      case 'endSession':
        this.#endReplication();
        this.#current?.session.destroy();
        return;
      case 'runAlone':
        this.#sessionOver(output.reason, 'Running unprotected');
        void this.#held.open();
        return;
      case 'askAlone':
        this.#sessionOver(output.reason, 'The witness is asked whether to go on alone');
        this.#options.speech?.peerLost(output);
        return;
      case 'open':
        this.#log.warn('Running unprotected', { reason: 'The witness allows it' });
        void this.#held.open();
        return;
      case 'protecting':
        this.#protecting = this.#protect();
        // Whoever waits for it is told; nobody may.
        this.#protecting.catch(() => undefined);
        return;
      case 'checkpointDone':
        this.#checkpointDone(output.epoch, output.trigger);
        return;
      case 'checkpointFailed':
        this.#answerWaiters({ ok: false, code: 'COLO_E_CHECKPOINT', reason: output.reason });
        return;
      case 'parted':
        this.#parting.done();
        return;
      case 'silence':
        this.#silenced = this.#silence();
        return;
      case 'sendYielded':
        void this.#tellSilent({ kind: 'yielded' });
        return;
      case 'sendGoodbye':
        void this.#tellSilent({ ...output, kind: 'goodbye' });
        return;
      case 'exit':
        void this.#leave({ kind: 'left', exit: { exitCode: output.code, reason: output.reason } });
        return;
      case 'demote':
        void this.#leave({ kind: 'demoted', reason: output.reason });
        return;
    }
  }

  async #connect(): Promise<void> {
    const { identity, peer, speech } = this.#options;
    const result = await meetSecondary({
      configuration: this.#configuration,
      log: this.#log,
      guest: this.#pvm,
      ...{ identity, peer, speech, epoch: this.#core.epoch },
      policy: () => this.#policy,
      held: this.#held,
      isLeaving: () => this.#leaving,
    });
    if ('session' in result) {
      this.#begin(result);
      return;
    }
    this.#detach();
    const { reason, needsOperator } = result;
    if (reason !== this.#lastFailure) this.#log.warn('No secondary', { reason });
    this.#lastFailure = reason;
    this.#driver.input({ kind: 'peerRefused', reason, needsOperator });
  }

  #begin({ session, instance, speech, qemuVersion, ram }: MetSecondary): void {
    const replicator = new Replicator({
      ...{ session, parts: this.#pvm, secondarysRam: ram, log: this.#log },
      epoch: this.#core.epoch,
      verify: this.#options.policy.verify,
    });
    this.#current = { session, replicator, instance, speech };
    session.links.control.onFrame((frame) => this.#onControl(frame));
    watchSession(session, this.#log, (input) => {
      if (this.#current?.session === session) this.#driver.input(input);
    });
    this.#driver.input({ kind: 'peerConnected' });
    this.#log.info('Secondary connected', { peer: this.#options.peer.host, qemu: qemuVersion });
  }

  #onControl(frame: Frame): void {
    const message = decodeControl(frame.type, frame.payload);
    this.#driver.input({ kind: 'heard', isDeaf: isDeaf(message) });
    switch (message.kind) {
      case 'heartbeat':
        return;
      case 'committed':
      case 'applied':
        this.#driver.input({ kind: message.kind, epoch: message.epoch });
        return;
      case 'unfit':
        this.#driver.input({ kind: 'peerUnfit', reason: `Secondary unfit: ${message.reason}` });
        return;
      case 'takeover':
        this.#driver.input({ kind: 'takeoverRequested' });
        return;
      default:
        throw new ProtocolError(`A secondary does not send ${message.kind}`);
    }
  }

  async #probe(): Promise<void> {
    const { peer } = this.#options;
    const timeoutMs = Math.max(10, this.#configuration.peerTimeoutUs / 4000);
    const instance = this.#current?.instance;
    const result = await probePeer({
      ...peer,
      timeoutMs,
      ...(instance === undefined ? {} : { instance }),
      security: this.#options.identity.security,
    });
    this.#driver.input({ kind: 'probed', result });
  }

  /** Runs one step of work on the current session after those before it. */
  #enqueue(step: (current: CurrentSession) => Promise<PrimaryInput>): void {
    const current = this.#current;
    if (current === undefined) return;
    this.#work = this.#work.then(async () => {
      if (this.#current !== current) return;
      try {
        this.#driver.input(await step(current));
      } catch (error) {
        await this.#stepFailed(current, error);
      }
    });
  }

  /**
   * The end of a session is told by the session, and that of QEMU, which first shows as a step that
   * fails, by QEMU: a moment later than the step. Everything else that fails is a failed capture.
   */
  async #stepFailed(current: CurrentSession, error: unknown): Promise<void> {
    await Promise.race([this.#pvm.emulator.exited, delay(QEMU_EXIT_MS)]);
    if (this.#current !== current || current.session.closeReason !== undefined) return;
    this.#driver.input({ kind: 'captureFailed', reason: describeError(error) });
  }

  async #capture(
    current: CurrentSession,
    { epoch, trigger, svmRuns }: Extract<PrimaryOutput, { kind: 'capture' }>,
  ): Promise<PrimaryInput> {
    // Before the pause: once it is over, the secondary's answer must find the core told of it.
    await Promise.all([this.#reserve.used(epoch), this.#protecting]);
    const captured = await current.replicator.capture(svmRuns);
    const { pauseUs, pages, pagesInPause } = captured;
    this.#held.captured(captured.synced);
    this.#statistics.add({ trigger, pauseUs, pages, pagesInPause });
    void captured.shipped.catch((error: unknown) => this.#stepFailed(current, error));
    return { kind: 'captured', epoch, atUs: captured.resumedAtUs };
  }

  async #release(epoch: number): Promise<void> {
    if (await this.#held.release(epoch)) this.#driver.input({ kind: 'released', epoch });
  }

  #diskFailed(reason: string): void {
    this.#log.error('A disk failed', { reason });
    this.#lastFailure = `A disk failed: ${reason}`;
    this.#options.watch.happened({ kind: 'disk', reason: this.#lastFailure });
    this.#driver.input({ kind: 'diskFailed', reason: `A disk failed: ${reason}` });
  }

  #checkpointDone(epoch: number, trigger: Trigger): void {
    this.#log.setContext({ epoch: this.#core.epoch });
    if (trigger === 'sync') {
      this.#lastFailure = null;
      this.#lastSync = this.#current?.replicator.synced() ?? null;
      this.#log.info('Protected', { committedEpoch: epoch, ...this.#lastSync });
    }
    this.#answerWaiters({ ok: true, detail: `Epoch ${epoch} is committed` });
  }

  #sessionOver(reason: string, consequence: string): void {
    const current = this.#current;
    this.#current = undefined;
    this.#committedEpoch = null;
    this.#lastFailure = reason;
    this.#endReplication(current);
    this.#bytesSentBefore += current?.session.bytesSent ?? 0;
    current?.session.destroy();
    this.#held.sessionOver();
    // That nobody could be reached was told by the attempt, and no checkpoint failed.
    if (current === undefined) return;
    this.#statistics.failed += 1;
    this.#log.warn(consequence, { reason });
  }

  async #protect(): Promise<void> {
    const offer = this.#current?.speech ?? null;
    if (offer !== null) await this.#options.speech?.protecting(offer.session);
  }

  /** Resolves once not a frame leaves any more. */
  async #silence(): Promise<void> {
    const { state } = this.#core;
    const reason = 'reason' in state ? state.reason : state.kind;
    await this.#pvm.network.silence();
    await this.#options.speech?.leave(reason);
  }

  #answerWaiters(result: CommandResult): void {
    for (const resolve of this.#checkpointWaiters.splice(0)) resolve(result);
  }

  #endReplication(current = this.#current): void {
    if (current === undefined) return;
    current.replicator.end();
    this.#detach();
  }

  #detach(): void {
    this.#pvm.network.detach();
    this.#pvm.disks.detach();
  }

  /** What promises that nothing leaves any more is said once nothing does. */
  async #tellSilent(message: ControlMessage): Promise<void> {
    await this.#silenced;
    this.#tell(message);
  }

  #tell(message: ControlMessage): void {
    const { type, parts } = encodeControl(message);
    this.#current?.session.links.control.send(type, parts);
  }

  /** A part of the guest is gone, and it can't go on here. */
  #threadFailed(name: string, error: Error): void {
    const reason = `The ${name} thread failed: ${describeError(error)}`;
    this.#log.error(reason);
    this.#driver.input({ kind: 'guestEnded', goodbye: 'handover', reason });
  }

  #onGuestEvent(event: GuestEvent): void {
    if (this.#leaving) return;
    this.#log.debug('Guest event', { event });
    // Dead is better than hung: then the secondary goes on. What nobody else has may recover.
    if (event.kind === 'hung' && this.#core.isProtected) this.#pvm.emulator.abort();
    if (event.kind === 'disk-error') {
      const reason = `${event.operation} of ${event.device}`;
      this.#diskFailed(reason);
      this.#diskRetry.failed(reason);
    }
    this.#guestLife.on(event);
  }

  /** Silent already. The peer closes the session once it has read the last message. */
  async #leave(end: Extract<RoleEnd, { kind: 'left' | 'demoted' }>): Promise<void> {
    this.#leaving = true;
    this.#driver.stop();
    this.#diskRetry.stop();
    const { reason } = end.kind === 'left' ? end.exit : end;
    this.#log.info('Leaving', { reason });
    const session = this.#current?.session;
    this.#endReplication();
    await this.#silenced;
    if (session !== undefined) await session.closedWithin(GOODBYE_TIMEOUT_MS);
    await this.#work;
    if (end.kind === 'demoted') await this.#options.leftRam.keep(this.#pvm, 'guest');
    await this.#pvm.stop();
    this.#finish(end);
  }
}
