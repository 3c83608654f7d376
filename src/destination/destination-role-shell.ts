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
  NodeLogger,
  NodeStatus,
} from '../config/index.js';
import {
  checkSpeech,
  MovingRole,
  type NodeRole,
  type RoleEnd,
  removeMigrationRecord,
  SessionChannel,
  sourceSectionOf,
  writeMigrationRecord,
} from '../guest/index.js';
import {
  ColoError,
  countBytes,
  crc32c,
  describeError,
  type PageRange,
  ProtocolError,
  Timeline,
} from '../lib/index.js';
import { monotonicUs, setUrgent } from '../linux/index.js';
import {
  DESTINATION_SECTIONS,
  DestinationCore,
  type DestinationInput,
  type DestinationOutcome,
  type DestinationOutput,
  type DestinationRecord,
  type DestinationSection,
  type HelloSection,
  type LaneSection,
  SOURCE_SECTIONS,
  type SourceSection,
} from '../migration/index.js';
import { CoreDriver, parseHello } from '../replication/index.js';
import type { AcceptDecision, ProbeAnswer, Session } from '../transport/index.js';
import { differencesBy, differencesHere } from './abilities-shell.js';
import { listenToArriving } from './arriving-events-shell.js';
import { ArrivingGuest } from './arriving-guest-shell.js';
import type { DestinationRoleOptions } from './destination-options.js';
import { type ArrivingHello, destinationStatus, recordedHere } from './destination-status.js';
import { waitForGrant } from './grant-shell.js';
import {
  CLOSE_TIMEOUT_MS,
  RECOVER_TIMEOUT_US,
  RELEASED_TIMEOUT_MS,
  SILENCE_TIMEOUT_US,
  STRANGERS_MAX,
} from './limits.js';

interface Current {
  readonly number: number;
  readonly session: Session;
  readonly channel: SessionChannel<DestinationSection, SourceSection>;
}

/** Runs until the guest is this host's, or will not be. */
export class DestinationRole extends MovingRole implements NodeRole {
  readonly ended: Promise<RoleEnd>;
  readonly #options: DestinationRoleOptions;
  readonly #configuration: Configuration;
  readonly #log: NodeLogger;
  readonly #core: DestinationCore;
  readonly #driver: CoreDriver<DestinationInput, DestinationOutput>;
  readonly #startedAtUs = monotonicUs();
  readonly #timeline = new Timeline(monotonicUs());
  #sessions = 0;
  /** By their numbers; the core knows which one is the migration's. */
  readonly #open = new Map<number, Current>();
  /** The source's address, by its last session. */
  #peer = '';
  #hello: ArrivingHello | undefined;
  #guest: ArrivingGuest | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  #receivedBytes = 0;
  #problem: string | null = null;
  #poweredOff: string | undefined;
  #refusal: string | undefined;
  #downtimeUs: number | undefined;
  #stopping: string | undefined;
  #over = false;
  /** A step went wrong; only `discard` and messages follow. */
  #failed = false;
  readonly #released: Promise<void>;
  #onReleased: () => void = () => undefined;
  #finishing: ((result: CommandResult) => void)[] = [];
  #finish: (end: RoleEnd) => void = () => undefined;

  constructor(options: DestinationRoleOptions) {
    super('A guest is being moved to this host');
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
      recorded: recordedHere(options.record),
    });
    this.#driver = new CoreDriver(this.#core, (output) => this.#perform(output));
    log.setContext({ role: 'secondary' });
    if (options.speech !== undefined) options.speech.hooks = {};
    const { number, session } = this.#take(arrival.session);
    try {
      this.#onSection(number, sourceSectionOf(arrival.hello));
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#problem = describeError(error);
      session.destroy();
    }
    if (this.#core.state.kind === 'waiting') void this.#goBack(session);
  }

  /** Nothing comes: a source has asked what became of an earlier migration, or is none. */
  async #goBack(session: Session): Promise<void> {
    await this.#turn;
    this.#leave();
    await session.closedWithin(CLOSE_TIMEOUT_MS);
    this.#finish(this.#away(this.#problem ?? 'A source was told what became of its migration'));
  }

  /** `holding`: this host may have the guest in a moment. */
  get probeAnswer(): ProbeAnswer {
    const { kind } = this.#core.state;
    return kind === 'running' || kind === 'ended' ? 'serving' : 'holding';
  }

  /** The source comes again after a broken network; from where, is its operator's choice. */
  accept(): AcceptDecision {
    if (!this.#over && this.#core.state.kind !== 'waiting') return { ok: true };
    return { ok: false, reason: 'This node is about to be the primary' };
  }

  /** The one before may still seem to be there; it goes when this one names its migration. */
  onSession(session: Session): void {
    const strangers = [...this.#open.keys()].filter((number) => number !== this.#core.session);
    if (strangers.length >= STRANGERS_MAX) this.#open.get(strangers[0] ?? 0)?.session.destroy();
    this.#take(session);
  }

  /** The session of this migration. */
  get #current(): Current | undefined {
    return this.#open.get(this.#core.session ?? 0);
  }

  #take(session: Session): Current {
    this.#sessions += 1;
    const number = this.#sessions;
    const channel = new SessionChannel<DestinationSection, SourceSection>(session, {
      out: DESTINATION_SECTIONS,
      in: SOURCE_SECTIONS,
    });
    const current = { number, session, channel };
    this.#open.set(number, current);
    channel.onClose(({ reason }) => {
      if (number === this.#core.session) this.#problem = reason;
      this.#open.delete(number);
      this.#driver.input({ kind: 'sessionLost', session: number, reason });
      this.#endIfCut();
    });
    channel.onSection((section) => this.#onSection(number, section));
    return current;
  }

  #onSection(session: number, section: Exclude<SourceSection, LaneSection>): void {
    if (section.kind === 'pages') {
      const { batch, sequence, crc = crc32c(batch) } = section;
      const guest = this.#guest;
      if (guest === undefined || session !== this.#core.session) {
        throw new ProtocolError('Pages came of a guest that is not here');
      }
      const ranges = guest.rangesOf(batch, crc);
      this.#receivedBytes += batch.length;
      this.#driver.input({ kind: 'batch', session, sequence, ranges, batch, crc });
      return;
    }
    if (section.kind === 'switchover') setUrgent(true);
    if (section.kind === 'switchover' || section.kind === 'run') this.#mark(section.kind);
    this.#driver.input({ kind: 'section', session, section });
    if (session !== this.#core.session) return;
    this.#peer = this.#current?.session.remoteAddress ?? this.#peer;
    if (section.kind === 'resume') this.#resumed();
    if (section.kind === 'released') this.#onReleased();
  }

  /** The source has come again: what is waited for is asked for there. */
  #resumed(): void {
    this.#problem = null;
    const session = this.#current?.session;
    if (session !== undefined) void this.#guest?.attachFaults(session);
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
        this.#mark('parts');
        this.#inTurn(async () => {
          await this.#mustHaveGuest().load(output.deviceState, output.ramDigest);
          this.#mark('load');
          return { kind: 'guestLoaded' };
        });
        return;
      case 'record':
        this.#recordInTurn(output.what);
        return;
      case 'start':
        this.#inTurn(() => this.#start());
        return;
      case 'speak':
        this.#inTurn(() => this.#speak());
        return;
      case 'allPagesHere':
        this.#mark('pages');
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
      this.#open.get(session)?.channel.put(section);
    };
    // What waits for its turn may wait for a page, and the source for a sign of life. These tell of
    // pages, which are not taken in turn.
    if (section.kind === 'placed' || section.kind === 'received') send();
    else this.#inTurn(async () => send(), true);
  }

  #closeSession(number: number): void {
    const current = this.#open.get(number);
    if (current !== undefined) this.#inTurn(async () => current.session.close(), true);
  }

  async #prepare(section: HelloSection): Promise<DestinationInput> {
    const { configuration, log, speech, reserve } = this.#options;
    try {
      const json = parseHello(section.definitionJson);
      const { host: ownHost } = configuration;
      checkSpeech(speech, { host: json.host, peerHas: json.speech !== null, ownHost });
      const differences = await differencesHere(configuration, { section, json });
      if (differences.length > 0) return { kind: 'unable', differences };
      this.#mark('differences');
      // Beside the launch: they are to be durable before anything of the source comes.
      const written = Promise.all([reserve.used(json.epoch), speech?.vouch(undefined)]);
      written.catch(() => undefined);
      const guest = await ArrivingGuest.launch({
        configuration,
        hello: json,
        section,
        lease: speech?.lease,
        session: this.#mustHaveSession(),
        log,
        onPart: (part) => this.#mark(part),
        onFaults: (offsets) => this.#driver.input({ kind: 'fault', offsets }),
        onPlaced: (ranges, waitsUs) => {
          this.#receivedBytes += countBytes(ranges);
          this.#driver.input({ kind: 'placed', ranges, waitsUs });
        },
        onFailure: (error) => this.#broken(`The fault thread: ${describeError(error)}`),
      });
      this.#mark('launch');
      this.#guest = guest;
      this.#hello = { section, json };
      this.#watch(guest);
      await written;
      await guest.attach(this.#mustHaveSession());
      const { qemuVersion } = guest.guest.emulator.description;
      const { verdictsJson } = guest;
      return { kind: 'prepared', host: ownHost, qemuVersion, image: guest.image?.id, verdictsJson };
    } catch (error) {
      if (!(error instanceof ColoError)) throw error;
      return { kind: 'unable', differences: differencesBy(error, section) };
    }
  }

  #watch({ guest }: ArrivingGuest): void {
    listenToArriving(guest, this.#log, {
      onDisksStaged: () => this.#driver.input({ kind: 'disksStaged' }),
      onBroken: (reason) => this.#broken(reason),
      onPoweredOff: (reason) => {
        if (this.#over) return;
        this.#poweredOff = reason;
        this.#driver.input({ kind: 'poweredOff', reason });
      },
    });
  }

  /** Pages are taken as they come, not in turn: what is in turn may wait for one of them. */
  #apply(output: Extract<DestinationOutput, { kind: 'apply' }>): void {
    const { session, sequence, batch, ranges } = output;
    try {
      this.#mustHaveGuest().apply(batch, ranges);
    } catch (error) {
      if (!(error instanceof ColoError)) throw error;
      this.#broken(describeError(error));
      return;
    }
    this.#driver.input({ kind: 'applied', session, sequence });
  }

  #mark(part: string): void {
    this.#timeline.mark(part, monotonicUs());
  }

  #recordInTurn(what: DestinationRecord): void {
    const { migration } = this.#hello?.section ?? {};
    if (migration === undefined) return;
    const write = () => writeMigrationRecord(this.#configuration, migration, what);
    // Beside the start of the guest: nothing of it leaves this host before both are done.
    const begun = what === 'owns' ? write() : undefined;
    begun?.catch(() => undefined);
    this.#inTurn(() => begun ?? write(), true);
  }

  async #start(): Promise<DestinationInput> {
    const offer = this.#hello?.json.speech ?? null;
    const isStopping = () => this.#stopping !== undefined;
    await waitForGrant(this.#options.speech, { offer, log: this.#log, isStopping });
    await this.#mustHaveGuest().start(this.#hello?.json.epoch ?? 0);
    // The pages that it waits for are another thread's.
    setUrgent(false);
    this.#log.debug('The guest executes');
    return { kind: 'guestRuns' };
  }

  async #speak(): Promise<DestinationInput> {
    await this.#mustHaveGuest().speak(this.#configuration.lanAnnounce);
    this.#log.setContext({ role: 'primary' });
    this.#log.warn('The guest runs here', { from: this.#hello?.section.host });
    return { kind: 'guestSpeaks' };
  }

  async #applyBackup(path: string, missing: readonly PageRange[]): Promise<DestinationInput> {
    try {
      const migration = this.#hello?.section.migration ?? '';
      const ranges = await this.#mustHaveGuest().fill(path, { migration, missing });
      return { kind: 'backupApplied', ranges };
    } catch (error) {
      const isOfFile = error instanceof Error && 'syscall' in error;
      if (!(error instanceof ColoError) && !isOfFile) throw error;
      return { kind: 'backupRefused', reason: describeError(error) };
    }
  }

  async #discard(reason: string): Promise<void> {
    this.#log.warn('The guest does not come', { reason });
    this.#problem = reason;
    const guest = this.#guest;
    this.#guest = undefined;
    this.#over = true;
    await guest?.stop();
  }

  /** Also of what was found out only when QEMU had ended. */
  #broken(reason: string): void {
    const ran = this.#guest?.mayHaveSpoken === true;
    if (!this.#over) this.#driver.input({ kind: 'broken', reason, ran });
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
      case 'poweredOff':
        await this.#untilReleased();
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
        await this.#guest?.stop();
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
  async #untilReleased(): Promise<void> {
    this.#answerFinish({ ok: true, detail: 'The guest lacks nothing any more' });
    await Promise.race([this.#released, delay(RELEASED_TIMEOUT_MS, undefined, { ref: false })]);
  }

  async #handOn(): Promise<void> {
    const poweredOff = this.#poweredOff;
    if (poweredOff !== undefined) {
      this.#leave();
      this.#current?.session.destroy();
      await this.#guest?.stop();
      await removeMigrationRecord(this.#configuration);
      this.#finish({ kind: 'left', exit: { exitCode: 0, reason: poweredOff } });
      return;
    }
    const [guest, hello] = [this.#guest, this.#hello];
    if (guest === undefined || hello === undefined) return;
    this.#mark('released');
    this.#log.debug('Microseconds by part', this.#timeline.partsUs);
    this.#leave();
    this.#current?.session.destroy();
    guest.guest.network.detach();
    guest.guest.disks.detach();
    await removeMigrationRecord(this.#configuration);
    await guest.settled();
    const { epoch, policy, port } = hello.json;
    this.#finish({
      kind: 'promoted',
      guest: guest.guest,
      epoch,
      policy,
      peer: { host: this.#peer.replace(/^::ffff:/, ''), port },
      downtimeUs: this.#downtimeUs,
      release: () => undefined,
    });
  }

  /** Nothing is told to this role any more. */
  #leave(): void {
    this.#over = true;
    setUrgent(false);
    this.#driver.stop();
    this.#answerFinish({ ok: false, code: 'COLO_E_MIGRATE', reason: 'The migration is over' });
  }

  #answerFinish(result: CommandResult): void {
    for (const answer of this.#finishing.splice(0)) answer(result);
  }

  stop(reason: string): void {
    this.#stopping = reason;
    this.#driver.input({ kind: 'operatorCancel' });
    this.#endIfCut();
    if (this.#core.state.kind === 'ended') this.#onReleased();
  }

  /** The guest runs and lacks pages. As long as they come it is not ended for a stop. */
  #endIfCut(): void {
    const { state } = this.#core;
    const isCut = state.kind === 'running' && state.lostAtUs !== undefined;
    if (isCut && this.#stopping !== undefined) this.#broken(this.#stopping);
  }

  get migration(): MigrationControl {
    return {
      cancel: async () => {
        const refusal = this.#ask({ kind: 'operatorCancel' });
        return refusal ?? { ok: true, detail: 'The guest does not come here' };
      },
      finish: (path) => this.#complete(path),
      force: async () => {
        const refusal = this.#ask({ kind: 'operatorForce', by: 'an operator' });
        return refusal ?? { ok: true, detail: 'The guest is started here' };
      },
      release: () => this.#release(),
    };
  }

  /** The source is known to be gone: nobody waits for its word. */
  async #release(): Promise<CommandResult> {
    const { state } = this.#core;
    if (state.kind !== 'ended') {
      const reason = `The guest is not whole here yet (${state.kind})`;
      return { ok: false, code: 'COLO_E_MIGRATE', reason };
    }
    this.#onReleased();
    await this.ended;
    return { ok: true, detail: 'The guest is like any other of this host' };
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
    return destinationStatus({
      configuration: this.#configuration,
      core: this.#core,
      guest: this.#guest,
      hello: this.#hello,
      peer: this.#peer,
      speech: this.#options.speech,
      receivedBytes: this.#receivedBytes,
      problem: this.#problem,
      uptimeUs: monotonicUs() - this.#startedAtUs,
    });
  }
}
