/**
 * The state machine of the host that a guest comes to; one for each migration.
 *
 * In: what the source says, what the guest's RAM, devices and disks report, sessions, faults, the
 * operator. Out: instructions for the shell, to be carried out in order.
 *
 * A guest that was not told to run never runs by itself, and one that was is this host's, written
 * down before anybody hears of it: neither the LAN nor the source. In between, loaded and without a session, `run` may have been sent: the guest
 * is kept as it is for the source's next session, or for an operator. Before that a lost session
 * means that the source goes on, and everything is forgotten. See the table in
 * docs/protocol/migration.md.
 *
 * In postcopy a lost session pauses what waits for pages, no more: the next one begins with the
 * list of what is missing.
 */
import {
  type Core,
  Histogram,
  PAGE_SIZE_BYTES,
  type PageRange,
  unreachable,
} from '../lib/index.js';
import { Arrivals } from './arrivals.js';
import type {
  DestinationInput,
  DestinationOptions,
  DestinationOutcome,
  DestinationOutput,
  DestinationState,
  PlainSourceSection,
} from './destination-state.js';
import { LACKS, resumedAfter, WAITS } from './destination-words.js';
import type { DestinationSection, HelloSection, ImageId, ResumedState } from './messages.js';
import { pieces } from './section-codecs.js';

type InputOf<K extends DestinationInput['kind']> = Extract<DestinationInput, { kind: K }>;

/** Such a source has more to say: that it has let go, at least. */
const GOES_ON: ReadonlySet<string> = new Set(['loaded', 'running', 'later', 'complete']);
/** Before the first batch the source may compare digests of all RAM. */
const PATIENCE_BEFORE_PAGES = 10;

export class DestinationCore implements Core<DestinationInput, DestinationOutput> {
  readonly #options: DestinationOptions;
  /** How long pages were waited for, microseconds. */
  readonly #faults = new Histogram();
  /** Pages that are waited for. */
  readonly #waiting = new Set<number>();
  #state: DestinationState = { kind: 'waiting' };
  #session: number | undefined;
  #arrivals = new Arrivals(0);
  #image: ImageId | undefined;
  #disksStaged = false;
  #devicesLoaded = false;
  #pagesExpected = false;
  /** A `resume` that is answered once the guest runs. */
  #resumeOwed = false;
  #finishing = false;
  /** It powered itself off before it was told that it runs. */
  #poweredOff: string | undefined;
  /** When its vCPUs began to run. */
  #startedAtUs: number | undefined;
  #heardAtUs = 0;
  #alarmed = false;

  constructor(options: DestinationOptions) {
    this.#options = options;
  }

  get state(): DestinationState {
    return this.#state;
  }

  /** The one that is this migration's; others have not said so yet. */
  get session(): number | undefined {
    return this.#session;
  }

  deadlineUs(): number | undefined {
    const times = [this.#silenceAtUs(), this.#alarmAtUs()].filter((time) => time !== undefined);
    return times.length === 0 ? undefined : Math.min(...times);
  }

  step(input: DestinationInput, nowUs: number): DestinationOutput[] {
    switch (input.kind) {
      case 'tick':
        return this.#tick(nowUs);
      case 'sessionLost':
        return input.session === this.#session ? this.#lost(input.reason, nowUs) : [];
      case 'section':
        return this.#section(input.session, input.section, nowUs);
      case 'batch':
        return this.#batch(input, nowUs);
      case 'prepared':
        return this.#prepared(input);
      case 'unable':
        return this.#unable(input);
      case 'digests':
        if (this.#state.kind !== 'receiving') return [];
        return this.#put({ kind: 'digests', bytes: input.bytes, last: input.last });
      case 'applied':
        return this.#applied(input);
      case 'disksStaged':
        this.#disksStaged = true;
        return this.#loaded(nowUs);
      case 'guestLoaded':
        this.#devicesLoaded = true;
        return this.#loaded(nowUs);
      case 'guestRuns':
        this.#startedAtUs = nowUs;
        return [];
      case 'guestSpeaks':
        return this.#speaks(nowUs);
      case 'broken':
        return this.#broken(input.reason, input.ran);
      case 'guestGone':
        return this.#broken(input.reason, true);
      case 'poweredOff':
        return this.#ranToItsEnd(input.reason);
      case 'fault':
        this.#fault(input.offsets, nowUs);
        return [];
      case 'placed':
        return this.#placed(input, nowUs);
      case 'backupApplied':
      case 'backupRefused':
        return this.#backup(input);
      case 'operatorCancel':
      case 'operatorForce':
      case 'operatorFinish':
        return this.#operator(input, nowUs);
      default:
        return unreachable(input);
    }
  }

  // Sessions.

  #section(session: number, section: PlainSourceSection, nowUs: number): DestinationOutput[] {
    if (section.kind === 'hello') return this.#hello(session, section, nowUs);
    if (section.kind === 'resume') return this.#resume(session, section.migration, nowUs);
    if (session !== this.#session || this.#state.kind === 'ended') return [];
    this.#heardAtUs = nowUs;
    switch (section.kind) {
      case 'assist': {
        const image = this.#image;
        if (this.#state.kind !== 'receiving' || image === undefined) break;
        // Reading them costs something: once.
        this.#image = undefined;
        return section.answer === 'known' ? [] : [{ kind: 'readDigests', image }];
      }
      case 'round':
        if (this.#state.kind === 'receiving') return [];
        break;
      case 'pending':
        return this.#checked(() => this.#arrivals.addPending(section.ranges));
      case 'deviceState':
        return this.#checked(() => this.#arrivals.addDeviceState(section.bytes));
      case 'switchover': {
        const wrong = this.#checked(() => this.#arrivals.addSwitchover(section));
        return wrong.length > 0 ? wrong : this.#load();
      }
      case 'run':
        return this.#run(nowUs);
      case 'cancel':
        if (this.#owns()) break;
        return this.#forget(`Cancelled by the source: ${section.reason}`);
      case 'released':
        return [];
      default:
        return unreachable(section);
    }
    return this.#wrong(`${section.kind} in state ${this.#state.kind}`, nowUs);
  }

  #hello(session: number, hello: HelloSection, nowUs: number): DestinationOutput[] {
    if (this.#state.kind !== 'waiting') {
      const difference = {
        what: 'migration',
        source: hello.migration,
        destination: `busy with another one (${this.#state.kind})`,
      };
      return [
        { kind: 'put', session, section: { kind: 'refused', differences: [difference] } },
        { kind: 'closeSession', session, reason: 'Another migration is in progress' },
      ];
    }
    this.#session = session;
    this.#heardAtUs = nowUs;
    this.#arrivals = new Arrivals(hello.ramSizeBytes);
    this.#state = { kind: 'preparing', hello };
    return [{ kind: 'prepare', hello }];
  }

  #resume(session: number, migration: string, nowUs: number): DestinationOutput[] {
    const answer = this.#answer(migration);
    const outputs: DestinationOutput[] = [];
    if (GOES_ON.has(answer)) {
      if (this.#session !== undefined && this.#session !== session) {
        const reason = 'The source has a new session';
        outputs.push({ kind: 'closeSession', session: this.#session, reason });
      }
      this.#session = session;
      this.#heardAtUs = nowUs;
      this.#alarmed = false;
      if (this.#state.kind === 'loaded' || this.#state.kind === 'running') {
        this.#state = { ...this.#state, lostAtUs: undefined };
      }
    }
    if (answer === 'later') {
      this.#resumeOwed = true;
      return outputs;
    }
    return [...outputs, ...this.#tellResumed(session, answer)];
  }

  /** `later`: it has just been started. */
  #answer(migration: string): ResumedState | 'later' {
    const state = this.#state;
    const { recorded } = this.#options;
    if (state.kind === 'waiting') {
      if (recorded?.migration !== migration) return 'unknown';
      return recorded.what === 'owns' ? 'lost' : 'discarded';
    }
    if (this.#migration() !== migration) return 'unknown';
    switch (state.kind) {
      case 'loaded':
      case 'running':
        return state.kind;
      case 'starting':
        return 'later';
      case 'ended':
        return resumedAfter(state.outcome);
      default:
        // `resume` follows `run`, which follows `loaded`: this source is not what it says.
        return 'unknown';
    }
  }

  #tellResumed(session: number, state: ResumedState): DestinationOutput[] {
    const put = (section: DestinationSection): DestinationOutput => ({
      kind: 'put',
      session,
      section,
    });
    const outputs = [put({ kind: 'resumed', state })];
    const postcopy = this.#arrivals.switchover?.postcopy === true;
    if (!postcopy || (state !== 'loaded' && state !== 'running')) return outputs;
    const lists = pieces(this.#arrivals.missing.ranges());
    for (const [index, ranges] of lists.entries()) {
      outputs.push(put({ kind: 'missing', ranges, last: index === lists.length - 1 }));
    }
    return outputs;
  }

  #lost(reason: string, nowUs: number): DestinationOutput[] {
    this.#session = undefined;
    this.#resumeOwed = false;
    const state = this.#state;
    switch (state.kind) {
      case 'preparing':
      case 'receiving':
      case 'loading':
        return this.#forget(`The session was lost before the switchover: ${reason}`);
      case 'loaded':
      case 'running':
        this.#state = { ...state, lostAtUs: nowUs };
        return [];
      default:
        return [];
    }
  }

  /** Ends the session from here; what follows is as if it had been lost. */
  #drop(reason: string, nowUs: number): DestinationOutput[] {
    const session = this.#session;
    if (session === undefined) return [];
    const failed = this.#owns() ? [] : this.#put({ kind: 'failed', reason, ran: false });
    return [
      ...(this.#state.kind === 'loaded' ? [] : failed),
      { kind: 'closeSession', session, reason },
      ...this.#lost(reason, nowUs),
    ];
  }

  #wrong(what: string, nowUs: number): DestinationOutput[] {
    return this.#drop(`The source broke the protocol: ${what}`, nowUs);
  }

  #checked(add: () => string | undefined): DestinationOutput[] {
    const receives = this.#state.kind === 'receiving';
    const complaint = receives ? add() : `A part of the guest in state ${this.#state.kind}`;
    return complaint === undefined ? [] : this.#wrong(complaint, this.#heardAtUs);
  }

  #tick(nowUs: number): DestinationOutput[] {
    const silenceAtUs = this.#silenceAtUs();
    if (silenceAtUs !== undefined && nowUs >= silenceAtUs) {
      return this.#drop('The source owes something and is silent', nowUs);
    }
    const alarmAtUs = this.#alarmAtUs();
    if (alarmAtUs === undefined || nowUs < alarmAtUs) return [];
    this.#alarmed = true;
    return [{ kind: 'alarm', message: this.#state.kind === 'loaded' ? WAITS : LACKS }];
  }

  /** When the source, which has to go on, has been silent for too long. */
  #silenceAtUs(): number | undefined {
    if (this.#session === undefined) return undefined;
    const { silenceTimeoutUs } = this.#options;
    switch (this.#state.kind) {
      case 'receiving': {
        const patience = this.#arrivals.pages === 0 ? PATIENCE_BEFORE_PAGES : 1;
        return this.#heardAtUs + patience * silenceTimeoutUs;
      }
      case 'loaded':
        return this.#heardAtUs + silenceTimeoutUs;
      case 'running':
        return this.#waiting.size === 0 ? undefined : this.#heardAtUs + silenceTimeoutUs;
      default:
        return undefined;
    }
  }

  #alarmAtUs(): number | undefined {
    const state = this.#state;
    if (this.#alarmed || (state.kind !== 'loaded' && state.kind !== 'running')) return undefined;
    return state.lostAtUs === undefined
      ? undefined
      : state.lostAtUs + this.#options.recoverTimeoutUs;
  }

  // Up to the switchover.

  #prepared(input: InputOf<'prepared'>): DestinationOutput[] {
    const { host, qemuVersion, image, verdictsJson } = input;
    const state = this.#state;
    if (state.kind !== 'preparing') return [];
    this.#image = state.hello.choices.assisted ? image : undefined;
    this.#state = { kind: 'receiving', hello: state.hello };
    return [
      { kind: 'record', what: 'taking' },
      ...this.#put({ kind: 'accepted', host, qemuVersion, image: this.#image, verdictsJson }),
    ];
  }

  #unable({ differences }: InputOf<'unable'>): DestinationOutput[] {
    if (this.#state.kind !== 'preparing') return [];
    const reason = differences.map(({ what }) => what).join(', ');
    return [
      ...this.#put({ kind: 'refused', differences }),
      ...this.#forget(`Can't run it: ${reason}`),
    ];
  }

  #batch(input: InputOf<'batch'>, nowUs: number): DestinationOutput[] {
    if (input.session !== this.#session) return [];
    this.#heardAtUs = nowUs;
    const { kind } = this.#state;
    const after = kind === 'loading' || kind === 'loaded' || kind === 'starting';
    // Behind the end there may be pages that had come another way.
    if (kind === 'ended') return [];
    if (kind !== 'receiving' && kind !== 'running' && !after) {
      return this.#wrong(`pages in state ${kind}`, nowUs);
    }
    const place = this.#arrivals.switchover !== undefined;
    const ranges = this.#arrivals.add(input.session, input);
    if (typeof ranges === 'string') return this.#wrong(ranges, nowUs);
    const { session, sequence, batch } = input;
    return [{ kind: 'apply', session, sequence, batch, ranges, place }];
  }

  #applied(input: InputOf<'applied'>): DestinationOutput[] {
    const { session, sequence } = input;
    const applied = this.#arrivals.applied(session, sequence);
    if (applied === undefined) return [];
    this.#served(applied.ranges);
    const outputs: DestinationOutput[] = [];
    if (session === this.#session && applied.upTo !== undefined) {
      outputs.push(...this.#put({ kind: 'received', sequence: applied.upTo }));
    }
    return [...outputs, ...this.#load(), ...this.#complete()];
  }

  /** Loads the guest once all that the switchover names is here. */
  #load(): DestinationOutput[] {
    const state = this.#state;
    const { switchover } = this.#arrivals;
    if (state.kind !== 'receiving' || switchover === undefined) return [];
    // The devices need no disk: what of one is still to be stored is waited for behind them.
    if (!this.#arrivals.allApplied) return [];
    const { postcopy, ramDigest } = switchover;
    this.#state = { kind: 'loading', hello: state.hello, postcopy };
    const outputs: DestinationOutput[] = [];
    if (postcopy) {
      outputs.push({ kind: 'expectPages', ranges: this.#arrivals.missing.ranges() });
      this.#pagesExpected = true;
    }
    return [...outputs, { kind: 'load', deviceState: this.#arrivals.deviceState, ramDigest }];
  }

  #loaded(nowUs: number): DestinationOutput[] {
    const state = this.#state;
    if (state.kind !== 'loading' || !this.#devicesLoaded) return [];
    if (this.#arrivals.switchover?.disksMoved === true && !this.#disksStaged) return [];
    this.#state = { ...state, kind: 'loaded', lostAtUs: undefined };
    this.#heardAtUs = nowUs;
    return this.#put({ kind: 'loaded' });
  }

  // From the switchover on.

  #run(nowUs: number): DestinationOutput[] {
    const state = this.#state;
    // It was said again because the source could not know that it had been heard.
    if (this.#owns()) return [];
    if (state.kind !== 'loaded') return this.#wrong(`run in state ${state.kind}`, nowUs);
    const { hello, postcopy } = state;
    this.#state = { kind: 'starting', hello, postcopy, runAtUs: nowUs };
    // It runs while that is written down, and nobody hears of it before.
    return [{ kind: 'start' }, { kind: 'record', what: 'owns' }, { kind: 'speak' }];
  }

  #speaks(nowUs: number): DestinationOutput[] {
    const state = this.#state;
    if (state.kind !== 'starting') return [];
    const lostAtUs = this.#session === undefined ? nowUs : undefined;
    this.#state = { kind: 'running', hello: state.hello, lostAtUs };
    this.#heardAtUs = nowUs;
    const outputs: DestinationOutput[] = [];
    if (this.#session !== undefined && this.#resumeOwed) {
      outputs.push(...this.#tellResumed(this.#session, 'running'));
    } else {
      const startUs = (this.#startedAtUs ?? nowUs) - state.runAtUs;
      outputs.push(...this.#put({ kind: 'running', startUs }));
    }
    this.#resumeOwed = false;
    if (this.#poweredOff !== undefined) {
      return [...outputs, ...this.#ranToItsEnd(this.#poweredOff)];
    }
    return [...outputs, ...this.#complete()];
  }

  /** What it still lacked is lacked by nobody: for the source that is as good as complete. */
  #ranToItsEnd(reason: string): DestinationOutput[] {
    switch (this.#state.kind) {
      case 'starting':
        this.#poweredOff = reason;
        return [];
      case 'running':
        return [...this.#put({ kind: 'complete' }), ...this.#end({ kind: 'poweredOff', reason })];
      default:
        return this.#broken(reason, false);
    }
  }

  /** Ends the migration once the guest runs and every page is in place. */
  #complete(): DestinationOutput[] {
    if (this.#state.kind !== 'running' || !this.#arrivals.allApplied) return [];
    if (this.#arrivals.missing.size > 0) return [];
    const outputs: DestinationOutput[] = this.#pagesExpected ? [{ kind: 'allPagesHere' }] : [];
    if (this.#pagesExpected) {
      const [p50Us, p99Us] = [this.#faults.quantile(0.5), this.#faults.quantile(0.99)];
      outputs.push(...this.#put({ kind: 'faults', faults: this.#faults.count, p50Us, p99Us }));
    }
    outputs.push(...this.#put({ kind: 'complete' }));
    return [...outputs, ...this.#end({ kind: 'completed' })];
  }

  #fault(offsets: readonly number[], nowUs: number): void {
    if (!this.#pagesExpected) return;
    // From here on the source owes something.
    if (this.#waiting.size === 0) this.#heardAtUs = nowUs;
    for (const offset of offsets) {
      const page = Math.floor(offset / PAGE_SIZE_BYTES);
      // A page that has come between the touch and this word of it is nothing to wait for.
      const comes = this.#arrivals.missing.has(page) || this.#arrivals.isPlacing(page);
      if (comes) this.#waiting.add(page);
    }
  }

  #placed({ ranges, waitsUs }: InputOf<'placed'>, nowUs: number): DestinationOutput[] {
    this.#heardAtUs = nowUs;
    for (const waitUs of waitsUs) this.#faults.add(waitUs);
    this.#arrivals.placed(ranges);
    this.#served(ranges);
    const told = ranges.length === 0 ? [] : pieces(ranges);
    const outputs = told.flatMap((list) => this.#put({ kind: 'placed', ranges: list }));
    return [...outputs, ...this.#complete()];
  }

  #served(ranges: readonly PageRange[]): void {
    if (this.#waiting.size === 0) return;
    for (const { offset, length } of ranges) {
      for (let at = offset; at < offset + length; at += PAGE_SIZE_BYTES) {
        this.#waiting.delete(at / PAGE_SIZE_BYTES);
      }
    }
  }

  #backup(input: InputOf<'backupApplied'> | InputOf<'backupRefused'>): DestinationOutput[] {
    this.#finishing = false;
    if (input.kind === 'backupRefused') {
      return [{ kind: 'commandRefused', command: 'operatorFinish', reason: input.reason }];
    }
    this.#arrivals.missing.deleteAll(input.ranges);
    this.#served(input.ranges);
    return this.#complete();
  }

  #operator(
    input: InputOf<'operatorCancel' | 'operatorForce' | 'operatorFinish'>,
    nowUs: number,
  ): DestinationOutput[] {
    const state = this.#state;
    const refuse = (reason: string): DestinationOutput[] => [
      { kind: 'commandRefused', command: input.kind, reason },
    ];
    switch (input.kind) {
      case 'operatorCancel':
        if (this.#owns()) return refuse('The guest was told to run here');
        return this.#broken('Cancelled by the operator', false);
      case 'operatorForce':
        if (state.kind !== 'loaded') return refuse(`No guest is loaded here (${state.kind})`);
        if (this.#session !== undefined) return refuse('The source is connected');
        return this.#run(nowUs);
      case 'operatorFinish':
        if (state.kind !== 'running') return refuse(`No guest lacks pages here (${state.kind})`);
        if (this.#finishing) return refuse('It is being finished');
        this.#finishing = true;
        return [
          {
            kind: 'applyBackup',
            path: input.path,
            missing: this.#arrivals.missing.ranges(),
          },
        ];
      default:
        return unreachable(input);
    }
  }

  // Ends.

  #broken(reason: string, ran: boolean): DestinationOutput[] {
    const state = this.#state;
    if (state.kind === 'ended' || state.kind === 'waiting') return [];
    const owned = state.kind === 'starting' || state.kind === 'running';
    const lost = owned && (ran || state.kind === 'running');
    const outputs = this.#put({ kind: 'failed', reason, ran: lost });
    if (!lost) return [...outputs, ...this.#forget(reason)];
    return [...outputs, { kind: 'alarm', message: reason }, ...this.#end({ kind: 'lost', reason })];
  }

  /** The guest never ran here and never will. */
  #forget(reason: string): DestinationOutput[] {
    return [
      { kind: 'record', what: 'discarded' },
      { kind: 'discard', reason },
      ...this.#end({ kind: 'discarded', reason }),
    ];
  }

  /** Sections that are on their way are read over; a later `resume` is still answered. */
  #end(outcome: DestinationOutcome): DestinationOutput[] {
    this.#state = { kind: 'ended', migration: this.#migration() ?? '', outcome };
    return [{ kind: 'ended', outcome }];
  }

  /** `run` was received. */
  #owns(): boolean {
    const state = this.#state;
    if (state.kind === 'ended') return state.outcome.kind !== 'discarded';
    return state.kind === 'starting' || state.kind === 'running';
  }

  #migration(): string | undefined {
    const state = this.#state;
    if (state.kind === 'waiting') return undefined;
    return state.kind === 'ended' ? state.migration : state.hello.migration;
  }

  #put(section: DestinationSection): DestinationOutput[] {
    const session = this.#session;
    return session === undefined ? [] : [{ kind: 'put', session, section }];
  }
}
