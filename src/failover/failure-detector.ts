/**
 * Decides when a silent peer is a lost peer.
 *
 * In: heartbeats, lost links, answers to probes, ticks. Out: verdicts, at most one per input.
 *
 * Two ways lead to `lost`. Silence: nothing was heard for `peerTimeoutUs`. Refusal: the link broke
 * and the peer's host answered a new connection with "nobody listens", which only a host whose
 * process is gone does; or another instance answered (`replaced`), which has begun after the peer's
 * role had ended. Both are proof, so they need not wait for the time-out. A peer that answers a
 * probe is alive although the session is gone: `abandoned`, and nobody may be promoted for it. One
 * that answers that it still holds a state which it might take over from has not noticed yet, or is
 * about to leave, and is asked again. One that answers that it runs the guest itself has taken
 * over, or has gone on alone: `superseded`, and this side must not speak.
 *
 * A session that is only interrupted (`interrupted`), whose connections broke and may come back, is
 * the same question, asked as soon, with fewer answers: a peer that lives and has not taken the
 * guest for itself may go on with the session, so that its answer decides nothing. Either `resumed`
 * follows and nothing was lost, or `linkLost`, from where on the answers count as above.
 *
 * A silent session is not a silent host: after a short blackout TCP waits, twice as long each time,
 * before it sends again, while a new connection gets through at once. So a peer is also asked when
 * half of the time-out has passed in silence. If it answers, the time-out alone proves nothing: it
 * is asked again then, and only such an answer counts. A peer that never answers is lost at the
 * time-out. Nothing is decided while an answer is awaited, or while the peer still holds its state,
 * up to twice the time-out.
 *
 * A peer that says that it hears nothing of this side (`isDeaf`) is as good as silent: its words
 * come by a link that carries none the other way, where it will soon judge this side lost. It is
 * told the same (`hears`) while nothing comes, so that both judge alike; whatever comes ends that.
 *
 * Silence is measured in time that this process was awake: a node that was itself stopped for a
 * second (SIGSTOP, a busy host) must first read what waited in its sockets before it judges. Each
 * tick therefore counts for at most two tick intervals.
 */
import type { ProbeResult } from '../transport/index.js';

export type { ProbeResult };

export type DetectorVerdict =
  | { readonly kind: 'probe' }
  /** The session is silent and the peer is not: other connections may serve it better. */
  | { readonly kind: 'renew' }
  /** `proof`: its process is gone, and with it all that it could say. */
  | { readonly kind: 'lost'; readonly reason: string; readonly proof: boolean }
  | { readonly kind: 'abandoned'; readonly reason: string }
  | { readonly kind: 'superseded'; readonly reason: string };

type State =
  | { kind: 'idle' }
  | ({ kind: 'alive' } & Silence)
  /** `interrupted`: the session may yet go on. */
  | ({ kind: 'suspect'; readonly reason: string; readonly interrupted: boolean } & Silence);

interface Silence {
  /** Since the last word of a peer that hears this side. */
  silentUs: number;
  /** Since any word. */
  quietUs: number;
  tickedAtUs: number;
  /** An answer is awaited. */
  probing: boolean;
  /** The last answer showed that the peer's agent lives, and decided nothing. */
  answers: boolean;
}

/** Of the time-out, and two ticks at least: after it the peer is told that it is not heard. */
const DEAF_AFTER = 0.25;
/** Of the time-out: from here on silence is a reason to ask. */
const ASK_AFTER = 0.5;
/** Of the time-out: a probe, which takes a quarter of it at most, that begins later is late. */
const ASK_UNTIL = 0.75;
/** Of the time-out: an answer that has not come by then, or decides nothing then, never will. */
const AWAIT_UNTIL = 2;

/** Of the probes that no agent of the session has answered. */
const NO_ANSWER: readonly ProbeResult[] = ['replaced', 'refused', 'unreachable', 'silent'];

/** One peer's failure detector; `start` for each new session. */
export class FailureDetector {
  readonly #peerTimeoutUs: number;
  readonly #deafAfterUs: number;
  readonly #tickUs: number;
  readonly #peerServes: boolean;
  #state: State = { kind: 'idle' };
  #heardAtUs: number | undefined;

  /**
   * `tickUs` is how often it wants to be ticked, usually the heartbeat interval. `peerServes`: the
   * peer speaks for the guest, and so an interrupted session's peer does.
   */
  constructor(options: { peerTimeoutUs: number; tickUs: number; peerServes?: boolean }) {
    this.#peerTimeoutUs = options.peerTimeoutUs;
    this.#tickUs = options.tickUs;
    this.#deafAfterUs = Math.max(DEAF_AFTER * options.peerTimeoutUs, 2 * options.tickUs);
    this.#peerServes = options.peerServes ?? false;
  }

  get suspected(): boolean {
    return this.#state.kind === 'suspect';
  }

  /** Nothing that is sent can reach the peer any more. */
  get isOver(): boolean {
    return this.suspected && !this.interrupted;
  }

  /** The session may yet go on. */
  get interrupted(): boolean {
    return this.#state.kind === 'suspect' && this.#state.interrupted;
  }

  /** When the peer was last heard; undefined before the first session. */
  get heardAtUs(): number | undefined {
    return this.#heardAtUs;
  }

  /** For heartbeats: something has come of late. */
  get hears(): boolean {
    return this.#state.kind === 'idle' || this.#state.quietUs <= this.#deafAfterUs;
  }

  start(nowUs: number): void {
    this.#heardAtUs = nowUs;
    const silence = { silentUs: 0, quietUs: 0, tickedAtUs: nowUs };
    this.#state = { kind: 'alive', ...silence, probing: false, answers: false };
  }

  stop(): void {
    this.#state = { kind: 'idle' };
  }

  /** `isDeaf`: the peer says that it hears nothing. */
  heard(nowUs: number, isDeaf = false): void {
    this.#heardAtUs = nowUs;
    if (this.#state.kind === 'idle' || this.isOver) return;
    // The next tick will count from the last one on, and what lies before now was not silence.
    const sinceTickUs = -Math.min(nowUs - this.#state.tickedAtUs, 2 * this.#tickUs);
    this.#state.quietUs = sinceTickUs;
    if (isDeaf) return;
    this.#state.silentUs = sinceTickUs;
    this.#state.answers = false;
  }

  /** The session is over. */
  linkLost(reason: string): DetectorVerdict | undefined {
    const state = this.#state;
    if (state.kind === 'idle' || this.isOver) return undefined;
    return this.#suspect({ ...state, kind: 'alive' }, reason);
  }

  /** Connections of the session broke: until `resumed` or `linkLost`. */
  interruptedBy(reason: string): DetectorVerdict | undefined {
    if (this.#state.kind !== 'alive') return undefined;
    return this.#suspect(this.#state, reason, true);
  }

  /** The session goes on. */
  resumed(): void {
    const state = this.#state;
    if (state.kind !== 'suspect' || !state.interrupted) return;
    const { silentUs, quietUs, tickedAtUs, probing, answers } = state;
    this.#state = { kind: 'alive', silentUs, quietUs, tickedAtUs, probing, answers };
  }

  /** Any of these. */
  told(
    what:
      | { readonly kind: 'linkLost' | 'interrupted'; readonly reason: string }
      | { readonly kind: 'probed'; readonly result: ProbeResult },
  ): DetectorVerdict | undefined {
    if (what.kind === 'probed') return this.probed(what.result);
    const { kind, reason } = what;
    return kind === 'linkLost' ? this.linkLost(reason) : this.interruptedBy(reason);
  }

  probed(result: ProbeResult): DetectorVerdict | undefined {
    const state = this.#state;
    if (state.kind === 'idle') return undefined;
    state.probing = false;
    state.answers = !NO_ANSWER.includes(result);
    if (state.kind === 'alive') {
      const isSilent = state.silentUs >= ASK_AFTER * this.#peerTimeoutUs;
      return state.answers && isSilent ? { kind: 'renew' } : undefined;
    }
    const { reason } = state;
    if (state.interrupted && this.#mayGoOn(result)) return undefined;
    switch (result) {
      case 'refused':
        this.stop();
        return lost(`${reason}; the peer's host says that nobody listens`, true);
      case 'replaced':
        this.stop();
        return lost(`${reason}; the peer's role has ended since`, true);
      case 'alive':
      case 'leading':
      case 'shared':
      case 'following':
        this.stop();
        return { kind: 'abandoned', reason: `${reason}; the peer's agent is alive` };
      case 'serving':
        this.stop();
        return { kind: 'superseded', reason: `${reason}; the peer runs the guest` };
      case 'holding':
      case 'silent':
      case 'unreachable':
        return undefined;
    }
  }

  /** Of an interrupted session's peer: with this answer the session may still be resumed. */
  #mayGoOn(result: ProbeResult): boolean {
    if (result === 'refused' || result === 'replaced') return false;
    return result !== 'serving' || this.#peerServes;
  }

  tick(nowUs: number): DetectorVerdict | undefined {
    const state = this.#state;
    if (state.kind === 'idle' || nowUs < state.tickedAtUs + this.#tickUs) return undefined;
    const awakeUs = Math.min(nowUs - state.tickedAtUs, 2 * this.#tickUs);
    state.silentUs += awakeUs;
    state.quietUs += awakeUs;
    state.tickedAtUs = nowUs;
    if (state.silentUs >= this.#peerTimeoutUs) return this.#timeOut(state);
    const mayAsk = !state.probing && state.silentUs <= ASK_UNTIL * this.#peerTimeoutUs;
    const asks = state.kind === 'suspect' || state.silentUs >= ASK_AFTER * this.#peerTimeoutUs;
    if (!mayAsk || !asks) return undefined;
    state.probing = true;
    return { kind: 'probe' };
  }

  #timeOut(state: Exclude<State, { kind: 'idle' }>): DetectorVerdict | undefined {
    const late = state.silentUs >= AWAIT_UNTIL * this.#peerTimeoutUs;
    if (state.probing && !late) return undefined;
    const what = state.quietUs < state.silentUs ? 'deaf' : 'silent';
    const silence = `${what} for ${Math.round(state.silentUs / 1000)} ms`;
    if (state.answers && !late) return this.#suspect(state, silence);
    this.stop();
    const cause = state.kind === 'suspect' ? `${state.reason}; ` : '';
    return lost(`${cause}${silence}`, false);
  }

  #suspect(
    state: Exclude<State, { kind: 'idle' }>,
    why: string,
    interrupted = state.kind === 'suspect' && state.interrupted,
  ): DetectorVerdict {
    const { silentUs, quietUs, tickedAtUs, answers } = state;
    const reason = state.kind === 'suspect' ? state.reason : why;
    const silence = { silentUs, quietUs, tickedAtUs, answers, probing: true };
    this.#state = { kind: 'suspect', reason, interrupted, ...silence };
    return { kind: 'probe' };
  }

  deadlineUs(): number | undefined {
    return this.#state.kind === 'idle' ? undefined : this.#state.tickedAtUs + this.#tickUs;
  }
}

function lost(reason: string, proof: boolean): DetectorVerdict {
  return { kind: 'lost', reason, proof };
}
