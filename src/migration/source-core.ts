/**
 * The state machine of the host that a guest leaves.
 *
 * In: what the destination says, what the guest's RAM, devices and disks report, sessions, the
 * operator. Out: instructions for the shell, to be carried out in order.
 *
 * Up to `run` the guest is this host's: whatever fails, it goes on here. With `run` it is the
 * destination's, and this side never resumes it by itself: only a destination that says that the
 * guest never ran there and never will, or an operator (or witness) who knows that it is silent,
 * gives it back. That `run` may be said is written down (`giveUp`) while the guest still runs here,
 * and a guest that is not handed over after all goes on only when that is withdrawn.
 *
 * What begins with `run` is source-handover.ts. See the table in docs/protocol/migration.md.
 */
import { type Core, PAGE_SIZE_BYTES, type PageRange, unreachable } from '../lib/index.js';
import { HandoverReadiness } from './handover-readiness.js';
import type { SourceSection } from './messages.js';
import { countPages, withinRam } from './page-map.js';
import { type BatchOrder, PageSender } from './page-sender.js';
import { PrecopyPace } from './precopy-pace.js';
import { SourceHandover } from './source-handover.js';
import {
  type Collected,
  imageLoadUs,
  NOTHING_COLLECTED,
  notConverging,
  switchoverSections,
} from './source-parts.js';
import type {
  PlainDestinationSection,
  SourceInput,
  SourceOptions,
  SourceOutcome,
  SourceOutput,
  SourceProgress,
  SourceState,
} from './source-state.js';

type Section = PlainDestinationSection;
type SectionOf<K extends Section['kind']> = Extract<Section, { kind: K }>;

export class SourceCore implements Core<SourceInput, SourceOutput> {
  readonly #options: SourceOptions;
  readonly #sender: PageSender;
  readonly #pace: PrecopyPace;
  readonly #ready: HandoverReadiness;
  #state: SourceState = { kind: 'idle' };
  #session: number | undefined;
  #handover: SourceHandover | undefined;
  /** When the destination last said something, or began to owe an answer. */
  #heardAtUs = 0;
  #startedAtUs = 0;
  /** Of the destination's kept RAM; it has content where this guest may have none. */
  #image: string | undefined;
  #round = { startedAtUs: 0, bytes: 0, pages: 0 };
  #rounds = 0;
  #pauseAsked = false;
  #pausedAtUs: number | undefined;
  #postcopyWanted = false;
  #collected: Collected = NOTHING_COLLECTED;

  constructor(options: SourceOptions) {
    this.#options = options;
    this.#sender = new PageSender(options.hello.ramSizeBytes, options.maxBandwidth);
    this.#pace = new PrecopyPace(options);
    this.#ready = new HandoverReadiness(options.settlesDisks);
  }

  get state(): SourceState {
    return this.#state;
  }

  progress(nowUs: number): SourceProgress {
    const pages = this.#sender.unsent.size;
    return {
      state: this.#state,
      elapsedUs: nowUs - this.#startedAtUs,
      rounds: this.#rounds,
      pagesSent: this.#sender.pagesSent,
      bytesSent: this.#sender.bytesSent,
      pagesLeft: pages,
      demandedPages: this.#sender.demandedPages,
      rate: this.#pace.rate,
      dirtyRate: this.#pace.dirtyRate,
      throttle: this.#pace.throttle,
      stale: this.#pace.stale,
      downtimeEstimateUs: this.#pace.estimateUs,
      leftUs: this.#pace.timeFor(pages),
      pausedAtUs: this.#pausedAtUs,
    };
  }

  deadlineUs(): number | undefined {
    if (this.#state.kind === 'ended') return undefined;
    if (this.#handover !== undefined) return this.#handover.deadlineUs();
    const times = [this.#silenceAtUs()];
    if (this.#sends()) times.push(this.#sender.readyAtUs({ postcopy: false }));
    const known = times.filter((time) => time !== undefined);
    return known.length === 0 ? undefined : Math.min(...known);
  }

  step(input: SourceInput, nowUs: number): SourceOutput[] {
    if (this.#state.kind === 'ended') return [];
    if (input.kind === 'adjust') this.#adjust(input);
    if (this.#handover !== undefined) return this.#afterRun(this.#handover, input, nowUs);
    if ('session' in input && input.kind !== 'connected' && input.session !== this.#session) {
      return [];
    }
    switch (input.kind) {
      case 'tick':
        return this.#tick(nowUs);
      case 'start':
        return this.#start(nowUs);
      case 'connected':
        return this.#connected(input.session, nowUs);
      case 'connectFailed':
        return this.#connectFailed(input.reason);
      case 'sessionLost':
        return this.#sessionLost(input.reason);
      case 'section':
        this.#heardAtUs = nowUs;
        return this.#section(input.section, nowUs);
      case 'trackingStarted':
        return this.#trackingStarted(input.ranges, nowUs);
      case 'imageCompared':
        if (this.#state.kind !== 'comparing') return [];
        this.#sender.unsent.deleteAll(input.same);
        return this.#firstRound(nowUs);
      case 'scanned':
        return this.#scanned(input.ranges, nowUs);
      case 'pagesSent':
        return this.#pagesSent(input, nowUs);
      case 'paused':
        return this.#paused(nowUs);
      case 'devicesCaptured':
        return this.#collect({ devices: input.bytes, ramDigest: input.ramDigest }, nowUs);
      case 'disksSettled':
        this.#collected = { ...this.#collected, disks: true };
        return this.#handOver(nowUs);
      case 'disksReady':
        this.#ready.disksReady();
        return this.#readier(nowUs);
      case 'gaveUp':
        this.#ready.recorded();
        return this.#readier(nowUs);
      case 'broken':
        return this.#broken(input.reason);
      case 'guestGone':
        return this.#guestGone(input.reason);
      case 'adjust':
        return this.#pump(nowUs);
      case 'backupWritten':
      case 'backupFailed':
        return [];
      default:
        return this.#operator(input, nowUs);
    }
  }

  #adjust(input: Extract<SourceInput, { kind: 'adjust' }>): void {
    if ('maxBandwidth' in input) {
      this.#sender.maxBandwidth = input.maxBandwidth;
      this.#pace.forgetRate();
    }
    if (input.downtimeLimitUs !== undefined) this.#pace.downtimeLimitUs = input.downtimeLimitUs;
  }

  #afterRun(handover: SourceHandover, input: SourceInput, nowUs: number): SourceOutput[] {
    const outputs = handover.step(input, nowUs);
    this.#state =
      handover.outcome === undefined
        ? handover.state
        : { kind: 'ended', outcome: handover.outcome };
    return outputs;
  }

  // Sessions.

  #start(nowUs: number): SourceOutput[] {
    if (this.#state.kind !== 'idle') return [];
    this.#state = { kind: 'greeting', accepted: false };
    this.#startedAtUs = nowUs;
    this.#heardAtUs = nowUs;
    return [{ kind: 'connect', address: undefined }];
  }

  #connected(session: number, nowUs: number): SourceOutput[] {
    if (this.#state.kind !== 'greeting' || this.#session !== undefined) {
      return [{ kind: 'closeSession', session, reason: 'It is not needed' }];
    }
    this.#session = session;
    this.#heardAtUs = nowUs;
    return this.#put(this.#options.hello);
  }

  #connectFailed(reason: string): SourceOutput[] {
    const connecting = this.#state.kind === 'greeting' && this.#session === undefined;
    return connecting ? this.#keep('failed', reason) : [];
  }

  #sessionLost(reason: string): SourceOutput[] {
    this.#session = undefined;
    return this.#keep('failed', `The session was lost: ${reason}`);
  }

  /** Ends the session, and with it the migration, from here. */
  #drop(reason: string): SourceOutput[] {
    // A destination that can still read need not wait for a run that never comes.
    return [...this.#put({ kind: 'cancel', reason }), ...this.#keep('failed', reason)];
  }

  #tick(nowUs: number): SourceOutput[] {
    const silenceAtUs = this.#silenceAtUs();
    if (silenceAtUs !== undefined && nowUs >= silenceAtUs) {
      return this.#drop(`Nothing was heard for ${this.#options.silenceTimeoutUs / 1000} ms`);
    }
    return this.#pump(nowUs);
  }

  /** When the destination, which owes an answer, has been silent for too long. */
  #silenceAtUs(): number | undefined {
    const state = this.#state;
    const owes =
      (state.kind === 'greeting' && !state.accepted) ||
      (state.kind === 'comparing' && state.owed) ||
      (state.kind === 'loading' && !state.loaded) ||
      (this.#session !== undefined && this.#sender.owed);
    if (!owes) return undefined;
    // The destination may first load what it has kept of the guest.
    const loadUs = state.kind === 'greeting' ? imageLoadUs(this.#options.hello) : 0;
    return this.#heardAtUs + this.#options.silenceTimeoutUs + loadUs;
  }

  // What the destination says.

  #section(section: Section, nowUs: number): SourceOutput[] {
    const state = this.#state;
    switch (section.kind) {
      case 'accepted':
        if (state.kind === 'greeting' && !state.accepted) return this.#accepted(section);
        break;
      case 'refused':
        if (state.kind !== 'greeting') break;
        return this.#keep(
          'refused',
          section.differences
            .map((d) => `${d.what}: ${d.source}, ${d.destination} there`)
            .join('; '),
        );
      case 'digests':
        if (state.kind !== 'comparing' || !state.owed) break;
        this.#state = { ...state, owed: !section.last };
        return [{ kind: 'compareImage', bytes: section.bytes, last: section.last }];
      case 'received':
        if (!this.#sender.received(section.sequence)) break;
        return this.#pump(nowUs);
      case 'placed':
        return this.#placed(section.ranges);
      case 'loaded':
        if (state.kind !== 'loading' || state.loaded) break;
        this.#state = { ...state, loaded: true };
        return this.#handOver(nowUs);
      case 'running':
      case 'resumed':
      case 'missing':
      case 'faults':
      case 'complete':
        break;
      case 'failed':
        return this.#keep('failed', `The destination failed: ${section.reason}`);
      default:
        return unreachable(section);
    }
    return this.#wrong(`${section.kind} in state ${state.kind}`);
  }

  #wrong(what: string): SourceOutput[] {
    return this.#drop(`The destination broke the protocol: ${what}`);
  }

  #accepted({ image }: SectionOf<'accepted'>): SourceOutput[] {
    this.#image = this.#options.hello.choices.assisted ? image : undefined;
    this.#state = { kind: 'greeting', accepted: true };
    return [{ kind: 'startTracking' }];
  }

  /** Loading the devices reads RAM: in postcopy pages are demanded before the guest runs. */
  #placed(ranges: readonly PageRange[]): SourceOutput[] {
    const state = this.#state;
    if (state.kind !== 'loading' || !state.postcopy)
      return this.#wrong(`placed in state ${state.kind}`);
    if (!withinRam(ranges, this.#sender.unsent.pages)) {
      return this.#wrong('pages that are not of RAM are placed');
    }
    this.#sender.placed(ranges);
    return [];
  }

  // Precopy.

  #trackingStarted(ranges: readonly PageRange[], nowUs: number): SourceOutput[] {
    if (this.#state.kind !== 'greeting') return [];
    const image = this.#image;
    const { unsent } = this.#sender;
    if (image === undefined) {
      unsent.addAll(ranges);
      return this.#firstRound(nowUs);
    }
    // Where this guest never had content the image may have some.
    unsent.add({ offset: 0, length: unsent.pages * PAGE_SIZE_BYTES });
    this.#heardAtUs = nowUs;
    const known = this.#options.knownImages.includes(image);
    this.#state = { kind: 'comparing', owed: !known };
    if (!known) {
      return this.#put({ kind: 'assist', answer: 'digests' });
    }
    return [
      ...this.#put({ kind: 'assist', answer: 'known' }),
      { kind: 'compareKnownImage', image },
    ];
  }

  #firstRound(nowUs: number): SourceOutput[] {
    this.#heardAtUs = nowUs;
    this.#postcopyWanted = this.#options.hello.choices.mode === 'postcopy';
    this.#beginRound(1, nowUs);
    return this.#readier(nowUs);
  }

  /** Something that a pause waits for is there, or there is a new wish for one. */
  #readier(nowUs: number): SourceOutput[] {
    const state = this.#state;
    if (state.kind !== 'precopy' || state.scanning) return [];
    const outputs = this.#postcopyWanted ? this.#pauseOnceReady(true) : [];
    return [...outputs, ...this.#pump(nowUs)];
  }

  #beginRound(round: number, nowUs: number): void {
    this.#state = { kind: 'precopy', round, scanning: false };
    this.#rounds += 1;
    const { bytesSent, pagesSent } = this.#sender;
    this.#round = { startedAtUs: nowUs, bytes: bytesSent, pages: pagesSent };
  }

  #scanned(ranges: readonly PageRange[], nowUs: number): SourceOutput[] {
    const state = this.#state;
    if (state.kind === 'switching') {
      this.#sender.unsent.addAll(ranges);
      return this.#collect({ scanned: true }, nowUs);
    }
    if (state.kind !== 'precopy' || !state.scanning) return [];
    this.#sender.unsent.addAll(ranges);
    const dirtyPages = countPages(ranges);
    const outputs = this.#put({
      kind: 'round',
      round: state.round,
      batches: this.#sender.batches,
      dirtyPages,
    });
    this.#state = { ...state, scanning: false };
    if (this.#options.hello.choices.mode === 'hybrid') this.#postcopyWanted = true;
    if (this.#postcopyWanted) {
      outputs.push(...this.#pauseOnceReady(true));
      return [...outputs, ...this.#nextRound(state.round, nowUs)];
    }
    const verdict = this.#pace.judge({
      durationUs: nowUs - this.#round.startedAtUs,
      bytes: this.#sender.bytesSent - this.#round.bytes,
      pages: this.#sender.pagesSent - this.#round.pages,
      dirtyPages,
      unconfirmedBytes: this.#sender.unconfirmedBytes,
    });
    switch (verdict.kind) {
      case 'pause':
        outputs.push(...this.#pauseOnceReady(false));
        break;
      case 'throttle':
        outputs.push({ kind: 'throttle', percent: verdict.percent }, ...this.#ready.withdraw());
        break;
      case 'hopeless':
        outputs.push(...this.#hopeless());
        break;
      case 'round':
        outputs.push(...this.#ready.withdraw());
        break;
      default:
        return unreachable(verdict);
    }
    return [...outputs, ...this.#nextRound(state.round, nowUs)];
  }

  /** What was written meanwhile goes, also while a pause waits for something. */
  #nextRound(last: number, nowUs: number): SourceOutput[] {
    if (this.#state.kind !== 'precopy') return [];
    this.#beginRound(last + 1, nowUs);
    return this.#pump(nowUs);
  }

  #hopeless(): SourceOutput[] {
    const message = notConverging(this.#pace.estimateUs ?? 0, this.#pace.downtimeLimitUs);
    const { onNoConvergence, hello } = this.#options;
    if (onNoConvergence === 'give-up') {
      const outputs = this.#put({ kind: 'cancel', reason: message });
      return [...outputs, ...this.#keep('failed', message)];
    }
    const outputs: SourceOutput[] = [{ kind: 'alarm', message }];
    if (onNoConvergence === 'postcopy' && hello.choices.mode !== 'precopy') {
      this.#postcopyWanted = true;
      outputs.push(...this.#pauseOnceReady(true));
    } else {
      outputs.push(...this.#ready.withdraw());
    }
    return outputs;
  }

  // Switchover.

  /** Pauses, or asks for what has to be there before: then another round makes the rest small. */
  #pauseOnceReady(postcopy: boolean): SourceOutput[] {
    if (!this.#ready.complete) return this.#ready.ask();
    this.#state = { kind: 'switching', postcopy, paused: false };
    this.#pauseAsked = true;
    return [{ kind: 'pause' }];
  }

  #paused(nowUs: number): SourceOutput[] {
    const state = this.#state;
    if (state.kind !== 'switching' || state.paused) return [];
    this.#state = { ...state, paused: true };
    this.#pausedAtUs = nowUs;
    this.#collected = { ...NOTHING_COLLECTED, disks: !this.#options.settlesDisks };
    const outputs: SourceOutput[] = [{ kind: 'scan' }, { kind: 'captureDevices' }];
    if (this.#options.settlesDisks) outputs.push({ kind: 'settleDisks' });
    return outputs;
  }

  /** A part of the switchover is there; with the last of them the destination is told. */
  #collect(part: Partial<Collected>, nowUs: number): SourceOutput[] {
    const state = this.#state;
    if (state.kind !== 'switching' || !state.paused) return [];
    this.#collected = { ...this.#collected, ...part };
    const outputs = this.#pump(nowUs);
    const { scanned, devices, ramDigest } = this.#collected;
    const sent = state.postcopy || this.#sender.unsent.size === 0;
    if (!scanned || devices === undefined || !sent || !this.#sender.allCoded) return outputs;
    const { unsent, unconfirmed } = this.#sender;
    unconfirmed.clear();
    unconfirmed.addAll(unsent.ranges());
    this.#state = { kind: 'loading', postcopy: state.postcopy, loaded: false };
    this.#heardAtUs = nowUs;
    const sections = switchoverSections(unsent.ranges(), devices, {
      postcopy: state.postcopy,
      batches: this.#sender.batches,
      streamDigest: this.#sender.digest,
      pendingPages: unsent.size,
      ramDigest,
      disksMoved: this.#options.movesDisks,
    });
    return [...outputs, ...sections.flatMap((section) => this.#put(section))];
  }

  /** The point of no return, once the guest is loaded and, beside that, the disks are settled. */
  #handOver(nowUs: number): SourceOutput[] {
    const state = this.#state;
    if (state.kind !== 'loading' || !state.loaded || !this.#collected.disks) return [];
    if (this.#session === undefined) return [];
    this.#handover = new SourceHandover({
      options: this.#options,
      sender: this.#sender,
      postcopy: state.postcopy,
      session: this.#session,
      nowUs,
      resumeGuest: this.#resumeGuest(),
    });
    this.#state = this.#handover.state;
    return this.#handover.begin();
  }

  /** After this the guest runs here as if nothing had been. */
  #resumeGuest(): SourceOutput[] {
    const outputs: SourceOutput[] = [];
    if (this.#pace.throttle > 0) outputs.push({ kind: 'throttle', percent: 0 });
    if (this.#pauseAsked) outputs.push({ kind: 'resumeGuest' });
    return outputs;
  }

  /** The guest goes on here, paused or not. */
  #keep(cause: 'cancelled' | 'refused' | 'failed', reason: string): SourceOutput[] {
    const end = this.#end({ kind: 'kept', cause, reason });
    return [...this.#ready.takeBack(), ...this.#resumeGuest(), ...end];
  }

  #end(outcome: SourceOutcome): SourceOutput[] {
    this.#state = { kind: 'ended', outcome };
    const outputs: SourceOutput[] = [];
    if (this.#session !== undefined) {
      outputs.push({
        kind: 'closeSession',
        session: this.#session,
        reason: 'The migration is over',
      });
    }
    return [...outputs, { kind: 'ended', outcome }];
  }

  #broken(reason: string): SourceOutput[] {
    return [...this.#put({ kind: 'cancel', reason }), ...this.#keep('failed', reason)];
  }

  #guestGone(reason: string): SourceOutput[] {
    const end = this.#end({ kind: 'gone', reason });
    return [...this.#put({ kind: 'cancel', reason }), ...this.#ready.takeBack(), ...end];
  }

  #operator(
    input: Extract<SourceInput, { kind: `operator${string}` }>,
    nowUs: number,
  ): SourceOutput[] {
    const state = this.#state;
    const refuse = (reason: string): SourceOutput[] => [
      { kind: 'commandRefused', command: input.kind, reason },
    ];
    switch (input.kind) {
      case 'operatorCancel': {
        const reason = 'Cancelled by the operator';
        return [...this.#put({ kind: 'cancel', reason }), ...this.#keep('cancelled', reason)];
      }
      case 'operatorPostcopy':
        if (state.kind !== 'precopy') return refuse(`Not in precopy but ${state.kind}`);
        if (this.#options.hello.choices.mode === 'precopy') {
          return refuse('The destination was prepared for precopy only');
        }
        this.#postcopyWanted = true;
        return this.#readier(nowUs);
      case 'operatorRecover':
      case 'operatorForce':
      case 'operatorRelease':
        return refuse('The guest runs here');
      default:
        return unreachable(input);
    }
  }

  // Pages.

  #pagesSent(
    { sequence, bytes, crc }: Extract<SourceInput, { kind: 'pagesSent' }>,
    nowUs: number,
  ): SourceOutput[] {
    if (!this.#sender.coded(sequence, { bytes, crc })) {
      return this.#broken(`Batch ${sequence} was not asked for`);
    }
    return this.#state.kind === 'switching' ? this.#collect({}, nowUs) : this.#pump(nowUs);
  }

  /** Orders what window and bandwidth allow; a round that has nothing left is scanned. */
  #pump(nowUs: number): SourceOutput[] {
    if (!this.#sends()) return [];
    const state = this.#state;
    // Silence is counted from here: before, nothing was owed.
    if (!this.#sender.owed) this.#heardAtUs = nowUs;
    // A paused guest waits for its last pages: no bandwidth limit holds them up.
    const unlimited = state.kind === 'switching';
    const outputs = this.#orders(this.#sender.background(nowUs, { postcopy: false, unlimited }));
    const { unsent, allCoded } = this.#sender;
    const scans = state.kind === 'precopy' && !this.#postcopyWanted && !this.#ready.pending;
    if (scans && unsent.size === 0 && allCoded) {
      this.#state = { ...state, scanning: true };
      outputs.push({ kind: 'scan' });
    }
    return outputs;
  }

  /** Whether background pages go now. */
  #sends(): boolean {
    const state = this.#state;
    const { choices } = this.#options.hello;
    switch (state.kind) {
      case 'precopy':
        // For a postcopy pages use the time that the disks take, and no more.
        if (this.#postcopyWanted && (this.#ready.disks || !choices.background)) return false;
        return !state.scanning;
      case 'switching':
        return state.paused && !state.postcopy;
      default:
        return false;
    }
  }

  #orders(batches: readonly BatchOrder[]): SourceOutput[] {
    const session = this.#session;
    if (session === undefined) return [];
    return batches.map((batch) => ({ kind: 'sendPages', session, ...batch }));
  }

  #put(section: SourceSection): SourceOutput[] {
    const session = this.#session;
    return session === undefined ? [] : [{ kind: 'put', session, section }];
  }
}
