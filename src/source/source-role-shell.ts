/**
 * The role of a node that moves its guest to another host: carries out what the core decides, and
 * tells the core what happened. The guest runs here until the core gives it up.
 *
 * Reading order: the constructor wires the parts, `#perform` has a line or two per instruction of
 * the core, the rest are the instructions that take more. What is sent on the control link, and
 * what needs the guest, is done strictly in the order of the core's outputs (`#inTurn`).
 */
import { randomBytes } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import { parseAcceptedImages } from '../blockrep/index.js';
import {
  type CommandResult,
  type Configuration,
  formatAddress,
  type MigrateOptions,
  type MigrationControl,
  type MigrationStatus,
  type NodeLogger,
  type NodeStatus,
  parseAddress,
} from '../config/index.js';
import {
  type Departure,
  guestFacts,
  guestHello,
  type MigrationFact,
  MovingRole,
  type NodeIdentity,
  type NodeRole,
  plainStatus,
  type RoleEnd,
  removeMigrationRecord,
  SessionChannel,
  type Speech,
  sharedDisks,
  writeMigrationRecord,
} from '../guest/index.js';
import { describeError, Timeline } from '../lib/index.js';
import { monotonicUs, setUrgent } from '../linux/index.js';
import {
  DESTINATION_SECTIONS,
  type DestinationSection,
  type HelloSection,
  LINK_OF,
  movesDisks,
  SOURCE_SECTIONS,
  SourceCore,
  type SourceInput,
  type SourceOutcome,
  type SourceOutput,
  type SourceSection,
} from '../migration/index.js';
import { CoreDriver, digestRam, type SpeechOffer } from '../replication/index.js';
import {
  type AcceptDecision,
  connectSession,
  type ProbeAnswer,
  type Session,
} from '../transport/index.js';
import { Assist } from './assist-shell.js';
import { DepartingGuest } from './departing-guest-shell.js';
import { DepartureFigures } from './departure-figures.js';
import { keepRam } from './keep-ram-shell.js';
import { ALIVE_MS, CONNECT_TIMEOUT_MS, GOODBYE_TIMEOUT_MS, SILENCE_TIMEOUT_US } from './limits.js';
import { migrationHello } from './migration-hello.js';
import { writeMissingPages } from './missing-pages-file-shell.js';
import { OutgoingPages } from './outgoing-pages-shell.js';

const MIGRATION_ID_BYTES = 16;

export interface SourceRoleOptions {
  readonly configuration: Configuration;
  readonly log: NodeLogger;
  readonly departure: Departure;
  readonly identity: NodeIdentity;
  /** Undefined without a witness. */
  readonly speech: Speech | undefined;
}

interface Current {
  readonly number: number;
  readonly session: Session;
  readonly channel: SessionChannel<SourceSection, DestinationSection>;
}

/** Runs until the guest lives at the destination, goes on here, or is no more. */
export class SourceRole extends MovingRole implements NodeRole {
  readonly ended: Promise<RoleEnd>;
  readonly #options: SourceRoleOptions;
  readonly #configuration: Configuration;
  readonly #log: NodeLogger;
  readonly #departure: Departure;
  readonly #wish: MigrateOptions;
  readonly #guest: DepartingGuest;
  readonly #assist: Assist;
  readonly #pages: OutgoingPages;
  readonly #keeping = new AbortController();
  readonly #core: SourceCore;
  readonly #driver: CoreDriver<SourceInput, SourceOutput>;
  readonly #figures = new DepartureFigures(monotonicUs());
  readonly #timeline = new Timeline(monotonicUs());
  readonly #migration = randomBytes(MIGRATION_ID_BYTES).toString('hex');
  #sessions = 0;
  #current: Current | undefined;
  #address: MigrateOptions['to'];
  #turn: Promise<unknown> = Promise.resolve();
  /** What went wrong last with the connection; replaced by the next attempt's. */
  #problem: string | null = null;
  /** What an operator is called for; stays until the destination is there again. */
  #alarm: string | null = null;
  #refusal: string | undefined;
  #verdicts = '[]';
  #recorded: MigrationFact | undefined;
  /** What the destination was given, to ask the witness with. Undefined without one. */
  #offer: SpeechOffer | undefined;
  /** The right to speak was given back. */
  #hasLeft = false;
  #released = false;
  #finish: (end: RoleEnd) => void = () => undefined;

  constructor(options: SourceRoleOptions) {
    super('The guest is being moved to another host');
    const { configuration, log, departure } = options;
    this.#options = options;
    this.#configuration = configuration;
    this.#log = log;
    this.#departure = departure;
    this.#wish = departure.options;
    this.#address = departure.options.to;
    const { emulator, hooks } = departure.guest;
    this.ended = new Promise((resolve) => {
      this.#finish = resolve;
    });
    const hello = migrationHello(this.#migration, {
      ...{ configuration, guest: departure.guest, wish: this.#wish },
    });
    this.#guest = new DepartingGuest({
      guest: departure.guest,
      epoch: departure.epoch,
      resyncBytesPerSecond: configuration.resyncBytesPerSecond,
      movesDisks: movesDisks(hello.disks),
      shared: sharedDisks(configuration, departure.guest.definition.disks),
      onPart: (part) => this.#mark(part),
    });
    this.#assist = new Assist(departure.guest, log);
    this.#pages = new OutgoingPages({
      ...{ ...this.#wish, log, ram: emulator.ram, lacksPages: this.#wish.method !== 'precopy' },
      onFailure: (error) => this.#driver.input({ kind: 'broken', reason: error.message }),
    });
    this.#core = new SourceCore({
      hello,
      knownImages: this.#assist.knownImages,
      maxBandwidth: this.#wish.bytesPerSecondMax ?? undefined,
      downtimeLimitUs: this.#wish.downtimeLimitUs,
      autoConverge: this.#wish.autoConverge,
      onNoConvergence: 'keep-going',
      recoverTimeoutUs: this.#wish.recoverTimeoutUs,
      silenceTimeoutUs: SILENCE_TIMEOUT_US,
      settlesDisks: hello.disks.some(({ readOnly }) => !readOnly),
      movesDisks: movesDisks(hello.disks),
    });
    this.#driver = new CoreDriver(this.#core, (output) => this.#perform(output));
    hooks.onDisksOverBound = undefined;
    hooks.onCheckpointNeeded = undefined;
    hooks.onNetworkFailure = (error) => this.#guestGone(`The network thread: ${error.message}`);
    hooks.onDisksFailure = (error) => this.#guestGone(`The disk thread: ${error.message}`);
    hooks.onDisksSilent = (reason) => this.#driver.input({ kind: 'broken', reason });
    void emulator.exited.then(({ reason }) => this.#guestGone(`QEMU: ${reason}`));
    emulator.onGuestEvent((event) => {
      if (event.kind === 'shutdown') this.#guestGone('The guest powered off');
    });
    log.setContext({ role: 'primary', epoch: departure.epoch });
    log.info('The guest is moved', { to: formatAddress(this.#wish.to), method: this.#wish.method });
    this.#driver.input({ kind: 'start' });
  }

  /** Asked about the guest, this host still answers for it, or may yet. */
  get probeAnswer(): ProbeAnswer {
    return this.#core.state.kind === 'handedOver' ? 'holding' : 'serving';
  }

  accept(): AcceptDecision {
    return { ok: false, reason: 'This node moves its guest' };
  }

  onSession(session: Session): void {
    session.destroy();
  }

  /** Once the guest has been given up, this end goes on serving its pages. */
  stop(reason: string): void {
    this.#keeping.abort(reason);
    if (this.#released) return;
    this.#log.info('The migration is cancelled', { reason });
    this.#driver.input({ kind: 'operatorCancel' });
  }

  get migration(): MigrationControl {
    return {
      cancel: () => this.#decide({ kind: 'operatorCancel' }, 'The guest goes on here'),
      recover: (to) => this.#recover(to),
      force: () => this.#takeBack(),
      release: () => this.#decide({ kind: 'operatorRelease' }, 'This host has let go of the guest'),
    };
  }

  async #takeBack(): Promise<CommandResult> {
    const reason = await this.#guest.refusalToGoOn();
    if (reason !== undefined) return { ok: false, code: 'COLO_E_MIGRATE', reason };
    return this.#decide({ kind: 'operatorForce', by: 'an operator' }, 'The guest runs here');
  }

  /** What ends the migration. */
  async #decide(input: SourceInput, detail: string): Promise<CommandResult> {
    const refusal = this.#ask(input);
    if (refusal !== undefined) return refusal;
    await this.ended;
    return { ok: true, detail };
  }

  async #recover(to: MigrateOptions['to'] | null): Promise<CommandResult> {
    const address = to === null ? undefined : formatAddress(to);
    const refusal = this.#ask({ kind: 'operatorRecover', address });
    if (refusal !== undefined) return refusal;
    return { ok: true, detail: `Trying ${formatAddress(to ?? this.#address)}` };
  }

  /** What the core refuses it refuses at once. */
  #ask(input: SourceInput): CommandResult | undefined {
    this.#refusal = undefined;
    this.#driver.input(input);
    const reason = this.#refusal;
    return reason === undefined ? undefined : { ok: false, code: 'COLO_E_MIGRATE', reason };
  }

  status(): NodeStatus {
    const { guest, epoch } = this.#departure;
    return {
      ...plainStatus(this.#configuration, {
        phase: 'migrating',
        state: 'migrating',
        uptimeUs: monotonicUs() - this.#figures.startedAtUs,
        ...guestFacts(guest),
      }),
      role: 'primary',
      epoch,
      speech: this.#options.speech?.status ?? null,
      migration: this.#migrationStatus(),
      lastFailure: this.#alarm ?? this.#problem,
    };
  }

  #migrationStatus(): MigrationStatus {
    return this.#figures.status(this.#core.progress(monotonicUs()), {
      address: this.#address,
      method: this.#wish.method,
      sentBytes: this.#pages.sentBytes,
      disks: this.#departure.guest.disks.figures.disks.map(({ resync }) => resync),
      problem: this.#alarm ?? this.#problem,
    });
  }

  #mark(part: string): void {
    this.#timeline.mark(part, monotonicUs());
    if (part === 'stop') this.#log.debug('The guest stands still');
    // The pages that it may wait for now are another thread's.
    if (part === 'running') setUrgent(false);
  }

  #perform(output: SourceOutput): void {
    switch (output.kind) {
      case 'connect':
        void this.#connect(output.address);
        return;
      case 'closeSession':
        this.#closeSession(output.session, output.reason);
        return;
      case 'put':
        this.#put(output.session, output.section);
        return;
      case 'startTracking':
        this.#inTurn(async () => {
          // From here on the images look as if another host might have gone on with them.
          await this.#record('moving');
          const { session } = this.#mustHaveSession();
          await this.#guest.attach(session, parseAcceptedImages(JSON.parse(this.#verdicts)));
          const ranges = this.#guest.track();
          this.#assist.tracking(ranges);
          this.#mark('attachDisks');
          void this.#moveDisks();
          return { kind: 'trackingStarted', ranges };
        });
        return;
      case 'scan':
        this.#inTurn(async () => ({ kind: 'scanned', ranges: this.#guest.scan() }));
        return;
      case 'compareImage':
        this.#inTurn(async () => {
          // Each is some milliseconds of work.
          await setImmediate();
          const answer = this.#assist.compare(output.bytes, output.last);
          if (answer !== undefined) this.#driver.input(answer);
        });
        return;
      case 'compareKnownImage':
        this.#inTurn(async () => this.#assist.compareKnown());
        return;
      case 'sendPages':
        void this.#sendPages(output);
        return;
      case 'throttle':
        this.#inTurn(async () => {
          await this.#departure.guest.emulator.setThrottle(output.percent);
        });
        return;
      case 'pause':
        this.#mark('pages');
        setUrgent(true);
        this.#inTurn(async () => {
          const { session } = this.#mustHaveSession();
          await this.#guest.pause(session, () => this.#figures.pausing(monotonicUs()));
          return { kind: 'paused' };
        });
        return;
      case 'captureDevices':
        this.#inTurn(async () => {
          const bytes = await this.#guest.devices();
          const { guest, policy } = this.#departure;
          const ramDigest = policy.verify ? await digestRam(guest.emulator.ram) : undefined;
          return { kind: 'devicesCaptured', bytes, ramDigest };
        });
        return;
      case 'settleDisks':
        this.#inTurn(async () => {
          await this.#guest.settleDisks();
          this.#mark('settleDisks');
          return { kind: 'disksSettled' };
        });
        return;
      case 'giveUp':
        // Whatever keeps it from being written down, the guest can still go on here.
        this.#inTurn(async () => {
          await this.#record('given-up');
          this.#mark('record');
          return { kind: 'gaveUp' };
        });
        return;
      case 'resumeGuest':
        this.#inTurn(async () => {
          // What is demanded is read until then.
          await this.#pages.stop();
          await this.#guest.goOn();
        });
        return;
      case 'record':
        this.#inTurn(async () => {
          await this.#record(output.what);
          this.#mark('record');
        });
        return;
      case 'writeBackup':
        this.#inTurn(() => {
          const [configuration, migration, log] = [this.#configuration, this.#migration, this.#log];
          const { ram } = this.#departure.guest.emulator;
          return writeMissingPages({ configuration, migration, log, ram }, output.ranges);
        });
        return;
      case 'release':
        // `#end` stops the guest: its memory may be kept first.
        return;
      case 'alarm':
        this.#alarm = output.message;
        this.#log.error(output.message);
        return;
      case 'commandRefused':
        this.#refusal = output.reason;
        return;
      case 'ended':
        void this.#end(output.outcome);
        return;
    }
  }

  /** Durable when it resolves; what stands there already is not synced again in the pause. */
  async #record(what: MigrationFact): Promise<void> {
    if (what === this.#recorded) return;
    // A write that fails may have been made, or not.
    this.#recorded = undefined;
    await writeMigrationRecord(this.#configuration, this.#migration, what);
    this.#recorded = what;
  }

  async #connect(address: string | undefined): Promise<void> {
    if (address !== undefined) this.#address = parseAddress(address);
    let session: Session;
    try {
      session = await connectSession({
        ...this.#address,
        timeoutMs: CONNECT_TIMEOUT_MS,
        log: this.#log,
        resumeWithinMs: this.#configuration.peerTimeoutUs / 1000,
        security: this.#options.identity.security,
      });
    } catch (error) {
      const reason = describeError(error);
      this.#problem = reason;
      this.#driver.input({ kind: 'connectFailed', reason });
      return;
    }
    this.#options.identity.met(session);
    this.#sessions += 1;
    const number = this.#sessions;
    const channel = new SessionChannel<SourceSection, DestinationSection>(session, {
      out: SOURCE_SECTIONS,
      in: DESTINATION_SECTIONS,
    });
    this.#current = { number, session, channel };
    if (number > 1) this.#pages.restart();
    void this.#pages.attach(session);
    channel.onClose(({ reason }) => {
      this.#problem = reason;
      this.#driver.input({ kind: 'sessionLost', session: number, reason });
    });
    channel.onSection((section) => {
      if (section.kind === 'received') this.#pages.received(section.sequence);
      if (section.kind === 'accepted') this.#accepted(section);
      this.#figures.heard(section, monotonicUs());
      if (MARKED.has(section.kind)) this.#mark(section.kind);
      this.#driver.input({ kind: 'section', session: number, section });
    });
    [this.#problem, this.#alarm] = [null, null];
    this.#driver.input({ kind: 'connected', session: number });
  }

  #accepted({ verdictsJson, image }: Extract<DestinationSection, { kind: 'accepted' }>): void {
    void this.#guest.shown();
    this.#verdicts = verdictsJson;
    this.#assist.offered(image);
    if (image !== undefined) this.#pages.destinationHasImage();
  }

  #closeSession(number: number, reason: string): void {
    const current = this.#current;
    if (current?.number !== number) return;
    this.#log.debug('The session is closed', { reason });
    // What was put before it is sent before it.
    this.#inTurn(async () => current.session.close());
  }

  /**
   * What goes with the pages follows those before it; the rest is in turn with what is done to the
   * guest: `run` is not sent before this host is silent.
   */
  #put(session: number, section: SourceSection): void {
    if (LINK_OF[section.kind] === 'ram') {
      void this.#pages.afterPages(() => this.#putNow(session, section));
      return;
    }
    this.#inTurn(async () => {
      if (section.kind === 'run') {
        await this.#guest.silence();
        this.#hasLeft = true;
        await this.#options.speech?.leave('The guest is moved to another host');
        this.#mark('silence');
      }
      this.#putNow(session, section.kind === 'hello' ? await this.#completed(section) : section);
      // While the destination prepares; it is needed as soon as that answers.
      if (section.kind === 'hello') await this.#record('moving');
    });
  }

  #putNow(session: number, section: SourceSection): void {
    const current = this.#current;
    if (current?.number !== session) return;
    if (section.kind === 'switchover' && section.postcopy) this.#pages.beginPostcopy();
    current.channel.put(section);
    if (section.kind === 'run') this.#figures.saysRun(monotonicUs());
    if (section.kind === 'switchover') this.#mark('lastPages');
  }

  /** What another host needs to know of the guest is as of now. */
  async #completed(hello: HelloSection): Promise<HelloSection> {
    const { guest, policy, epoch } = this.#departure;
    this.#offer = await this.#options.speech?.offer(this.#mustHaveSession().session);
    const definitionJson = guestHello({
      ...{ configuration: this.#configuration, guest, epoch, policy },
      images: await guest.disks.images(),
      sharedDisks: await this.#guest.showShared(this.#migration),
      identity: this.#options.identity,
      speech: this.#offer ?? null,
    });
    return { ...hello, definitionJson };
  }

  /** Beside the pages. */
  async #moveDisks(): Promise<void> {
    const { channel } = this.#mustHaveSession();
    // Disks may take hours, in which the destination hears nothing of them on this link.
    const alive = setInterval(() => {
      channel.put({ kind: 'round', round: 0, batches: 0, dirtyPages: 0 });
    }, ALIVE_MS);
    try {
      await this.#guest.moveDisks();
      this.#mark('disks');
      this.#driver.input({ kind: 'disksReady' });
    } catch (error) {
      // A session that is over is told by the session.
      if (this.#current?.session.closeReason !== undefined) return;
      this.#driver.input({ kind: 'broken', reason: describeError(error) });
    } finally {
      clearInterval(alive);
    }
  }

  async #sendPages(output: Extract<SourceOutput, { kind: 'sendPages' }>): Promise<void> {
    const { session, sequence } = output;
    const now = () => (this.#current?.number === session ? this.#current : undefined);
    try {
      const sent = await this.#pages.send(output, () => now()?.channel);
      if (sent === undefined) return;
      this.#driver.input({ kind: 'pagesSent', session, sequence, ...sent });
    } catch (error) {
      // A session that is over is told by the session.
      if (now() === undefined || now()?.session.closeReason !== undefined) return;
      this.#driver.input({ kind: 'broken', reason: describeError(error) });
    }
  }

  /** Carries it out after what was begun before it, and tells the core what came of it. */
  #inTurn(step: () => Promise<SourceInput> | Promise<void>): void {
    this.#turn = this.#turn.then(async () => {
      try {
        const input = await step();
        if (input !== undefined) this.#driver.input(input);
      } catch (error) {
        if (this.#current?.session.closeReason !== undefined) return;
        this.#driver.input({ kind: 'broken', reason: describeError(error) });
      }
    });
  }

  #mustHaveSession(): Current {
    const current = this.#current;
    if (current === undefined) throw new Error('There is no session');
    return current;
  }

  #guestGone(reason: string): void {
    if (!this.#released) this.#driver.input({ kind: 'guestGone', reason });
  }

  async #end(outcome: SourceOutcome): Promise<void> {
    this.#released = true;
    this.#driver.stop();
    setUrgent(false);
    const endUs = monotonicUs();
    await this.#turn;
    const { guest, answer, policy, peer } = this.#departure;
    await this.#pages.end(() => this.#current?.session.closedWithin(GOODBYE_TIMEOUT_MS));
    const to = formatAddress(this.#address);
    switch (outcome.kind) {
      case 'moved': {
        const { demandedPages } = this.#core.progress(endUs);
        const migration = this.#figures.total(endUs, this.#pages.sentBytes, demandedPages);
        this.#log.info('The guest has been moved', { to, ...migration });
        this.#log.debug('Microseconds by part', this.#timeline.partsUs);
        answer({ ok: true, detail: `The guest runs on ${to} now`, migration });
        await keepRam({
          ...{ configuration: this.#configuration, log: this.#log, migration: this.#migration },
          ...{ epoch: this.#guest.epoch, ram: guest.emulator.ram, signal: this.#keeping.signal },
        });
        await guest.stop();
        this.#finish({ kind: 'left', exit: { exitCode: 0, reason: `The guest runs on ${to}` } });
        return;
      }
      case 'kept': {
        this.#log.warn('The guest goes on here', { reason: outcome.reason });
        await this.#guest.goOn();
        if (this.#hasLeft && this.#offer !== undefined) this.#options.speech?.arrived(this.#offer);
        await removeMigrationRecord(this.#configuration);
        answer({ ok: false, code: 'COLO_E_MIGRATE', reason: outcome.reason });
        this.#finish({
          ...{ kind: 'promoted', guest, epoch: this.#guest.epoch, policy, peer },
          downtimeUs: undefined,
          release: () => undefined,
        });
        return;
      }
      case 'gone':
        answer({ ok: false, code: 'COLO_E_MIGRATE', reason: outcome.reason });
        await guest.stop();
        this.#finish({ kind: 'left', exit: { exitCode: 0, reason: outcome.reason } });
        return;
    }
  }
}

/** Of the timeline: what ends when the destination has said it. */
const MARKED: ReadonlySet<string> = new Set(['accepted', 'loaded', 'running', 'complete']);
