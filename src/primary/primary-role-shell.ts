/**
 * The role of the node that runs the PVM: carries out what the core decides, and tells the core
 * what happened.
 *
 * Reading order: the constructor wires the parts, `#perform` has a line or two per instruction of the core,
 * the rest are the instructions that take more. Work on the guest's state (synchronising, pre-send,
 * capture) is strictly one after the other, also across sessions.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { type PrimaryImage, parseAcceptedImages } from '../blockrep/index.js';
import {
  type CaptureOptions,
  type CommandResult,
  type Configuration,
  formatPeriod,
  type Mode,
  type NodeLogger,
  type NodeStatus,
  type PeriodSetting,
  type VerifyAnswer,
  type VerifyOptions,
} from '../config/index.js';
import type { GuestEvent } from '../emulator/index.js';
import {
  checkSpeech,
  DiskRetry,
  type Guest,
  type NodeRole,
  type Promotion,
  type RoleEnd,
} from '../guest/index.js';
import { describeError, ProtocolError } from '../lib/index.js';
import { monotonicUs } from '../linux/index.js';
import {
  type ControlMessage,
  CoreDriver,
  decodeControl,
  type EpochReserve,
  encodeControl,
  firstControlMessage,
  parseHelloReply,
  type SpeechOffer,
} from '../replication/index.js';
import {
  type AcceptDecision,
  connectSession,
  type Frame,
  type ProbeAnswer,
  probePeer,
  type Session,
} from '../transport/index.js';
import { HeldOutput } from './held-output-shell.js';
import { CONNECT_TIMEOUT_MS, GOODBYE_TIMEOUT_MS, QEMU_EXIT_MS } from './limits.js';
import {
  PrimaryCore,
  type PrimaryInput,
  type PrimaryOutput,
  type Trigger,
} from './primary-core.js';
import { primaryHello } from './primary-hello.js';
import type { PrimaryRoleOptions } from './primary-role-options.js';
import { failoverOfPrimary, listenToSpeech } from './primary-speech-shell.js';
import { primaryStatus } from './primary-status.js';
import { Replicator } from './replicator-shell.js';
import { CheckpointStatistics } from './statistics.js';
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
  #current: CurrentSession | undefined;
  #bytesSentBefore = 0;
  #heartbeats = 0;
  #lastFailure: string | null = null;
  #committedEpoch: number | null;
  #work: Promise<void> = Promise.resolve();
  readonly #held: HeldOutput;
  #silenced: Promise<void> = Promise.resolve();
  #protecting: Promise<void> = Promise.resolve();
  #checkpointWaiters: ((result: CommandResult) => void)[] = [];
  #finish: (end: RoleEnd) => void = () => undefined;
  #leaving = false;

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
    this.#driver = new CoreDriver(this.#core, (output) => this.#perform(output));
    pvm.hooks.onDisksOverBound = (epoch) =>
      this.#driver.input({ kind: 'checkpointRequested', trigger: 'bound', epoch });
    pvm.hooks.onCheckpointNeeded = (trigger, epoch) =>
      this.#driver.input({ kind: 'checkpointRequested', trigger, epoch });
    pvm.hooks.onNetworkFailure = (error) => this.#threadFailed('network', error);
    pvm.hooks.onDisksSilent = (reason) => this.#diskFailed(reason);
    pvm.hooks.onDisksFailure = (error) => this.#threadFailed('disk', error);
    void pvm.emulator.exited.then(({ reason }) => {
      this.#driver.input({ kind: 'guestEnded', goodbye: 'handover', reason: `QEMU: ${reason}` });
    });
    pvm.emulator.onGuestEvent((event) => this.#onGuestEvent(event));
    log.setContext({ role: 'primary', epoch: this.#core.epoch });
    this.#driver.input({ kind: 'tick' });
    const input = (what: PrimaryInput): void => this.#driver.input(what);
    listenToSpeech(options.speech, input, () => this.switchover());
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
      lastFailure: this.#diskRetry.problem ?? this.#lastFailure,
      startedAtUs: this.#startedAtUs,
      nowUs: monotonicUs(),
    });
  }

  async failover({ force }: { force: boolean }): Promise<CommandResult> {
    const { state } = this.#core;
    const secondary = this.#options.peer.host;
    return failoverOfPrimary(this.#options.speech, { force, state, secondary });
  }

  /** Resolves when the guest goes on at the peer, and this node is its secondary. */
  async switchover(): Promise<CommandResult> {
    if (!this.#core.isProtected) {
      const reason = 'The guest is not protected: nobody could go on with it';
      return { ok: false, code: 'COLO_E_FAILOVER', reason };
    }
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
    const before = this.#core.mode;
    if (mode === before) return { ok: true, detail: `The mode is ${mode} already` };
    this.#log.info('Mode changed', { mode });
    const isSession = this.#core.state.kind === 'session';
    const done = isSession ? this.#nextCheckpoint() : undefined;
    this.#driver.input({ kind: 'modeChanged', mode });
    const result = await done;
    if (result?.ok === false) return result;
    return { ok: true, detail: `The mode is ${mode}` };
  }

  async capture(options: CaptureOptions): Promise<CommandResult> {
    if (this.#core.mode !== 'colo') {
      const reason = 'Nothing is compared in mode checkpoint: captures need mode colo';
      return { ok: false, code: 'COLO_E_MODE', reason };
    }
    return this.#pvm.network.capture(options);
  }

  verify(options: VerifyOptions): Promise<VerifyAnswer> {
    if (this.#core.state.kind !== 'session') {
      const reason = 'No secondary is connected';
      return Promise.resolve({ ok: false, code: 'COLO_E_VERIFY', reason });
    }
    return verifyDisks(options, this.#pvm, () => {
      this.#driver.input({ kind: 'checkpointRequested', trigger: 'operator' });
    });
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
        void this.#connect();
        return;
      case 'probe':
        void this.#probe();
        return;
      case 'heartbeat':
        this.#heartbeats += 1;
        this.#tell({ kind: 'heartbeat', sequence: this.#heartbeats });
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
      case 'silence':
        this.#silenced = this.#silence();
        return;
      case 'sendYielded':
        void this.#tellSilent({ kind: 'yielded' });
        return;
      case 'sendGoodbye':
        void this.#tellSilent({
          kind: 'goodbye',
          goodbye: output.goodbye,
          reason: output.reason,
        });
        return;
      case 'exit':
        void this.#leave({
          kind: 'left',
          exit: { exitCode: output.code, reason: output.reason },
        });
        return;
      case 'demote':
        void this.#leave({ kind: 'demoted', reason: output.reason });
        return;
    }
  }

  async #connect(): Promise<void> {
    const { peer } = this.#options;
    let session: Session | undefined;
    let needsOperator = false;
    try {
      session = await connectSession({ ...peer, timeoutMs: CONNECT_TIMEOUT_MS, log: this.#log });
      if (this.#leaving) throw new Error('The node is leaving');
      const { speech } = this.#options;
      const offer = (await speech?.offer(session)) ?? null;
      const reply = firstControlMessage(session);
      // A generation that begins in the middle of a session would be unknown to the secondary.
      await this.#held.parted;
      this.#sendHello(session, { offer, images: await this.#pvm.disks.images() });
      const message = await reply;
      if (message.kind !== 'helloReply') throw new ProtocolError(`A ${message.kind} is no reply`);
      const answer = parseHelloReply(message.json);
      if (!answer.ok) {
        needsOperator = answer.needsOperator;
        throw new ProtocolError(`The secondary refused: ${answer.reason}`);
      }
      checkSpeech(speech, {
        host: answer.host,
        peerHas: answer.speech !== null,
        ownHost: this.#configuration.host,
      });
      await this.#pvm.network.attach(session, { role: 'source', epoch: this.#core.epoch });
      await this.#pvm.disks.attachSource(session, {
        epoch: this.#core.epoch,
        verdicts: parseAcceptedImages(answer.verdicts),
        resyncBytesPerSecond: this.#configuration.resyncBytesPerSecond,
      });
      if (this.#leaving) throw new Error('The node is leaving');
      if (offer !== null) speech?.meet(session, offer.key, answer.speech?.ports ?? []);
      this.#begin(session, Buffer.from(answer.instance, 'hex'), offer);
      this.#log.info('Secondary connected', { peer: peer.host, qemu: answer.qemuVersion });
    } catch (error) {
      session?.destroy();
      this.#detach();
      const reason = describeError(error);
      if (reason !== this.#lastFailure) this.#log.warn('No secondary', { reason });
      this.#lastFailure = reason;
      this.#driver.input({ kind: 'peerRefused', reason, needsOperator });
    }
  }

  #sendHello(
    session: Session,
    { offer, images }: { offer: SpeechOffer | null; images: readonly PrimaryImage[] },
  ): void {
    const { identity, policy: started } = this.#options;
    const policy = { ...started, mode: this.#core.mode, period: this.#core.periodSetting };
    const { type, parts } = primaryHello({
      ...{ configuration: this.#configuration, guest: this.#pvm, images, identity, policy },
      speech: offer,
      epoch: this.#core.epoch,
    });
    session.links.control.send(type, parts);
  }

  #begin(session: Session, instance: Buffer, speech: SpeechOffer | null): void {
    const replicator = new Replicator({
      session,
      parts: this.#pvm,
      epoch: this.#core.epoch,
      verify: this.#options.policy.verify,
      log: this.#log,
    });
    this.#current = { session, replicator, instance, speech };
    session.links.control.onFrame((frame) => this.#onControl(frame));
    session.onClose(({ kind, channel, error }) => {
      if (this.#current?.session !== session) return;
      const why = error === undefined ? '' : `: ${describeError(error)}`;
      const reason = `Link ${channel ?? ''} ${kind}${why}`;
      this.#driver.input({ kind: 'linkLost', reason });
    });
    this.#driver.input({ kind: 'peerConnected' });
  }

  #onControl(frame: Frame): void {
    const message = decodeControl(frame.type, frame.payload);
    this.#driver.input({ kind: 'heard' });
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
    this.#driver.input({ kind: 'diskFailed', reason: `A disk failed: ${reason}` });
  }

  #checkpointDone(epoch: number, trigger: Trigger): void {
    this.#log.setContext({ epoch: this.#core.epoch });
    if (trigger === 'sync') {
      this.#lastFailure = null;
      this.#log.info('Protected', { committedEpoch: epoch });
    }
    this.#answerWaiters({ ok: true, detail: `Epoch ${epoch} is committed` });
  }

  #sessionOver(reason: string, consequence: string): void {
    const current = this.#current;
    const wasProtected = this.#committedEpoch !== null;
    this.#current = undefined;
    this.#committedEpoch = null;
    this.#lastFailure = reason;
    this.#statistics.failed += 1;
    this.#endReplication(current);
    this.#bytesSentBefore += current?.session.bytesSent ?? 0;
    current?.session.destroy();
    this.#held.sessionOver({ wasProtected });
    // That nobody could be reached was told by the attempt.
    if (current !== undefined) this.#log.warn(consequence, { reason });
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
    this.#log.debug('Guest event', { event });
    // Dead is better than hung: then the secondary goes on. What nobody else has may recover.
    if (event.kind === 'hung' && this.#core.isProtected) this.#pvm.emulator.abort();
    if (event.kind === 'disk-error') {
      const reason = `${event.operation} of ${event.device}`;
      this.#diskFailed(reason);
      this.#diskRetry.failed(reason);
    }
    if (event.kind !== 'shutdown') return;
    const reason = event.byGuest ? 'The guest powered off' : `QEMU shut down (${event.reason})`;
    const goodbye = event.byGuest ? 'guest-off' : 'handover';
    this.#driver.input({ kind: 'guestEnded', goodbye, reason });
  }

  /** Silent already. The peer closes the session once it has read the last message. */
  async #leave(end: Exclude<RoleEnd, Promotion>): Promise<void> {
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
    await this.#pvm.stop();
    this.#finish(end);
  }
}
