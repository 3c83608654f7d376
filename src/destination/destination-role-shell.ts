/**
 * The role of a node that another host moves its guest to: carries out what the core decides, and
 * tells the core what happened. The guest is the other host's until the core starts it.
 *
 * Reading order: `onSession` takes a session of the source, the first and any later one;
 * `#perform` has a line or two per instruction of the core, the rest are those that take more. What
 * needs the guest is done strictly in the order of the core's outputs (`#inTurn`).
 */
import { setTimeout as delay } from 'node:timers/promises';
import type {
  CommandResult,
  Configuration,
  MigrationControl,
  MigrationStatus,
  NodeLogger,
  NodeStatus,
  VerifyAnswer,
} from '../config/index.js';
import {
  type Arrival,
  checkSpeech,
  guestFacts,
  type NodeRole,
  plainStatus,
  type RoleEnd,
  removeMigrationRecord,
  SessionChannel,
  type Speech,
  sourceSectionOf,
  writeMigrationRecord,
} from '../guest/index.js';
import { ColoError, crc32c, describeError, type PageRange, ProtocolError } from '../lib/index.js';
import { monotonicUs } from '../linux/index.js';
import {
  DESTINATION_SECTIONS,
  DestinationCore,
  type DestinationInput,
  type DestinationOutcome,
  type DestinationOutput,
  type DestinationSection,
  type HelloSection,
  SOURCE_SECTIONS,
  type SourceSection,
} from '../migration/index.js';
import { CoreDriver, type EpochReserve, type Hello, parseHello } from '../replication/index.js';
import type { AcceptDecision, ProbeAnswer, Session } from '../transport/index.js';
import { ArrivingGuest } from './arriving-guest-shell.js';
import {
  CLOSE_TIMEOUT_MS,
  GRANT_PAUSE_MS,
  GRANT_WARNING_MS,
  RECOVER_TIMEOUT_US,
  RELEASED_TIMEOUT_MS,
  SILENCE_TIMEOUT_US,
} from './limits.js';

export interface DestinationRoleOptions {
  readonly configuration: Configuration;
  readonly log: NodeLogger;
  readonly arrival: Arrival;
  /** Undefined without a witness. */
  readonly speech: Speech | undefined;
  /** Learns the epochs that the source used. */
  readonly reserve: EpochReserve;
}

interface Current {
  readonly number: number;
  readonly session: Session;
  readonly channel: SessionChannel<DestinationSection, SourceSection>;
}

/** Runs until the guest is this host's, or will not be. */
export class DestinationRole implements NodeRole {
  readonly ended: Promise<RoleEnd>;
  readonly #options: DestinationRoleOptions;
  readonly #configuration: Configuration;
  readonly #log: NodeLogger;
  readonly #core: DestinationCore;
  readonly #driver: CoreDriver<DestinationInput, DestinationOutput>;
  readonly #startedAtUs = monotonicUs();
  #sessions = 0;
  #current: Current | undefined;
  #hello: { readonly section: HelloSection; readonly json: Hello } | undefined;
  #guest: ArrivingGuest | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  #receivedBytes = 0;
  #problem: string | null = null;
  #refusal: string | undefined;
  #downtimeUs: number | undefined;
  #stopping: string | undefined;
  #over = false;
  /** A step went wrong; only `discard` and messages follow. */
  #failed = false;
  readonly #staged = new Set<number>();
  readonly #released: Promise<void>;
  #onReleased: () => void = () => undefined;
  #finishing: ((result: CommandResult) => void)[] = [];
  #finish: (end: RoleEnd) => void = () => undefined;

  constructor(options: DestinationRoleOptions) {
    const { configuration, log, arrival } = options;
    this.#options = options;
    this.#configuration = configuration;
    this.#log = log;
    this.ended = new Promise((resolve) => {
      this.#finish = resolve;
    });
    this.#released = new Promise((resolve) => {
      this.#onReleased = resolve;
    });
    this.#core = new DestinationCore({
      silenceTimeoutUs: SILENCE_TIMEOUT_US,
      recoverTimeoutUs: RECOVER_TIMEOUT_US,
      recorded: undefined,
    });
    this.#driver = new CoreDriver(this.#core, (output) => this.#perform(output));
    log.setContext({ role: 'secondary' });
    if (options.speech !== undefined) options.speech.hooks = {};
    this.#take(arrival.session);
    const section = sourceSectionOf(arrival.hello);
    this.#onSection(this.#sessions, section);
  }

  /** `holding`: this host may have the guest in a moment. */
  get probeAnswer(): ProbeAnswer {
    const { kind } = this.#core.state;
    return kind === 'running' || kind === 'ended' ? 'serving' : 'holding';
  }

  /** The source comes again after a broken network; from where, is its operator's choice. */
  accept(): AcceptDecision {
    if (!this.#over) return { ok: true };
    return { ok: false, reason: 'This node is about to be the primary' };
  }

  onSession(session: Session): void {
    this.#current?.session.destroy();
    this.#take(session);
  }

  #take(session: Session): void {
    this.#sessions += 1;
    const number = this.#sessions;
    const channel = new SessionChannel<DestinationSection, SourceSection>(session, {
      out: DESTINATION_SECTIONS,
      in: SOURCE_SECTIONS,
    });
    this.#current = { number, session, channel };
    channel.onClose(({ reason }) => {
      this.#problem = reason;
      this.#driver.input({ kind: 'sessionLost', session: number, reason });
    });
    channel.onSection((section) => this.#onSection(number, section));
  }

  #onSection(session: number, section: SourceSection): void {
    if (section.kind === 'pages' || section.kind === 'demanded') {
      const { batch, sequence } = section;
      const guest = this.#guest;
      if (guest === undefined) throw new ProtocolError('Pages came before their guest was there');
      const ranges = guest.rangesOf(batch);
      this.#receivedBytes += batch.length;
      const stream = section.kind === 'pages' ? 'ram' : 'demanded';
      const crc = crc32c(batch);
      this.#driver.input({ kind: 'batch', session, stream, sequence, ranges, batch, crc });
      return;
    }
    this.#driver.input({ kind: 'section', session, section });
    if (section.kind === 'released') this.#onReleased();
  }

  #perform(output: DestinationOutput): void {
    switch (output.kind) {
      case 'put':
        this.#put(output.session, output.section);
        return;
      case 'closeSession':
        this.#closeSession(output.session);
        return;
      case 'prepare':
        this.#inTurn(() => this.#prepare(output.hello));
        return;
      case 'readDigests':
        void this.#guest?.image?.sendDigests(async (section) => {
          this.#driver.input({ kind: 'digests', ...section });
          await this.#turn;
          await this.#current?.channel.drained();
        });
        return;
      case 'apply':
        this.#apply(output);
        return;
      case 'expectPages':
        this.#inTurn(async () => this.#mustHaveGuest().expect(output.ranges));
        return;
      case 'load':
        this.#inTurn(async () => {
          await this.#mustHaveGuest().load(output.deviceState, output.ramDigest);
          return { kind: 'guestLoaded' };
        });
        return;
      case 'record':
        this.#inTurn(() => this.#record(output.what), true);
        return;
      case 'start':
        this.#inTurn(() => this.#start());
        return;
      case 'allPagesHere':
        this.#inTurn(() => this.#mustHaveGuest().complete());
        return;
      case 'applyBackup':
        this.#inTurn(() => this.#applyBackup(output.path, output.missing));
        return;
      case 'discard':
        this.#inTurn(() => this.#discard(output.reason), true);
        return;
      case 'alarm':
        this.#problem = output.message;
        this.#log.error(output.message);
        return;
      case 'commandRefused':
        this.#refusal = output.reason;
        this.#answerFinish({ ok: false, code: 'COLO_E_MIGRATE', reason: output.reason });
        return;
      case 'ended':
        void this.#end(output.outcome);
        return;
    }
  }

  /** In turn with what is done to the guest: an answer follows its effect (I6). */
  #put(session: number, section: DestinationSection): void {
    const send = (): void => {
      if (this.#current?.number === session) this.#current.channel.put(section);
    };
    // A page that somebody waits for is asked for at once.
    if (section.kind === 'demand') send();
    else this.#inTurn(async () => send(), true);
  }

  #closeSession(number: number): void {
    const current = this.#current;
    if (current?.number === number) this.#inTurn(async () => current.session.close(), true);
  }

  async #prepare(section: HelloSection): Promise<DestinationInput> {
    const { configuration, log, speech, reserve } = {
      ...this.#options,
      configuration: this.#configuration,
    };
    try {
      const json = parseHello(section.definitionJson);
      const { host: ownHost } = configuration;
      checkSpeech(speech, { host: json.host, peerHas: json.speech !== null, ownHost });
      await reserve.used(json.epoch);
      const guest = await ArrivingGuest.launch({
        configuration,
        hello: json,
        section,
        lease: speech?.lease,
        log,
        onFault: (offset) => this.#driver.input({ kind: 'fault', offsets: [offset] }),
      });
      this.#guest = guest;
      this.#hello = { section, json };
      this.#watch(guest);
      await guest.attach(this.#mustHaveSession());
      const { qemuVersion } = guest.guest.emulator.description;
      const { verdictsJson } = guest;
      const { host } = configuration;
      return { kind: 'prepared', host, qemuVersion, image: guest.image?.id, verdictsJson };
    } catch (error) {
      if (!(error instanceof ColoError)) throw error;
      const source = `${section.host}, ${section.vm}`;
      const differences = [{ what: 'guest', source, destination: describeError(error) }];
      return { kind: 'unable', differences };
    }
  }

  #watch({ guest }: ArrivingGuest): void {
    const { hooks, emulator } = guest;
    hooks.onDiskStaged = (staged) => {
      this.#staged.add(staged.disk);
      const writable = guest.definition.disks.filter(({ readOnly }) => !readOnly);
      if (this.#staged.size === writable.length) this.#driver.input({ kind: 'disksStaged' });
    };
    hooks.onDisksUnfit = (reason) => this.#broken(reason);
    hooks.onDisksSilent = (reason) => this.#log.error('A disk is silent', { reason });
    hooks.onDisksFailure = (error) => this.#broken(`The disk thread: ${describeError(error)}`);
    hooks.onNetworkFailure = (error) => this.#broken(`The network thread: ${describeError(error)}`);
    void emulator.exited.then(({ reason }) => {
      if (!this.#over) this.#driver.input({ kind: 'guestGone', reason: `QEMU: ${reason}` });
    });
    emulator.onGuestEvent((event) => {
      if (this.#over || event.kind !== 'shutdown') return;
      this.#driver.input({ kind: 'guestGone', reason: 'The guest powered off' });
    });
  }

  /** Pages are taken as they come, not in turn: what is in turn may wait for one of them. */
  #apply(output: Extract<DestinationOutput, { kind: 'apply' }>): void {
    const { session, stream, sequence, batch, ranges } = output;
    try {
      this.#mustHaveGuest().apply(batch, ranges);
    } catch (error) {
      if (!(error instanceof ColoError)) throw error;
      this.#broken(describeError(error));
      return;
    }
    this.#driver.input({ kind: 'applied', session, stream, sequence });
  }

  async #record(what: 'taking' | 'owns' | 'discarded'): Promise<void> {
    const migration = this.#hello?.section.migration;
    if (migration !== undefined) await writeMigrationRecord(this.#configuration, migration, what);
  }

  async #start(): Promise<DestinationInput> {
    const { lanAnnounce } = this.#configuration;
    const epoch = this.#hello?.json.epoch ?? 0;
    await this.#waitForGrant();
    await this.#mustHaveGuest().start(epoch, lanAnnounce);
    this.#log.setContext({ role: 'primary' });
    this.#log.warn('The guest runs here', { from: this.#hello?.section.host });
    return { kind: 'guestRuns' };
  }

  /** The source has left: the witness gives the right to whoever asks. */
  async #waitForGrant(): Promise<void> {
    const { speech } = this.#options;
    const offer = this.#hello?.json.speech ?? null;
    if (speech === undefined || offer === null) return;
    speech.arrived(offer);
    const sinceUs = monotonicUs();
    let warned = false;
    while (!speech.isAlone && this.#stopping === undefined) {
      if (!warned && monotonicUs() - sinceUs > GRANT_WARNING_MS * 1000) {
        warned = true;
        this.#log.error('The guest waits: the witness does not let it speak here');
      }
      await delay(GRANT_PAUSE_MS);
    }
  }

  async #applyBackup(path: string, missing: readonly PageRange[]): Promise<DestinationInput> {
    try {
      const migration = this.#hello?.section.migration ?? '';
      const ranges = await this.#mustHaveGuest().fill(path, { migration, missing });
      return { kind: 'backupApplied', ranges };
    } catch (error) {
      if (!(error instanceof ColoError) && !isSystemError(error)) throw error;
      return { kind: 'backupRefused', reason: describeError(error) };
    }
  }

  async #discard(reason: string): Promise<void> {
    this.#log.warn('The guest does not come', { reason });
    this.#problem = reason;
    const guest = this.#guest;
    this.#guest = undefined;
    this.#over = true;
    await guest?.guest.stop();
  }

  /** Also of what was found out only when QEMU had ended. */
  #broken(reason: string): void {
    if (!this.#over) this.#driver.input({ kind: 'broken', reason, ran: this.#ran });
  }

  /** The guest may have run here. */
  get #ran(): boolean {
    const { kind } = this.#core.state;
    return kind === 'starting' || kind === 'running' || kind === 'ended';
  }

  /** Carries it out after what was begun before it, and tells the core what came of it. */
  #inTurn(step: () => Promise<DestinationInput> | Promise<void>, anyway = false): void {
    this.#turn = this.#turn.then(async () => {
      // What came before it is not as this step needs it; the core is told, and ends it.
      if (this.#failed && !anyway) return;
      try {
        const input = await step();
        if (input !== undefined) this.#driver.input(input);
      } catch (error) {
        this.#failed = true;
        this.#broken(describeError(error));
      }
    });
  }

  #mustHaveGuest(): ArrivingGuest {
    const guest = this.#guest;
    if (guest === undefined) throw new ProtocolError('There is no guest yet');
    return guest;
  }

  #mustHaveSession(): Session {
    const session = this.#current?.session;
    if (session === undefined) throw new ProtocolError('There is no session');
    return session;
  }

  async #end(outcome: DestinationOutcome): Promise<void> {
    await this.#turn;
    switch (outcome.kind) {
      case 'completed':
        await this.#handOn();
        return;
      case 'discarded':
        this.#leave();
        await this.#current?.session.closedWithin(CLOSE_TIMEOUT_MS);
        this.#finish(this.#away(outcome.reason));
        return;
      case 'lost':
        this.#leave();
        this.#current?.session.destroy();
        await this.#guest?.guest.stop();
        this.#finish({ kind: 'left', exit: { exitCode: 1, reason: outcome.reason } });
        return;
    }
  }

  /** A host that is told to stop does not wait for the next guest. */
  #away(reason: string): RoleEnd {
    const stopping = this.#stopping;
    if (stopping === undefined) return { kind: 'demoted', reason };
    return { kind: 'left', exit: { exitCode: 0, reason: stopping } };
  }

  /**
   * The core still answers a source that did not hear that the guest runs here, until the source
   * has let go, or for so long that its operator has been called.
   */
  async #handOn(): Promise<void> {
    const released = this.#released;
    await Promise.race([released, delay(RELEASED_TIMEOUT_MS, undefined, { ref: false })]);
    const [guest, hello] = [this.#guest, this.#hello];
    if (guest === undefined || hello === undefined) return;
    this.#leave();
    this.#current?.session.destroy();
    guest.guest.network.detach();
    guest.guest.disks.detach();
    await removeMigrationRecord(this.#configuration);
    await guest.settled();
    const { epoch, policy, port } = hello.json;
    const host = this.#current?.session.remoteAddress.replace(/^::ffff:/, '') ?? '';
    this.#finish({
      kind: 'promoted',
      guest: guest.guest,
      epoch,
      policy,
      peer: { host, port },
      downtimeUs: this.#downtimeUs,
      release: () => undefined,
    });
  }

  /** Nothing is told to this role any more. */
  #leave(): void {
    this.#over = true;
    this.#driver.stop();
    this.#answerFinish({ ok: true, detail: 'The guest lacks nothing any more' });
  }

  #answerFinish(result: CommandResult): void {
    for (const answer of this.#finishing.splice(0)) answer(result);
  }

  stop(reason: string): void {
    this.#stopping = reason;
    this.#driver.input({ kind: 'operatorCancel' });
  }

  get migration(): MigrationControl {
    return {
      cancel: async () => {
        const refusal = this.#ask({ kind: 'operatorCancel' });
        return refusal ?? { ok: true, detail: 'The guest does not come here' };
      },
      finish: (path) => this.#complete(path),
    };
  }

  async #complete(path: string): Promise<CommandResult> {
    const done = new Promise<CommandResult>((resolve) => this.#finishing.push(resolve));
    this.#driver.input({ kind: 'operatorFinish', path });
    return await done;
  }

  /** What the core refuses it refuses at once. */
  #ask(input: DestinationInput): CommandResult | undefined {
    this.#refusal = undefined;
    this.#driver.input(input);
    const reason = this.#refusal;
    return reason === undefined ? undefined : { ok: false, code: 'COLO_E_MIGRATE', reason };
  }

  status(): NodeStatus {
    const guest = this.#guest?.guest;
    return {
      ...plainStatus(this.#configuration, {
        state: 'receiving',
        uptimeUs: monotonicUs() - this.#startedAtUs,
        ...(guest === undefined ? {} : guestFacts(guest)),
      }),
      role: this.#ran ? 'primary' : 'secondary',
      epoch: this.#hello?.json.epoch ?? 0,
      speech: this.#options.speech?.status ?? null,
      migration: this.#migrationStatus(),
      lastFailure: this.#problem,
    };
  }

  #migrationStatus(): MigrationStatus {
    const { state } = this.#core;
    const ram = this.#guest?.guest.emulator.ram.sizeBytes ?? 0;
    const missing = this.#guest?.missing ?? [];
    const left = missing.reduce((sum, { length }) => sum + length, 0);
    const faults = this.#guest?.guest.emulator.missingPages?.figures();
    return {
      direction: 'incoming',
      peer: this.#current?.session.remoteAddress ?? '',
      method: this.#hello?.section.choices.mode ?? 'precopy',
      state: state.kind,
      round: 0,
      doneBytes: ram - left,
      totalBytes: ram,
      sentBytes: this.#receivedBytes,
      bytesPerSecond: 0,
      remainingMs: null,
      throttlePercent: 0,
      downtimeMs: null,
      faults:
        faults === undefined
          ? null
          : { count: faults.faults, p50Us: faults.p50Us, p99Us: faults.p99Us },
      problem: this.#problem,
    };
  }

  failover(): Promise<CommandResult> {
    return this.#notNow();
  }

  switchover(): Promise<CommandResult> {
    return this.#notNow();
  }

  setPeriod(): CommandResult {
    return NOT_NOW;
  }

  setMode(): Promise<CommandResult> {
    return this.#notNow();
  }

  capture(): Promise<CommandResult> {
    return this.#notNow();
  }

  checkpoint(): Promise<CommandResult> {
    return this.#notNow();
  }

  verify(): Promise<VerifyAnswer> {
    return this.#notNow();
  }

  async #notNow(): Promise<typeof NOT_NOW> {
    return NOT_NOW;
  }
}

const NOT_NOW = {
  ok: false,
  code: 'COLO_E_ROLE',
  reason: 'A guest is being moved to this host',
} as const;

function isSystemError(error: unknown): boolean {
  return error instanceof Error && 'syscall' in error;
}
