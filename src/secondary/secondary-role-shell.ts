/**
 * The role of a node that holds the SVM, or waits for a primary: carries out what the core decides,
 * and tells the core what happened.
 *
 * Reading order: `onSession` launches the SVM that a primary's hello asks for, `#perform` has a line
 * or two per instruction of the core, the rest are those that take more.
 */
import type {
  CommandResult,
  Configuration,
  NodeLogger,
  NodeStatus,
  RoleView,
} from '../config/index.js';
import type { GuestEvent } from '../emulator/index.js';
import {
  type Arrival,
  checkSpeech,
  DiskRetry,
  type Guest,
  IMAGE_AT_STAKE,
  type LeftGuestRam,
  type NodeIdentity,
  type NodeRole,
  prepareForGuest,
  type RoleEnd,
  type RoleWatch,
  releaseHiddenPages,
  removeMigrationRecord,
  SECTION_FRAME,
  type Speech,
} from '../guest/index.js';
import { describeError, OperatorError, ProtocolError } from '../lib/index.js';
import { monotonicUs } from '../linux/index.js';
import {
  type ControlMessage,
  CoreDriver,
  decodeControl,
  type EpochReserve,
  encodeControl,
  firstControlFrame,
  type Hello,
  isDeaf,
  parseHello,
  type SpeechAnswer,
  watchSession,
} from '../replication/index.js';
import {
  type AcceptDecision,
  type Frame,
  type ProbeAnswer,
  probePeer,
  type Session,
} from '../transport/index.js';
import { PrimarysCommands } from './primarys-commands.js';
import { RamReceiver } from './ram-receiver-shell.js';
import { saveMachine } from './saved-machine-shell.js';
import { SecondaryCore, type SecondaryInput, type SecondaryOutput } from './secondary-core.js';
import { secondaryStatus, secondaryView } from './secondary-status.js';
import { SvmApplier } from './svm-applier-shell.js';
import { SvmLife } from './svm-life-shell.js';
import { digestsOf, type Svm, startSvm, stopSvm } from './svm-shell.js';

export interface SecondaryRoleOptions {
  readonly configuration: Configuration;
  readonly log: NodeLogger;
  readonly identity: NodeIdentity;
  /** Undefined without a witness. */
  readonly speech: Speech | undefined;
  /** Learns the epochs that primaries use. */
  readonly reserve: EpochReserve;
  readonly watch: RoleWatch;
  /** What this host has of the guest's memory from before. */
  readonly leftRam: LeftGuestRam;
}

/** A session and the SVM that it feeds. */
interface Current {
  readonly session: Session;
  readonly hello: Hello;
  readonly svm: Svm;
  readonly guest: Guest;
  readonly ram: RamReceiver;
  readonly diskRetry: DiskRetry;
}

/** What a session begins with. */
interface Begun {
  readonly hello: Hello;
  readonly svm: Svm;
  readonly answer: SpeechAnswer | null;
}

/** Runs until the operator stops it, or it has become the primary. */
export class SecondaryRole extends PrimarysCommands implements NodeRole {
  readonly ended: Promise<RoleEnd>;
  readonly #options: SecondaryRoleOptions;
  readonly #configuration: Configuration;
  readonly #log: NodeLogger;
  readonly #core: SecondaryCore;
  readonly #driver: CoreDriver<SecondaryInput, SecondaryOutput>;
  readonly #startedAtUs = monotonicUs();
  /** A session is accepted while this is false: one primary, one SVM at a time. */
  #occupied = false;
  #current: Current | undefined;
  /** That whose first commit the guard has been told of. */
  #standing: Current | undefined;
  /** The SVM executes since the last apply: a failover goes on from there. */
  #goesOnRunning = false;
  #isPromoted = false;
  readonly #applier: SvmApplier;
  readonly #svmLife: SvmLife;
  #downtimeUs: number | undefined;
  #lastFailure: string | null = null;
  #committing: Promise<boolean> = Promise.resolve(false);
  #dropping: Promise<void> = Promise.resolve();
  #discarding: Promise<void> = Promise.resolve();
  #failoverWaiters: ((result: CommandResult) => void)[] = [];
  #finish: (end: RoleEnd) => void = () => undefined;

  constructor(options: SecondaryRoleOptions) {
    super();
    const { configuration, log } = options;
    this.#options = options;
    this.#configuration = configuration;
    this.#log = log;
    this.ended = new Promise((resolve) => {
      this.#finish = resolve;
    });
    this.#core = new SecondaryCore({
      peerTimeoutUs: configuration.peerTimeoutUs,
      heartbeatUs: configuration.heartbeatIntervalUs,
      onPeerLoss: configuration.onPeerLoss,
      hasWitness: options.speech !== undefined,
    });
    this.#applier = new SvmApplier(log);
    this.#svmLife = new SvmLife(log, options.watch);
    this.#driver = new CoreDriver(
      this.#core,
      (output) => this.#perform(output),
      () => options.watch.stepped(),
    );
    log.setContext({ role: 'secondary' });
    this.#listenToSpeech(options.speech);
    prepareForGuest(configuration);
  }

  get probeAnswer(): ProbeAnswer {
    return this.#core.probeAnswer;
  }

  stop(reason: string): void {
    // The node stops the role that has the guest next.
    if (!this.#isPromoted) this.#driver.input({ kind: 'stopRequested', reason });
  }

  status(): NodeStatus {
    return secondaryStatus({
      configuration: this.#configuration,
      core: this.#core,
      hello: this.#current?.hello,
      guest: this.#current?.guest,
      speech: this.#options.speech,
      remoteAddress: this.#current?.session.remoteAddress,
      receivedBytes: this.#current?.session.bytesReceived ?? 0,
      applied: this.#applier.applied,
      downtimeUs: this.#downtimeUs,
      verified: this.#applier.verified,
      lastFailure: this.#current?.diskRetry.problem ?? this.#lastFailure,
      startedAtUs: this.#startedAtUs,
      nowUs: monotonicUs(),
    });
  }

  get view(): RoleView {
    return secondaryView(this.#core, this.#lastFailure);
  }

  failover(options: { force: boolean }): Promise<CommandResult> {
    return new Promise((resolve) => {
      this.#failoverWaiters.push(resolve);
      this.#driver.input({ kind: 'operatorFailover', force: options.force });
    });
  }

  /** On this side a planned failover is the same. */
  switchover(): Promise<CommandResult> {
    return this.failover({ force: false });
  }

  accept(): AcceptDecision {
    if (!this.#occupied) return { ok: true };
    this.#driver.input({ kind: 'peerReturned' });
    return { ok: false, reason: `This node is busy (${this.#core.state.kind})` };
  }

  onSession(session: Session): void {
    void this.#onSession(session);
  }

  async #onSession(session: Session): Promise<void> {
    this.#occupied = true;
    await this.#discarding;
    let svm: Svm | undefined;
    try {
      const frame = await firstControlFrame(session);
      if (frame.type === SECTION_FRAME) {
        this.#handOver({ kind: 'arriving', session, hello: frame });
        return;
      }
      const message = decodeControl(frame.type, frame.payload);
      if (message.kind !== 'hello') throw new ProtocolError(`A ${message.kind} is no hello`);
      const hello = parseHello(message.json);
      const { speech } = this.#options;
      checkSpeech(speech, {
        host: hello.host,
        peerHas: hello.speech !== null,
        ownHost: this.#configuration.host,
      });
      await this.#options.reserve.used(hello.epoch);
      const parts = { log: this.#log, lease: speech?.lease, leftRam: this.#options.leftRam };
      svm = await startSvm(this.#configuration, hello, parts);
      this.#listenTo(svm.guest);
      await svm.guest.network.attach(session, { role: 'target' });
      await svm.guest.disks.attachTarget(session, svm.lineages);
      const offer = hello.speech;
      const answer = offer && ((await speech?.accept(session, offer)) ?? null);
      if (session.closeReason !== undefined) throw new ProtocolError('The primary has gone again');
      this.#begin(session, { hello, svm, answer });
    } catch (error) {
      const reason = describeError(error);
      const needsOperator = error instanceof OperatorError && error.code === IMAGE_AT_STAKE;
      // Such a primary asks again and again.
      const isNews = !needsOperator || reason !== this.#lastFailure;
      if (isNews) this.#log.warn('Primary refused', { peer: session.remoteAddress, reason });
      this.#lastFailure = reason;
      const json = JSON.stringify({ ok: false, reason, needsOperator });
      this.#send(session, { kind: 'helloReply', json });
      session.close();
      if (svm !== undefined) await stopSvm(svm, this.#options.leftRam);
      this.#occupied = false;
    }
  }

  /** A guest comes to stay: this host is its destination from now on. */
  #handOver(arrival: Arrival): void {
    this.#driver.stop();
    const reason = 'A guest is being moved here';
    this.#answerWaiters({ ok: false, code: 'COLO_E_FAILOVER', reason });
    this.#finish(arrival);
  }

  #begin(session: Session, begun: Begun): void {
    const { hello, svm, answer } = begun;
    const { guest, staging } = svm;
    const { emulator } = guest;
    const { links } = session;
    const digests = digestsOf(svm, hello, links.ram);
    const ram = new RamReceiver({
      ...{ link: links.ram, digests },
      emulator,
      staging,
      onStaged: (staged) => this.#driver.input({ kind: 'ramStaged', ram: staged }),
    });
    const diskRetry = new DiskRetry({ guest: emulator, log: this.#log });
    const current = { session, hello, svm, guest, ram, diskRetry };
    this.#current = current;
    links.control.onFrame((frame) => this.#onControl(frame));
    watchSession(session, this.#log, (input) => {
      // Later, the network may be attached to another session.
      if (this.#current !== current) return;
      if (input.kind === 'linkLost') guest.network.detach();
      this.#driver.input(input);
    });
    void emulator.exited.then(({ reason }) => {
      if (this.#current !== current) return;
      this.#driver.input({ kind: 'broken', reason: `QEMU: ${reason}` });
    });
    emulator.onGuestEvent((event) => {
      if (this.#current === current) this.#onGuestEvent(event);
    });
    const { qemuVersion } = emulator.description;
    const { host } = this.#configuration;
    const instance = this.#options.identity.instance.toString('hex');
    const json = JSON.stringify({
      ...{ ok: true, host, qemuVersion, instance },
      verdicts: svm.verdicts,
      speech: answer,
      ramDigests: digests !== undefined,
    });
    this.#send(session, { kind: 'helloReply', json });
    this.#log.info('Primary connected', { peer: session.remoteAddress, primary: hello.host });
    this.#driver.input({ kind: 'peerConnected' });
  }

  #onControl(frame: Frame): void {
    const message = decodeControl(frame.type, frame.payload);
    this.#driver.input({ kind: 'heard', isDeaf: isDeaf(message) });
    switch (message.kind) {
      case 'heartbeat':
        return;
      case 'endRecord':
        this.#applier.pvmResumedAtUs = monotonicUs() - message.record.sinceResumeUs;
        this.#driver.input({ kind: 'endRecord', record: message.record });
        return;
      case 'yielded':
        this.#driver.input({ kind: 'yielded' });
        return;
      case 'goodbye': {
        const { goodbye, reason } = message;
        this.#driver.input({ kind: 'goodbye', goodbye, reason });
        return;
      }
      default:
        throw new ProtocolError(`A primary does not send ${message.kind}`);
    }
  }

  #perform(output: SecondaryOutput): void {
    switch (output.kind) {
      case 'heartbeat':
        this.#tell(output);
        return;
      case 'probe':
        void this.#probe();
        return;
      case 'commit':
        this.#committing = this.#commit(output.epoch);
        return;
      case 'sendCommitted':
        void this.#tellCommitted(output.epoch);
        return;
      case 'apply':
        void this.#apply(output.epoch, output.svmRuns);
        return;
      case 'sendApplied':
        void this.#tellApplied(output.epoch, output.durationUs);
        return;
      case 'sendUnfit':
        this.#log.warn('Unfit', { reason: output.reason });
        this.#lastFailure = output.reason;
        this.#tell({ kind: 'unfit', reason: output.reason });
        return;
      case 'dropStaged':
        this.#dropping = this.#current?.guest.disks.dropUncommitted() ?? Promise.resolve();
        return;
      case 'closeSession':
        this.#current?.session.close();
        return;
      case 'discard':
        this.#discard(output.reason);
        return;
      case 'sendTakeover':
        this.#tell({ kind: 'takeover' });
        return;
      case 'askTakeOver':
        if (output.force) this.#options.speech?.force();
        else this.#options.speech?.peerLost(output);
        return;
      case 'promote':
        void this.#promote(output.reason);
        return;
      case 'alarm':
        this.#log.error(output.message);
        return;
      case 'failoverDone':
        this.#answerWaiters({ ok: true, detail: `This node runs the guest now` });
        return;
      case 'failoverRefused':
        this.#answerWaiters({ ok: false, code: 'COLO_E_FAILOVER', reason: output.reason });
        return;
      case 'exit':
        void this.#exit(output.code, output.reason);
        return;
    }
  }

  async #probe(): Promise<void> {
    const current = this.#current;
    if (current === undefined) return;
    const { peerTimeoutUs } = this.#configuration;
    const timeoutMs = Math.max(10, peerTimeoutUs / 4000);
    const host = current.session.remoteAddress;
    const { port } = current.hello;
    const { security } = this.#options.identity;
    const instance = Buffer.from(current.hello.instance, 'hex');
    const result = await probePeer({ host, port, instance, timeoutMs, security });
    if (this.#current === current) this.#driver.input({ kind: 'probed', result });
  }

  /** Resolves to whether the disks will keep the epoch. */
  async #commit(epoch: number): Promise<boolean> {
    const guest = this.#current?.guest;
    if (guest === undefined) return false;
    guest.network.committed(epoch);
    this.#log.setContext({ epoch });
    try {
      await guest.disks.commit(epoch);
      await this.#options.reserve.used(epoch);
      // What an earlier migration took away is here again.
      if (this.#current !== this.#standing) await removeMigrationRecord(this.#configuration);
      await this.#standBy();
      return true;
    } catch (error) {
      const reason = `Epoch ${epoch} can't be committed: ${describeError(error)}`;
      this.#driver.input({ kind: 'broken', reason });
      return false;
    }
  }

  /** Once a session: what is committed may be taken over from. */
  async #standBy(): Promise<void> {
    const current = this.#current;
    if (current === undefined || current === this.#standing) return;
    this.#standing = current;
    const { hello, session } = current;
    await saveMachine(this.#configuration, { hello, peer: plainAddress(session.remoteAddress) });
    const offer = current.hello.speech;
    if (offer !== null) this.#options.speech?.standBy(offer.session, offer.token);
  }

  #listenToSpeech(speech: Speech | undefined): void {
    if (speech === undefined) return;
    speech.hooks = {
      onTakeOver: () => {
        this.#driver.input({ kind: 'granted' });
        // What it was asked for may be gone by now: then nobody must speak for it.
        const { kind } = this.#core.state;
        if (kind !== 'promoting') void speech.leave(`The right came to a node that is ${kind}`);
      },
      onStale: (reason) => this.#driver.input({ kind: 'stale', reason }),
    };
  }

  async #tellCommitted(epoch: number): Promise<void> {
    const current = this.#current;
    const kept = await this.#committing;
    if (kept && this.#current === current) this.#tell({ kind: 'committed', epoch });
  }

  /** What is written down of the commit may take longer than the apply: it is told first. */
  async #tellApplied(epoch: number, durationUs: number): Promise<void> {
    const current = this.#current;
    const kept = await this.#committing;
    if (kept && this.#current === current) this.#tell({ kind: 'applied', epoch, durationUs });
  }

  async #apply(epoch: number, svmRuns: boolean): Promise<void> {
    this.#goesOnRunning = false;
    this.#svmLife.beginApply();
    const current = this.#current;
    if (current === undefined) return;
    try {
      const token = svmRuns ? undefined : current.hello.speech?.token;
      const beforeResume = async () => await this.#options.speech?.vouch(token);
      const durationUs = await this.#applier.apply(current, { epoch, svmRuns, beforeResume });
      this.#goesOnRunning = svmRuns;
      this.#driver.input({ kind: 'applied', epoch, durationUs });
    } catch (error) {
      const reason = `Epoch ${epoch} can't be applied: ${describeError(error)}`;
      if (this.#current === current) this.#driver.input({ kind: 'broken', reason });
    }
  }

  async #promote(reason: string): Promise<void> {
    const current = this.#current;
    if (current === undefined) return;
    const { guest, session, hello } = current;
    const heardAtUs = this.#core.peerHeardAtUs;
    try {
      await Promise.all([this.#dropping, guest.emulator.pause()]);
      await guest.disks.promote();
      await guest.network.promote();
      await this.#svmLife.promote(guest.emulator, hello.policy.onGuestPanic);
      await guest.emulator.resume();
      // The operator has stopped the node meanwhile.
      if (this.#current !== current) return;
      guest.network.goLive({ announce: this.#configuration.lanAnnounce });
      releaseHiddenPages(guest.emulator, this.#log);
      if (heardAtUs !== undefined) this.#downtimeUs = monotonicUs() - heardAtUs;
      this.#log.setContext({ role: 'primary' });
      this.#log.warn('Failover: this node runs the guest now', {
        reason,
        downtimeMs: Math.round((this.#downtimeUs ?? 0) / 1000),
      });
      this.#options.watch.happened({
        kind: 'failover',
        continuedFrom: this.#goesOnRunning ? 'running' : 'checkpoint',
        epoch: this.#core.committedEpoch ?? hello.epoch,
        downtimeMs: this.#downtimeUs === undefined ? null : Math.round(this.#downtimeUs / 1000),
        reason,
      });
      this.#driver.input({ kind: 'promoted' });
      if (this.#configuration.lanAnnounce) await guest.emulator.announce();
      session.destroy();
      guest.network.detach();
      await guest.disks.detach();
      if (this.#current !== current) return;
      current.svm.staging.close();
      this.#isPromoted = true;
      this.#finish({
        kind: 'promoted',
        guest,
        epoch: this.#core.committedEpoch ?? hello.epoch,
        policy: hello.policy,
        peer: { host: plainAddress(session.remoteAddress), port: hello.port },
        downtimeUs: this.#downtimeUs,
        release: () => this.#release(),
      });
    } catch (error) {
      this.#driver.input({ kind: 'broken', reason: `Promotion failed: ${describeError(error)}` });
    }
  }

  /** Another role has the guest from now on: whatever comes is not for this one. */
  #release(): void {
    this.#current?.diskRetry.stop();
    this.#current = undefined;
    this.#driver.stop();
  }

  #discard(reason: string): void {
    const current = this.#current;
    this.#current = undefined;
    this.#lastFailure = reason;
    this.#log.warn('SVM discarded', { reason });
    this.#options.speech?.discarded();
    if (current === undefined) return;
    this.#discarding = this.#stopCurrent(current, this.#options.leftRam).then(() => {
      this.#occupied = false;
    });
  }

  async #stopCurrent(current: Current, leftRam?: LeftGuestRam): Promise<void> {
    const { session, svm, diskRetry } = current;
    diskRetry.stop();
    session.close();
    await stopSvm(svm, leftRam);
  }

  #listenTo({ hooks }: Guest): void {
    hooks.onDiskStaged = (disk) => this.#driver.input({ kind: 'diskStaged', disk });
    hooks.onDisksUnfit = (reason) => this.#driver.input({ kind: 'broken', reason });
    hooks.onDisksSilent = (reason) => this.#diskFailed(reason);
    hooks.onDisksFailure = (error) => this.#threadFailed('disk', error);
    hooks.onNetworkFailure = (error) => this.#threadFailed('network', error);
  }

  async #exit(exitCode: number, reason: string): Promise<void> {
    this.#driver.stop();
    const current = this.#current;
    this.#current = undefined;
    await this.#options.speech?.leave(reason);
    if (current !== undefined) await this.#stopCurrent(current);
    await this.#discarding;
    this.#answerWaiters({ ok: false, code: 'COLO_E_FAILOVER', reason });
    this.#finish({ kind: 'left', exit: { exitCode, reason } });
  }

  /** In standby the primary goes on alone; a guest that has nobody else waits for its disk. */
  #diskFailed(reason: string): void {
    this.#log.error('A disk failed', { reason });
    this.#options.watch.happened({ kind: 'disk', reason: `A disk failed: ${reason}` });
    if (this.#core.state.kind === 'active') this.#current?.diskRetry.failed(reason);
    else this.#driver.input({ kind: 'broken', reason: `A disk failed: ${reason}` });
  }

  #threadFailed(name: string, error: Error): void {
    const reason = `The ${name} thread failed: ${describeError(error)}`;
    this.#driver.input({ kind: 'broken', reason });
  }

  #onGuestEvent(event: GuestEvent): void {
    this.#log.debug('Guest event', { event });
    if (event.kind === 'disk-error') this.#diskFailed(`${event.operation} of ${event.device}`);
    this.#svmLife.on(event);
    if (event.kind === 'hung') this.#driver.input({ kind: 'hung', reason: event.reason });
    if (event.kind !== 'shutdown' || this.#core.state.kind !== 'active') return;
    this.#driver.input({ kind: 'stopRequested', reason: 'The guest powered off' });
  }

  #answerWaiters(result: CommandResult): void {
    for (const resolve of this.#failoverWaiters.splice(0)) resolve(result);
  }

  #tell(message: ControlMessage): void {
    const session = this.#current?.session;
    if (session !== undefined) this.#send(session, message);
  }

  #send(session: Session, message: ControlMessage): void {
    const { type, parts } = encodeControl(message);
    session.links.control.send(type, parts);
  }
}

function plainAddress(address: string): string {
  return address.replace(/^::ffff:/, '');
}
