/**
 * The role of a node that moves its guest to another host: carries out what the core decides, and
 * tells the core what happened. The guest runs here until the core gives it up.
 *
 * Reading order: the constructor wires the parts, `#perform` has a line or two per instruction of
 * the core, the rest are the instructions that take more. What is sent on the control link, and
 * what needs the guest, is done strictly in the order of the core's outputs (`#inTurn`).
 */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
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
  type VerifyAnswer,
} from '../config/index.js';
import {
  type Departure,
  guestFacts,
  guestHello,
  type NodeIdentity,
  type NodeRole,
  plainStatus,
  type RoleEnd,
  SessionChannel,
  type Speech,
  writeMigrationRecord,
} from '../guest/index.js';
import { assert, crc32c, describeError, PAGE_SIZE_BYTES, type PageRange } from '../lib/index.js';
import { monotonicUs } from '../linux/index.js';
import {
  DESTINATION_SECTIONS,
  type DestinationSection,
  type HelloSection,
  LINK_OF,
  pageBitmapOf,
  SOURCE_SECTIONS,
  SourceCore,
  type SourceInput,
  type SourceOutcome,
  type SourceOutput,
  type SourceSection,
  writeBackup,
} from '../migration/index.js';
import { CoreDriver, digestRam } from '../replication/index.js';
import {
  type AcceptDecision,
  connectSession,
  type ProbeAnswer,
  type Session,
} from '../transport/index.js';
import { Assist } from './assist-shell.js';
import { DepartingGuest } from './departing-guest-shell.js';
import { keepRam } from './keep-ram-shell.js';
import { CONNECT_TIMEOUT_MS, GOODBYE_TIMEOUT_MS, SILENCE_TIMEOUT_US } from './limits.js';
import { migrationHello } from './migration-hello.js';
import { PageCoding } from './page-coding-shell.js';

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
export class SourceRole implements NodeRole {
  readonly ended: Promise<RoleEnd>;
  readonly #options: SourceRoleOptions;
  readonly #configuration: Configuration;
  readonly #log: NodeLogger;
  readonly #departure: Departure;
  readonly #wish: MigrateOptions;
  readonly #guest: DepartingGuest;
  readonly #assist: Assist;
  readonly #coding: PageCoding;
  readonly #keeping = new AbortController();
  readonly #core: SourceCore;
  readonly #driver: CoreDriver<SourceInput, SourceOutput>;
  readonly #startedAtUs = monotonicUs();
  readonly #migration = randomBytes(MIGRATION_ID_BYTES).toString('hex');
  #sessions = 0;
  #current: Current | undefined;
  #address: MigrateOptions['to'];
  #turn: Promise<unknown> = Promise.resolve();
  /** Of the ram link: pages, one batch after the other, and what goes with them. */
  #ramStream: Promise<unknown> = Promise.resolve();
  #sentBytes = 0;
  #problem: string | null = null;
  #refusal: string | undefined;
  #verdicts = '[]';
  #pausedAtUs: number | undefined;
  #downtimeUs: number | undefined;
  #released = false;
  #finish: (end: RoleEnd) => void = () => undefined;

  constructor(options: SourceRoleOptions) {
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
    this.#guest = new DepartingGuest({
      guest: departure.guest,
      epoch: departure.epoch,
      resyncBytesPerSecond: configuration.resyncBytesPerSecond,
    });
    const hello = migrationHello(this.#migration, {
      ...{ configuration, guest: departure.guest, wish: this.#wish },
    });
    this.#assist = new Assist(departure.guest, log);
    this.#coding = new PageCoding({ ...this.#wish, ram: emulator.ram });
    this.#core = new SourceCore({
      hello,
      knownImages: this.#assist.knownImages,
      maxBandwidth: this.#wish.bytesPerSecondMax ?? undefined,
      downtimeLimitUs: this.#wish.downtimeLimitUs,
      autoConverge: this.#wish.autoConverge,
      onNoConvergence: 'keep-going',
      recoverTimeoutUs: this.#wish.recoverTimeoutUs,
      silenceTimeoutUs: SILENCE_TIMEOUT_US,
      movesDisks: hello.disks.some(({ readOnly }) => !readOnly),
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
      cancel: () => this.#cancel(),
      recover: (to) => this.#recover(to),
    };
  }

  async #cancel(): Promise<CommandResult> {
    const refusal = this.#ask({ kind: 'operatorCancel' });
    if (refusal !== undefined) return refusal;
    await this.ended;
    return { ok: true, detail: 'The guest goes on here' };
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
        state: 'migrating',
        uptimeUs: monotonicUs() - this.#startedAtUs,
        ...guestFacts(guest),
      }),
      role: 'primary',
      epoch,
      speech: this.#options.speech?.status ?? null,
      migration: this.#migrationStatus(),
      lastFailure: this.#problem,
    };
  }

  #migrationStatus(): MigrationStatus {
    const progress = this.#core.progress(monotonicUs());
    const doneBytes = progress.pagesSent * PAGE_SIZE_BYTES;
    return {
      direction: 'outgoing',
      peer: formatAddress(this.#address),
      method: this.#wish.method,
      state: progress.state.kind,
      round: progress.rounds,
      doneBytes,
      totalBytes: doneBytes + progress.pagesLeft * PAGE_SIZE_BYTES,
      sentBytes: this.#sentBytes,
      bytesPerSecond: progress.rate ?? 0,
      remainingMs: progress.leftUs === undefined ? null : progress.leftUs / 1000,
      throttlePercent: progress.throttle,
      downtimeMs: this.#downtimeUs === undefined ? null : this.#downtimeUs / 1000,
      faults: null,
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
          await this.#beginDisks();
          const ranges = this.#guest.track();
          this.#assist.tracking(ranges);
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
        this.#sendPages(output);
        return;
      case 'throttle':
        this.#inTurn(async () => {
          await this.#departure.guest.emulator.setThrottle(output.percent);
        });
        return;
      case 'pause':
        this.#pausedAtUs = monotonicUs();
        this.#inTurn(async () => {
          const { session } = this.#mustHaveSession();
          await this.#guest.pause(session);
          return { kind: 'paused' };
        });
        return;
      case 'captureDevices':
        this.#inTurn(async () => {
          const { devices } = this.#guest;
          assert(devices !== undefined, 'Devices are captured in the pause');
          const { guest, policy, options } = this.#departure;
          const isWhole = options.method === 'precopy' && policy.verify;
          const ramDigest = isWhole ? await digestRam(guest.emulator.ram) : undefined;
          return { kind: 'devicesCaptured', bytes: devices, ramDigest };
        });
        return;
      case 'settleDisks':
        this.#inTurn(async () => {
          await this.#guest.settleDisks();
          return { kind: 'disksSettled' };
        });
        return;
      case 'giveUp':
        this.#inTurn(async () => ({ kind: 'gaveUp' }));
        return;
      case 'resumeGuest':
        this.#inTurn(async () => {
          await this.#departure.guest.emulator.setThrottle(0);
          await this.#guest.goOn();
        });
        return;
      case 'record':
        this.#inTurn(async () => {
          await writeMigrationRecord(this.#configuration, this.#migration, output.what);
        });
        return;
      case 'writeBackup':
        this.#inTurn(() => this.#writeBackup(output.ranges));
        return;
      case 'release':
        // `#end` stops the guest: its memory may be kept first.
        return;
      case 'alarm':
        this.#problem = output.message;
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

  async #connect(address: string | undefined): Promise<void> {
    if (address !== undefined) this.#address = parseAddress(address);
    let session: Session;
    try {
      session = await connectSession({
        ...this.#address,
        timeoutMs: CONNECT_TIMEOUT_MS,
        log: this.#log,
      });
    } catch (error) {
      const reason = describeError(error);
      this.#problem = reason;
      this.#driver.input({ kind: 'connectFailed', reason });
      return;
    }
    this.#sessions += 1;
    const number = this.#sessions;
    const channel = new SessionChannel<SourceSection, DestinationSection>(session, {
      out: SOURCE_SECTIONS,
      in: DESTINATION_SECTIONS,
    });
    this.#current = { number, session, channel };
    if (number > 1) this.#coding.restart();
    channel.onClose(({ reason }) => {
      this.#problem = reason;
      this.#driver.input({ kind: 'sessionLost', session: number, reason });
    });
    channel.onSection((section) => {
      if (section.kind === 'accepted') this.#accepted(section);
      if (section.kind === 'received' && section.stream === 'ram') {
        this.#coding.confirmed(section.sequence);
      }
      if (section.kind === 'running' && this.#pausedAtUs !== undefined) {
        this.#downtimeUs ??= monotonicUs() - this.#pausedAtUs;
      }
      this.#driver.input({ kind: 'section', session: number, section });
    });
    this.#problem = null;
    this.#driver.input({ kind: 'connected', session: number });
  }

  #accepted({ verdictsJson, image }: Extract<DestinationSection, { kind: 'accepted' }>): void {
    this.#verdicts = verdictsJson;
    this.#assist.offered(image);
    if (image !== undefined) this.#coding.destinationHasImage();
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
      this.#ramStream = this.#ramStream.then(() => this.#putNow(session, section));
      return;
    }
    this.#inTurn(async () => {
      if (section.kind === 'run') {
        await this.#guest.silence();
        await this.#options.speech?.leave('The guest is moved to another host');
      }
      this.#putNow(session, section.kind === 'hello' ? await this.#completed(section) : section);
    });
  }

  #putNow(session: number, section: SourceSection): void {
    const current = this.#current;
    if (current?.number !== session) return;
    current.channel.put(section);
    if (section.kind !== 'switchover' || !section.postcopy) return;
    // Each page is sent once from now on, whatever the destination had of it.
    this.#coding.forget();
  }

  /** What another host needs to know of the guest is as of now. */
  async #completed(hello: HelloSection): Promise<HelloSection> {
    const { guest, policy, epoch } = this.#departure;
    const definitionJson = guestHello({
      ...{ configuration: this.#configuration, guest, epoch, policy },
      images: await guest.disks.images(),
      identity: this.#options.identity,
      speech: (await this.#options.speech?.offer(this.#mustHaveSession().session)) ?? null,
    });
    return { ...hello, definitionJson };
  }

  async #beginDisks(): Promise<void> {
    const { session } = this.#mustHaveSession();
    await this.#guest.attach(session, parseAcceptedImages(JSON.parse(this.#verdicts)));
  }

  /** Two streams: what is demanded does not wait for what is not. */
  #sendPages(output: Extract<SourceOutput, { kind: 'sendPages' }>): void {
    if (output.stream === 'demanded') void this.#sendBatch(output);
    else this.#ramStream = this.#ramStream.then(() => this.#sendBatch(output));
  }

  async #sendBatch(output: Extract<SourceOutput, { kind: 'sendPages' }>): Promise<void> {
    const { session, stream, sequence, ranges } = output;
    const current = this.#current;
    if (current?.number !== session) return;
    try {
      const coding = this.#coding;
      const batch = stream === 'ram' ? await coding.code(ranges) : coding.plain(ranges);
      current.channel.put({ kind: stream === 'ram' ? 'pages' : 'demanded', sequence, batch });
      if (stream === 'ram' && this.#current === current) coding.sent(sequence, batch.length);
      this.#sentBytes += batch.length;
      if (stream === 'ram') await current.channel.drained();
      const [bytes, crc] = [batch.length, crc32c(batch)];
      this.#driver.input({ kind: 'pagesSent', session, stream, sequence, bytes, crc });
    } catch (error) {
      // A session that is over is told by the session.
      if (current.session.closeReason !== undefined) return;
      this.#driver.input({ kind: 'broken', reason: describeError(error) });
    }
  }

  async #writeBackup(ranges: readonly PageRange[]): Promise<SourceInput> {
    const { stateDir, vm } = this.#configuration;
    const path = join(stateDir, `${vm}.${this.#migration}.pages`);
    try {
      const { ram } = this.#departure.guest.emulator;
      const missing = pageBitmapOf(ram.sizeBytes / PAGE_SIZE_BYTES, ranges);
      const migrationId = Buffer.from(this.#migration, 'hex');
      const { bytes } = await writeBackup({ path, migrationId, ram, missing });
      this.#log.warn('The missing pages are in a file', { path, bytes });
      return { kind: 'backupWritten', path, bytes };
    } catch (error) {
      return { kind: 'backupFailed', reason: describeError(error) };
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
    await this.#turn;
    const { guest, answer, policy, peer } = this.#departure;
    await this.#current?.session.closedWithin(GOODBYE_TIMEOUT_MS);
    const to = formatAddress(this.#address);
    switch (outcome.kind) {
      case 'moved': {
        const downtimeMs = this.#downtimeUs === undefined ? null : this.#downtimeUs / 1000;
        this.#log.info('The guest has been moved', { to, downtimeMs, sentBytes: this.#sentBytes });
        answer({ ok: true, detail: `The guest runs on ${to} now` });
        await keepRam({
          ...{ configuration: this.#configuration, log: this.#log, migration: this.#migration },
          ...{ epoch: this.#guest.epoch, ram: guest.emulator.ram, signal: this.#keeping.signal },
        });
        await guest.stop();
        this.#finish({ kind: 'left', exit: { exitCode: 0, reason: `The guest runs on ${to}` } });
        return;
      }
      case 'kept': {
        const { reason } = outcome;
        this.#log.warn('The guest goes on here', { reason });
        await this.#guest.goOn();
        answer({ ok: false, code: 'COLO_E_MIGRATE', reason });
        const epoch = this.#guest.epoch;
        this.#finish({
          ...{ kind: 'promoted', guest, epoch, policy, peer },
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

const NOT_NOW = {
  ok: false,
  code: 'COLO_E_ROLE',
  reason: 'The guest is being moved to another host',
} as const;
