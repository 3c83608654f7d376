/**
 * Whether this node may speak for the guest, and until when (I4).
 *
 * In: what the peer's heartbeats say, what the witness answers, what the node knows of the peer.
 * Out: the end of the output lease, requests to the witness, and who takes over.
 *
 * Two things give the right to speak for a while:
 *
 *   a confirmation   the peer answered a heartbeat and thereby *promised* to begin nothing for
 *                    `promiseUs`. So a healthy pair needs no witness.
 *   a grant          the witness, which grants one node at a time.
 *
 * Each lasts from before it was asked for (permit/lease.ts). With neither, output stops. A node
 * that does not speak begins only when its own promise is over, or the peer is proved silent.
 *
 * Tokens. Going alone makes everything that the other node holds old. The witness keeps the
 * *alone token*: the number of the last grant with which a node went alone. It grants nothing to a
 * node that knows only older ones, for that node's state is older than what clients have seen. A
 * standby knows its speaker's token. A speaker that takes a grant only because the peer's
 * confirmations run late ("insure") leaves the alone token as it is, or its standby would be stale.
 * A token may be told to the standby in the session's heartbeats, because going alone always takes
 * a grant that was asked for after the session's end.
 *
 * A standby whose promise still binds asks to be insured first. Once the witness has decided for
 * it, it confirms no more: the old speaker's lease ends, then the promise, and only then does it ask
 * to go alone, which makes the old speaker's token an old one. So a claim that is given up in time
 * leaves no trace.
 *
 * A standby whose session broke may still hear its speaker, as on a link that loses some of what it
 * carries. That one is alive and has newer state, so it is left the time to take the grant. If it
 * does not, it can't, and the standby claims as usual.
 *
 * So without the witness nobody goes alone, not even from a peer that is provably dead: the next to
 * start would not be told who has the newest state. Output waits, until the witness is there or a
 * standby has committed it.
 *
 * States:
 *
 *   bystander   holds nothing to speak from
 *   standby     could take over
 *   claiming    the peer is lost: wants the witness's grant, does not speak yet
 *   muted       the speaker, without a right at present; goes on once it has one
 *   speaking
 *   fenced      must not speak for what it holds: the other node has gone alone, or this one left
 */
import type { Core } from '../../lib/index.js';
import {
  ANY_TOKEN,
  ASK_AGAIN_PART,
  ASK_AGAIN_US_MAX,
  ASK_AGAIN_US_MIN,
  COURTESY_PART,
  HEARD_PART,
  LOW_LEASE_PART,
  RENEW_PART,
  UNLIMITED_US,
} from '../limits.js';
import type { WitnessAnswer, WitnessRequest } from '../witness/witness.js';
import { leaseUs } from './lease.js';

export type PermitInput =
  | { readonly kind: 'tick' }
  /** A heartbeat. `session`: of the protected pair that its sender is the speaker of. */
  | {
      readonly kind: 'heard';
      readonly asks: boolean;
      readonly token: number;
      readonly session: number | undefined;
    }
  /** The peer confirmed what was sent at `sentAtUs`; `token` is the newest that it knows. */
  | { readonly kind: 'confirmed'; readonly sentAtUs: number; readonly token: number }
  | { readonly kind: 'answered'; readonly answer: WitnessAnswer }
  /**
   * Speaker: output is held from here on, and the other node is about to get what it can commit as
   * its first state of `session`. Before that is sent.
   */
  | { readonly kind: 'protecting'; readonly session: number }
  /** The other node: it has committed; `token` is the speaker's, as told in the session. */
  | { readonly kind: 'standby'; readonly session: number; readonly token: number }
  /** What the standby held is thrown away. */
  | { readonly kind: 'discarded' }
  /**
   * The session is over. `proof`: the peer can't speak any more, because its process is gone or it
   * said so after it fell silent.
   */
  | { readonly kind: 'peerLost'; readonly proof: boolean }
  /** Whether this host reaches its own LAN. */
  | { readonly kind: 'lan'; readonly reachable: boolean }
  /** The operator vouches that the peer is silent. */
  | { readonly kind: 'force' }
  /** This node gives the guest up, or ends. */
  | { readonly kind: 'leave'; readonly reason: string };

export type PermitOutput =
  /** The output lease begins, or begins again after `fallSilent`. */
  | { readonly kind: 'speak'; readonly untilUs: number }
  /** The output lease's new end. */
  | { readonly kind: 'extend'; readonly untilUs: number }
  | { readonly kind: 'fallSilent'; readonly reason: string }
  /** Answer the heartbeat just heard; the promise counts already. */
  | { readonly kind: 'confirm' }
  /** Exactly one `answered` must follow, `unreachable` at the latest at a deadline. */
  | { readonly kind: 'askWitness'; readonly request: WitnessRequest }
  | { readonly kind: 'releaseWitness' }
  /** Standby: become the speaker; output may leave already. Persist the token. */
  | { readonly kind: 'takeOver'; readonly token: number }
  /**
   * Speaker: what any standby holds is void, and output need not be held. Before it comes, also of
   * one that has just started, only what a standby has committed may leave. Persist the token.
   */
  | { readonly kind: 'goAlone'; readonly token: number }
  /** Persist the token: it is new, though nobody goes alone with it. */
  | { readonly kind: 'learnt'; readonly token: number }
  /** Standby: the state that is held must never be promoted. */
  | { readonly kind: 'stale'; readonly reason: string }
  /** Speaker: the other node has the guest; this one ends or joins it. */
  | { readonly kind: 'fenced'; readonly reason: string };

export type PermitState =
  | { readonly kind: 'bystander' }
  | { readonly kind: 'standby'; readonly session: number }
  | { readonly kind: 'claiming' }
  | { readonly kind: 'muted'; readonly reason: string }
  | { readonly kind: 'speaking' }
  | { readonly kind: 'fenced'; readonly reason: string };

export interface PermitOptions {
  readonly role: 'primary' | 'secondary';
  /** How long a confirmation binds; `peer-timeout`, the same on both hosts. */
  readonly promiseUs: number;
  /** False: `--witness none`, and then nothing below protects from two speakers. */
  readonly hasWitness: boolean;
  /** Without a witness: a standby takes over from a silent peer without proof. */
  readonly takesRisk: boolean;
  /** The newest token that this node has ever had; kept on its disk. */
  readonly knownToken: number;
  /** What was promised before a restart counts: nothing begins for `promiseUs` from here. */
  readonly startUs: number;
}

/** Unprotected, or on the way there. `wanted`: by a request that is yet to be made. */
type Alone = 'no' | 'wanted' | 'yes';

interface Asking {
  readonly alone: boolean;
  /** It was asked for a loss that is over: a grant insures, no more. */
  void: boolean;
}

/** The pure core; all times are of CLOCK_BOOTTIME. */
export class SpeechPermit implements Core<PermitInput, PermitOutput> {
  readonly #options: PermitOptions;
  readonly #peerLeaseUs: number;
  readonly #askAgainUs: number;
  #state: PermitState;
  #alone: Alone = 'no';
  #session: number | undefined;
  #token: number;
  #promisedUntilUs: number;
  #peerUntilUs = 0;
  #witnessUntilUs = 0;
  #held = false;
  #asking: Asking | undefined;
  #askAtUs = 0;
  #healthySinceUs: number | undefined;
  #lanReachable = true;
  /** When a heartbeat of the speaker came last. */
  #heardAtUs = Number.NEGATIVE_INFINITY;
  /** Until then the grant is left to a speaker that is heard. */
  #courtesyUntilUs = 0;
  #steppedAtUs: number;
  #vouched = false;
  #vouchedAtUs = 0;

  constructor(options: PermitOptions) {
    const { role, promiseUs, startUs, knownToken } = options;
    this.#options = options;
    this.#peerLeaseUs = leaseUs(promiseUs);
    const againUs = Math.round(promiseUs * ASK_AGAIN_PART);
    this.#askAgainUs = Math.min(Math.max(againUs, ASK_AGAIN_US_MIN), ASK_AGAIN_US_MAX);
    this.#token = knownToken;
    this.#promisedUntilUs = options.hasWitness ? startUs + promiseUs : startUs;
    this.#askAtUs = startUs;
    this.#steppedAtUs = startUs;
    if (role === 'primary') {
      this.#alone = 'wanted';
      this.#state = { kind: 'muted', reason: 'Started' };
    } else {
      this.#state = { kind: 'bystander' };
    }
  }

  get state(): PermitState {
    return this.#state;
  }

  /** The newest token known. */
  get token(): number {
    return this.#token;
  }

  /** For heartbeats: this node speaks, or would if it were confirmed. */
  get asks(): boolean {
    return this.#isSpeaker();
  }

  /** For heartbeats: the protected session that this node is the speaker of. */
  get session(): number | undefined {
    return this.#isSpeaker() && this.#alone === 'no' ? this.#session : undefined;
  }

  /** The witness's grant is held. */
  get isWitnessed(): boolean {
    return this.#held;
  }

  /** When the right to speak ends; 0 if there is none. */
  get untilUs(): number {
    return this.#state.kind === 'speaking' ? this.#leaseUs() : 0;
  }

  deadlineUs(): number | undefined {
    const at: number[] = [];
    const { kind } = this.#state;
    const lease = this.#leaseUs();
    if (kind === 'speaking' && lease < UNLIMITED_US) at.push(lease);
    const binds = this.#promisedUntilUs > this.#steppedAtUs;
    if (kind === 'muted' && binds && lease > this.#promisedUntilUs) at.push(this.#promisedUntilUs);
    if (this.#mayAsk()) at.push(Math.max(this.#askAtUs, this.#wantsAtUs()));
    return at.length === 0 ? undefined : Math.min(...at);
  }

  step(input: PermitInput, nowUs: number): PermitOutput[] {
    this.#steppedAtUs = nowUs;
    // A lease that is over is over, whatever came too late to extend it.
    const outputs = [...this.#lapse(nowUs), ...this.#take(input, nowUs)];
    outputs.push(...this.#begin(nowUs), ...this.#turnToWitness(nowUs));
    return outputs;
  }

  #take(input: PermitInput, nowUs: number): PermitOutput[] {
    switch (input.kind) {
      case 'tick':
        return [];
      case 'heard':
        return this.#heard(input, nowUs);
      case 'confirmed':
        return this.#confirmed(input);
      case 'answered':
        return this.#answered(input.answer, nowUs);
      case 'protecting':
        if (!this.#isSpeaker()) return [];
        this.#alone = 'no';
        this.#session = input.session;
        if (this.#asking !== undefined) this.#asking.void = true;
        return [];
      case 'standby':
        return this.#standBy(input);
      case 'discarded':
        if (this.#state.kind !== 'standby' && this.#state.kind !== 'claiming') return [];
        this.#state = { kind: 'bystander' };
        return this.#release();
      case 'peerLost':
        return this.#peerLost(input, nowUs);
      case 'lan':
        this.#lanReachable = input.reachable;
        return [];
      case 'force':
        return this.#force(nowUs);
      case 'leave':
        return this.#fence(input.reason, 'left');
    }
  }

  #lapse(nowUs: number): PermitOutput[] {
    if (this.#state.kind !== 'speaking' || nowUs < this.#leaseUs()) return [];
    const reason = this.#options.hasWitness
      ? 'Neither the peer nor the witness confirms the right to speak'
      : 'The right to speak is over';
    this.#state = { kind: 'muted', reason };
    return [{ kind: 'fallSilent', reason }];
  }

  #heard(input: Extract<PermitInput, { kind: 'heard' }>, nowUs: number): PermitOutput[] {
    const outputs = this.#learn(input.token, input.session);
    if (input.asks) this.#heardAtUs = nowUs;
    if (!input.asks || input.token < this.#token || !this.#mayPromise()) return outputs;
    this.#promisedUntilUs = Math.max(this.#promisedUntilUs, nowUs + this.#options.promiseUs);
    return [...outputs, { kind: 'confirm' }];
  }

  #mayPromise(): boolean {
    switch (this.#state.kind) {
      case 'bystander':
      case 'standby':
      case 'fenced':
        return true;
      case 'claiming':
        return !this.#held && this.#asking?.alone !== true;
      case 'muted':
      case 'speaking':
        return false;
    }
  }

  /** A token of the peer: the session's own, or proof that it has gone alone. */
  #learn(token: number, session: number | undefined): PermitOutput[] {
    if (token <= this.#token) return [];
    const reason = `The peer went alone with token ${token}, this node knows ${this.#token}`;
    switch (this.#state.kind) {
      case 'standby':
        if (session === this.#state.session) {
          this.#token = token;
          return [];
        }
        return this.#becomeStale(reason);
      case 'claiming':
        return this.#becomeStale(reason);
      case 'muted':
      case 'speaking':
        // Vouched for: the peer must not speak, whatever it says.
        return this.#vouched ? [] : this.#fence(reason, 'fenced');
      case 'bystander':
      case 'fenced':
        return [];
    }
  }

  #confirmed(input: Extract<PermitInput, { kind: 'confirmed' }>): PermitOutput[] {
    const outputs = this.#learn(input.token, undefined);
    this.#peerUntilUs = Math.max(this.#peerUntilUs, input.sentAtUs + this.#peerLeaseUs);
    // The peer is there after all, or again: from here on what it says counts.
    if (input.sentAtUs > this.#vouchedAtUs) this.#vouched = false;
    return [...outputs, ...this.#extend()];
  }

  #standBy(input: Extract<PermitInput, { kind: 'standby' }>): PermitOutput[] {
    const { kind } = this.#state;
    if (kind !== 'bystander' && kind !== 'standby' && kind !== 'fenced') return [];
    this.#state = { kind: 'standby', session: input.session };
    this.#token = Math.max(this.#token, input.token);
    return [];
  }

  #peerLost(input: Extract<PermitInput, { kind: 'peerLost' }>, nowUs: number): PermitOutput[] {
    const { kind } = this.#state;
    if (kind === 'standby' || kind === 'claiming') {
      const courtesyUs = Math.round(this.#options.promiseUs * COURTESY_PART);
      if (kind === 'standby') this.#courtesyUntilUs = nowUs + courtesyUs;
      if (input.proof) this.#courtesyUntilUs = nowUs;
      this.#state = { kind: 'claiming' };
      if (input.proof) this.#promisedUntilUs = Math.min(this.#promisedUntilUs, nowUs);
      this.#askAtUs = nowUs;
      if (this.#options.hasWitness || !(input.proof || this.#options.takesRisk)) return [];
      return this.#takeOver(UNLIMITED_US);
    }
    if (!this.#isSpeaker() || this.#alone !== 'no') return [];
    this.#alone = 'wanted';
    this.#session = undefined;
    this.#askAtUs = nowUs;
    if (this.#asking !== undefined) this.#asking.void = true;
    if (this.#options.hasWitness) return [];
    this.#alone = 'yes';
    return [{ kind: 'goAlone', token: this.#token }];
  }

  #answered(answer: WitnessAnswer, nowUs: number): PermitOutput[] {
    const asking = this.#asking;
    this.#asking = undefined;
    if (asking === undefined) return [];
    if (answer.kind !== 'granted') {
      this.#askAtUs = nowUs + this.#askAgainUs;
      return answer.kind === 'denied' ? this.#denied(answer) : [];
    }
    const wanted = this.#isSpeaker() || this.#state.kind === 'claiming';
    this.#held = true;
    // What a void request bumped is told to the standby; see the head of this file.
    if (asking.alone) this.#token = Math.max(this.#token, answer.token);
    if (!wanted) return [...this.#learnt(asking), ...this.#release()];
    this.#witnessUntilUs = answer.askedAtUs + leaseUs(answer.ttlUs);
    this.#askAtUs = answer.askedAtUs + Math.floor(answer.ttlUs * RENEW_PART);
    if (this.#state.kind === 'claiming') {
      if (asking.alone) return this.#takeOver(this.#witnessUntilUs);
      this.#askAtUs = Math.min(this.#askAtUs, this.#promisedUntilUs);
      return [];
    }
    const outputs = asking.void ? this.#learnt(asking) : [];
    if (this.#alone === 'wanted') {
      if (asking.alone && !asking.void) {
        this.#alone = 'yes';
        outputs.push({ kind: 'goAlone', token: this.#token });
      } else {
        this.#askAtUs = nowUs;
      }
    }
    this.#vouched = false;
    return [...outputs, ...this.#extend()];
  }

  #learnt(asking: Asking): PermitOutput[] {
    return asking.alone ? [{ kind: 'learnt', token: this.#token }] : [];
  }

  #denied(answer: Extract<WitnessAnswer, { kind: 'denied' }>): PermitOutput[] {
    this.#held = false;
    this.#witnessUntilUs = 0;
    const outputs = this.#extend();
    if (!answer.stale || this.#vouched) return outputs;
    const reason = `The witness says that ${answer.holder} has gone alone since`;
    switch (this.#state.kind) {
      case 'standby':
      case 'claiming':
        return [...outputs, ...this.#becomeStale(reason)];
      case 'muted':
      case 'speaking':
        return [...outputs, ...this.#fence(reason, 'fenced')];
      case 'bystander':
      case 'fenced':
        return outputs;
    }
  }

  #force(nowUs: number): PermitOutput[] {
    const { kind } = this.#state;
    if (kind === 'bystander' || kind === 'fenced' || kind === 'speaking') return [];
    this.#promisedUntilUs = Math.min(this.#promisedUntilUs, nowUs);
    this.#vouched = true;
    this.#vouchedAtUs = nowUs;
    this.#askAtUs = nowUs;
    if (kind !== 'muted') return this.#takeOver(UNLIMITED_US);
    this.#state = { kind: 'speaking' };
    this.#alone = this.#options.hasWitness ? 'wanted' : 'yes';
    this.#session = undefined;
    return [
      { kind: 'speak', untilUs: UNLIMITED_US },
      { kind: 'goAlone', token: this.#token },
    ];
  }

  /** A muted speaker goes on as soon as everything that is needed is there. */
  #begin(nowUs: number): PermitOutput[] {
    if (this.#state.kind !== 'muted') return [];
    if (nowUs < this.#promisedUntilUs || nowUs >= this.#leaseUs()) return [];
    this.#state = { kind: 'speaking' };
    const outputs: PermitOutput[] = [{ kind: 'speak', untilUs: this.#leaseUs() }];
    if (this.#options.hasWitness || this.#alone !== 'wanted') return outputs;
    this.#alone = 'yes';
    return [...outputs, { kind: 'goAlone', token: this.#token }];
  }

  #takeOver(untilUs: number): PermitOutput[] {
    this.#state = { kind: 'speaking' };
    this.#alone = this.#vouched && this.#options.hasWitness ? 'wanted' : 'yes';
    this.#session = undefined;
    this.#peerUntilUs = 0;
    this.#healthySinceUs = undefined;
    return [
      { kind: 'takeOver', token: this.#token },
      { kind: 'speak', untilUs },
    ];
  }

  /** Asks, renews or releases, whichever is due. */
  #turnToWitness(nowUs: number): PermitOutput[] {
    this.#watchHealth(nowUs);
    if (this.#held && nowUs >= this.#witnessUntilUs) this.#held = false;
    const isHealthy =
      this.#healthySinceUs !== undefined && nowUs - this.#healthySinceUs >= this.#options.promiseUs;
    if (this.#held && this.#asking === undefined && this.#alone === 'no' && isHealthy) {
      return [...this.#release(), ...this.#extend()];
    }
    if (!this.#mayAsk() || nowUs < Math.max(this.#askAtUs, this.#wantsAtUs())) return [];
    const claims = this.#state.kind === 'claiming' && nowUs >= this.#promisedUntilUs;
    this.#asking = { alone: claims || this.#alone === 'wanted', void: false };
    const knownToken = this.#vouched ? ANY_TOKEN : this.#token;
    const purpose = this.#asking.alone ? 'alone' : 'insure';
    return [{ kind: 'askWitness', request: { purpose, knownToken } }];
  }

  /** Whether there is anything to ask the witness for, now or later. */
  #mayAsk(): boolean {
    if (!this.#options.hasWitness || this.#asking !== undefined) return false;
    return (
      this.#isSpeaker() || (this.#state.kind === 'claiming' && (this.#lanReachable || this.#held))
    );
  }

  /**
   * From when on a grant is wanted: a protected speaker that is confirmed in time wants none, and a
   * standby none that the speaker is about to take.
   */
  #wantsAtUs(): number {
    if (this.#state.kind === 'claiming' && !this.#held) {
      const silentAtUs = this.#heardAtUs + Math.round(this.#options.promiseUs * HEARD_PART);
      return Math.min(this.#courtesyUntilUs, silentAtUs);
    }
    const insured = this.#state.kind === 'speaking' && this.#alone === 'no' && !this.#held;
    return insured ? this.#peerUntilUs - Math.floor(this.#peerLeaseUs * LOW_LEASE_PART) : 0;
  }

  #watchHealth(nowUs: number): void {
    const left = this.#peerUntilUs - nowUs;
    const isHealthy = this.#state.kind === 'speaking' && left > this.#peerLeaseUs * LOW_LEASE_PART;
    if (!isHealthy) this.#healthySinceUs = undefined;
    else this.#healthySinceUs ??= nowUs;
  }

  #becomeStale(reason: string): PermitOutput[] {
    this.#state = { kind: 'bystander' };
    return [{ kind: 'stale', reason }, ...this.#release()];
  }

  #fence(reason: string, how: 'fenced' | 'left'): PermitOutput[] {
    const wasSpeaking = this.#state.kind === 'speaking';
    this.#state = { kind: 'fenced', reason };
    this.#alone = 'no';
    this.#vouched = false;
    return [
      ...(wasSpeaking ? [{ kind: 'fallSilent', reason } as const] : []),
      ...(how === 'fenced' ? [{ kind: 'fenced', reason } as const] : []),
      ...this.#release(),
    ];
  }

  /** Counts as given back from here on, whatever becomes of the message. */
  #release(): PermitOutput[] {
    const wasHeld = this.#held;
    this.#held = false;
    this.#witnessUntilUs = 0;
    // There is nothing to renew any more: whoever wants a grant wants it at once.
    if (wasHeld) this.#askAtUs = this.#steppedAtUs;
    return wasHeld ? [{ kind: 'releaseWitness' }] : [];
  }

  #extend(): PermitOutput[] {
    if (this.#state.kind !== 'speaking') return [];
    return [{ kind: 'extend', untilUs: this.#leaseUs() }];
  }

  #isSpeaker(): boolean {
    return this.#state.kind === 'speaking' || this.#state.kind === 'muted';
  }

  #leaseUs(): number {
    if (this.#vouched || !this.#options.hasWitness) return UNLIMITED_US;
    return Math.max(this.#peerUntilUs, this.#witnessUntilUs);
  }
}
