/**
 * The source's half that begins with `run`: the guest is the destination's, and this side only
 * helps, answers and waits. Part of source-core.ts, which hands every input on to it.
 *
 * It never gives the guest back by itself, except on the destination's word that it never ran there
 * and never will. A lost session is made again for as long as it takes; `resume` asks what the
 * destination has, and in postcopy its list of missing pages replaces what is known here.
 */
import { PAGE_SIZE_BYTES, type PageRange, unreachable } from '../lib/index.js';
import { RECONNECT_US } from './limits.js';
import type { ResumedState, SourceSection } from './messages.js';
import { PageMap, withinRam } from './page-map.js';
import type { PageSender } from './page-sender.js';
import type {
  HandedOver,
  PlainDestinationSection,
  SourceInput,
  SourceOptions,
  SourceOutcome,
  SourceOutput,
} from './source-state.js';

type Section = PlainDestinationSection;
type SectionOf<K extends Section['kind']> = Extract<Section, { kind: K }>;
type Operator = Extract<SourceInput, { kind: `operator${string}` }>;

const LOST =
  'The destination was told to run the guest and can not be reached: the source asks again and ' +
  'again; who has the guest otherwise is for an operator to decide';

export interface HandoverParts {
  readonly options: SourceOptions;
  readonly sender: PageSender;
  readonly postcopy: boolean;
  readonly session: number;
  readonly nowUs: number;
  /** Makes the guest run here again, from paused and given up. */
  readonly resumeGuest: readonly SourceOutput[];
}

export class SourceHandover {
  readonly #options: SourceOptions;
  readonly #sender: PageSender;
  readonly #resumeGuest: readonly SourceOutput[];
  #state: HandedOver;
  #outcome: SourceOutcome | undefined;
  #session: number | undefined;
  #connecting = false;
  #reconnectAtUs: number | undefined;
  /** When the destination last said something, or began to owe an answer. */
  #heardAtUs: number;
  /** The destination's list, while it comes. */
  readonly #missing: PageMap;
  #alarmed = false;

  /** `put`s of `run` are `begin`'s. */
  constructor(parts: HandoverParts) {
    this.#options = parts.options;
    this.#sender = parts.sender;
    this.#resumeGuest = parts.resumeGuest;
    this.#session = parts.session;
    this.#heardAtUs = parts.nowUs;
    this.#missing = new PageMap(parts.options.hello.ramSizeBytes / PAGE_SIZE_BYTES);
    this.#state = {
      kind: 'handedOver',
      postcopy: parts.postcopy,
      link: 'asking',
      confirmed: false,
      lostAtUs: undefined,
      backup: 'none',
    };
  }

  get state(): HandedOver {
    return this.#state;
  }

  get outcome(): SourceOutcome | undefined {
    return this.#outcome;
  }

  /** The point of no return: that it may come was written down before the pause. */
  begin(): SourceOutput[] {
    return this.#put({ kind: 'run' });
  }

  deadlineUs(): number | undefined {
    if (this.#outcome !== undefined) return undefined;
    const times = [this.#silenceAtUs(), this.#reconnectAtUs, this.#recoverAtUs()];
    if (this.#sends()) times.push(this.#sender.readyAtUs({ postcopy: true }));
    const known = times.filter((time) => time !== undefined);
    return known.length === 0 ? undefined : Math.min(...known);
  }

  /** `session` inputs are of the present session. */
  step(input: SourceInput, nowUs: number): SourceOutput[] {
    switch (input.kind) {
      case 'tick':
        return this.#tick(nowUs);
      case 'connected':
        return this.#connected(input.session, nowUs);
      case 'connectFailed':
        if (!this.#connecting) return [];
        this.#connecting = false;
        this.#reconnectAtUs = nowUs + RECONNECT_US;
        return [];
      case 'sessionLost':
        return input.session === this.#session ? this.#lost(nowUs) : [];
      case 'section':
        if (input.session !== this.#session) return [];
        this.#heardAtUs = nowUs;
        return this.#section(input.section, nowUs);
      case 'pagesSent': {
        if (input.session !== this.#session) return [];
        const { sequence, bytes, crc } = input;
        this.#sender.coded(sequence, { bytes, crc });
        return this.#pump(nowUs);
      }
      case 'backupWritten':
      case 'backupFailed':
        return this.#backup(input);
      case 'broken':
        return [alarm(input.reason), ...this.#drop(input.reason, nowUs)];
      case 'guestGone':
        // What is still to be sent is in the RAM file, not in the process.
        return [alarm(input.reason)];
      case 'adjust':
        return this.#pump(nowUs);
      case 'operatorCancel':
      case 'operatorPostcopy':
      case 'operatorRecover':
      case 'operatorForce':
      case 'operatorRelease':
        return this.#operator(input, nowUs);
      default:
        // Answers to what was asked before the switchover.
        return [];
    }
  }

  #connected(session: number, nowUs: number): SourceOutput[] {
    this.#connecting = false;
    if (this.#state.link !== 'lost' || this.#session !== undefined) {
      return [{ kind: 'closeSession', session, reason: 'It is not needed' }];
    }
    this.#session = session;
    this.#heardAtUs = nowUs;
    this.#reconnectAtUs = undefined;
    this.#missing.clear();
    this.#state = { ...this.#state, link: 'resuming' };
    const { migration, vm, host } = this.#options.hello;
    return this.#put({ kind: 'resume', migration, vm, host });
  }

  #connect(address: string | undefined): SourceOutput[] {
    this.#reconnectAtUs = undefined;
    this.#connecting = true;
    return [{ kind: 'connect', address }];
  }

  #lost(nowUs: number): SourceOutput[] {
    this.#session = undefined;
    this.#sender.restart();
    if (this.#state.link === 'stuck') return [];
    this.#state = { ...this.#state, link: 'lost', lostAtUs: this.#state.lostAtUs ?? nowUs };
    this.#reconnectAtUs = nowUs;
    return [];
  }

  /** Ends the session from here; what follows is as if it had been lost. */
  #drop(reason: string, nowUs: number): SourceOutput[] {
    const session = this.#session;
    if (session === undefined) return [];
    return [{ kind: 'closeSession', session, reason }, ...this.#lost(nowUs)];
  }

  #tick(nowUs: number): SourceOutput[] {
    const silenceAtUs = this.#silenceAtUs();
    if (silenceAtUs !== undefined && nowUs >= silenceAtUs) {
      return this.#drop('The destination owes an answer and is silent', nowUs);
    }
    const outputs: SourceOutput[] = [];
    if (this.#reconnectAtUs !== undefined && nowUs >= this.#reconnectAtUs) {
      outputs.push(...this.#connect(undefined));
    }
    const recoverAtUs = this.#recoverAtUs();
    if (recoverAtUs !== undefined && nowUs >= recoverAtUs) outputs.push(...this.#lostTooLong());
    return [...outputs, ...this.#pump(nowUs)];
  }

  #silenceAtUs(): number | undefined {
    if (this.#session === undefined || this.#state.link === 'stuck') return undefined;
    // A destination that was sent everything owes its `complete`; if it lacks something it says so.
    const sentAll = this.#sender.unsent.size === 0;
    const owes = this.#state.link !== 'sending' || this.#sender.owed || sentAll;
    return owes ? this.#heardAtUs + this.#options.silenceTimeoutUs : undefined;
  }

  #recoverAtUs(): number | undefined {
    const { lostAtUs } = this.#state;
    if (lostAtUs === undefined || this.#alarmed) return undefined;
    return lostAtUs + this.#options.recoverTimeoutUs;
  }

  #lostTooLong(): SourceOutput[] {
    this.#alarmed = true;
    if (!this.#state.postcopy || this.#state.backup !== 'none') return [alarm(LOST)];
    this.#state = { ...this.#state, backup: 'writing' };
    return [{ kind: 'writeBackup', ranges: this.#sender.unconfirmed.ranges() }];
  }

  #backup(input: Extract<SourceInput, { kind: 'backupWritten' | 'backupFailed' }>): SourceOutput[] {
    if (input.kind === 'backupFailed') {
      // The next loss tries again.
      this.#state = { ...this.#state, backup: 'none' };
      return [alarm(`${LOST}. No backup file could be written: ${input.reason}`)];
    }
    this.#state = { ...this.#state, backup: 'written' };
    return [
      alarm(
        `The destination can not be reached; what it may lack is in ${input.path}: "colo ` +
          `migrate-finish --from ${input.path}" there, or "colo migrate-recover --to" here`,
      ),
    ];
  }

  #section(section: Section, nowUs: number): SourceOutput[] {
    const { link, postcopy, confirmed } = this.#state;
    switch (section.kind) {
      case 'received':
        if (!this.#sender.received(section.sequence)) break;
        return this.#pump(nowUs);
      case 'placed':
        if (!postcopy) break;
        return this.#placed(section.ranges, nowUs);
      case 'running':
        if (link !== 'asking') break;
        if (!postcopy) return this.#release();
        this.#state = { ...this.#state, confirmed: true };
        return this.#reached('sending', nowUs);
      case 'resumed':
        if (link !== 'resuming') break;
        return this.#resumed(section.state, nowUs);
      case 'missing':
        if (link !== 'resuming' || !postcopy) break;
        return this.#missingPages(section, nowUs);
      case 'faults':
        if (!postcopy || link === 'resuming' || link === 'stuck') break;
        return [];
      case 'complete':
        if (link === 'resuming' || link === 'stuck') break;
        return this.#release();
      case 'failed':
        if (!section.ran && !confirmed) return this.#takeBack(section.reason);
        return this.#stuck(`The destination failed: ${section.reason}`);
      default:
        break;
    }
    const what = `The destination says ${section.kind}, which does not belong here (${link})`;
    return this.#drop(what, nowUs);
  }

  #placed(ranges: readonly PageRange[], nowUs: number): SourceOutput[] {
    if (!withinRam(ranges, this.#missing.pages)) {
      return this.#drop('The destination has placed pages outside of RAM', nowUs);
    }
    // Before its list of missing pages it has nothing to say of which anything is known here.
    if (this.#state.link !== 'resuming') this.#sender.placed(ranges);
    return this.#pump(nowUs);
  }

  #resumed(answer: ResumedState, nowUs: number): SourceOutput[] {
    const { confirmed, postcopy } = this.#state;
    switch (answer) {
      case 'complete':
        return this.#release();
      case 'running':
        // The list of what is missing follows.
        this.#state = { ...this.#state, confirmed: true };
        return postcopy ? [] : this.#release();
      case 'loaded':
        if (confirmed) break;
        if (!postcopy) this.#reached('asking', nowUs);
        return this.#put({ kind: 'run' });
      case 'discarded':
        if (confirmed) break;
        return this.#takeBack('The destination has discarded the guest before it ran');
      case 'lost':
      case 'unknown':
        break;
      default:
        return unreachable(answer);
    }
    return this.#stuck(`The destination says of this migration: ${answer}`);
  }

  #missingPages({ ranges, last }: SectionOf<'missing'>, nowUs: number): SourceOutput[] {
    if (!withinRam(ranges, this.#missing.pages)) {
      return this.#drop('The destination lacks pages outside of RAM', nowUs);
    }
    this.#missing.addAll(ranges);
    if (!last) return [];
    const { unsent, unconfirmed } = this.#sender;
    for (const map of [unsent, unconfirmed]) {
      map.clear();
      map.addAll(this.#missing.ranges());
    }
    return this.#reached(this.#state.confirmed ? 'sending' : 'asking', nowUs);
  }

  /** The destination has answered: it is not lost any more. */
  #reached(link: 'asking' | 'sending', nowUs: number): SourceOutput[] {
    this.#state = { ...this.#state, link, lostAtUs: undefined };
    this.#alarmed = false;
    return this.#pump(nowUs);
  }

  #stuck(message: string): SourceOutput[] {
    this.#state = { ...this.#state, link: 'stuck' };
    return [alarm(`${message}; who has the guest is for an operator to decide`)];
  }

  #operator(input: Operator, nowUs: number): SourceOutput[] {
    const { link } = this.#state;
    const refuse = (reason: string): SourceOutput[] => [
      { kind: 'commandRefused', command: input.kind, reason },
    ];
    const connected = refuse('The destination is connected');
    const undecided = link === 'lost' || link === 'stuck';
    switch (input.kind) {
      case 'operatorCancel':
      case 'operatorPostcopy':
        return refuse('The destination was told to run the guest');
      case 'operatorRecover': {
        if (!undecided && link !== 'resuming') return connected;
        const outputs = this.#drop('The operator wants another connection', nowUs);
        this.#state = { ...this.#state, link: 'lost', lostAtUs: this.#state.lostAtUs ?? nowUs };
        return [...outputs, ...this.#connect(input.address)];
      }
      case 'operatorForce':
        return undecided ? this.#takeBack(`Taken back: ${input.by}`) : connected;
      case 'operatorRelease':
        return undecided ? this.#release() : connected;
      default:
        return unreachable(input);
    }
  }

  #release(): SourceOutput[] {
    return [
      ...this.#put({ kind: 'released' }),
      { kind: 'record', what: 'released' },
      { kind: 'release' },
      ...this.#end({ kind: 'moved' }),
    ];
  }

  #takeBack(reason: string): SourceOutput[] {
    return [
      { kind: 'record', what: 'taken-back' },
      ...this.#resumeGuest,
      ...this.#end({ kind: 'kept', cause: 'failed', reason }),
    ];
  }

  /**
   * A destination that hears `released` closes the session itself. Closed from here, the end of
   * another link could overtake the word.
   */
  #end(outcome: SourceOutcome): SourceOutput[] {
    const session = outcome.kind === 'moved' ? undefined : this.#session;
    this.#outcome = outcome;
    const close: SourceOutput[] =
      session === undefined ? [] : [{ kind: 'closeSession', session, reason: 'It is over' }];
    return [...close, { kind: 'ended', outcome }];
  }

  #pump(nowUs: number): SourceOutput[] {
    if (!this.#sends()) return [];
    // Silence is counted from here: before, nothing was owed.
    if (!this.#sender.owed) this.#heardAtUs = nowUs;
    return this.#orders(this.#sender.background(nowUs, { postcopy: true, unlimited: false }));
  }

  #sends(): boolean {
    const { postcopy, link } = this.#state;
    return postcopy && link === 'sending' && this.#options.hello.choices.background;
  }

  #orders(batches: ReturnType<PageSender['background']>): SourceOutput[] {
    const session = this.#session;
    if (session === undefined) return [];
    return batches.map((batch) => ({ kind: 'sendPages', session, ...batch }));
  }

  #put(section: SourceSection): SourceOutput[] {
    const session = this.#session;
    return session === undefined ? [] : [{ kind: 'put', session, section }];
  }
}

function alarm(message: string): SourceOutput {
  return { kind: 'alarm', message };
}
