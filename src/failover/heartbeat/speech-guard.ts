/**
 * Heartbeats, the view of the peer, and the right to speak, as one machine: it runs in a thread of
 * its own, so that no work of the main thread delays a heartbeat, and a promise is made in the same
 * step in which it begins to bind.
 *
 * In: what arrived from the peer, ticks with the main thread's last sign of life, the node's events
 * (permit/speech-permit.ts). Out: messages to the peer, the lease, requests to the witness, news.
 *
 * A main thread that is hung must not be taken for alive: past MAIN_SILENCE_US_MAX nothing is sent
 * any more, neither heartbeats nor confirmations nor requests. So the lease runs out, and the peer
 * takes over.
 */
import type { Core } from '../../lib/index.js';
import { HEARTBEATS_REMEMBERED_MAX, LAN_LOST_AGAIN_US, MAIN_SILENCE_US_MAX } from '../limits.js';
import {
  type PermitInput,
  type PermitOptions,
  type PermitOutput,
  type PermitState,
  SpeechPermit,
} from '../permit/speech-permit.js';
import type { HeartbeatMessage } from './heartbeat-wire.js';
import { PeerMonitor, type PeerReason, type PeerView } from './peer-monitor.js';

export type GuardInput =
  | Exclude<PermitInput, { readonly kind: 'tick' | 'heard' | 'confirmed' }>
  /** `mainAliveAtUs`: when the main thread last gave a sign of life. */
  | { readonly kind: 'tick'; readonly mainAliveAtUs: number }
  | { readonly kind: 'arrived'; readonly message: HeartbeatMessage }
  /** A session begins; from here on the peer's silence means something. */
  | { readonly kind: 'joined' }
  /** No session, and none expected. */
  | { readonly kind: 'parted' }
  | { readonly kind: 'peerTrouble'; readonly reason: PeerReason }
  | { readonly kind: 'peerGone'; readonly reason: PeerReason };

export type GuardOutput =
  | Exclude<PermitOutput, { readonly kind: 'confirm' }>
  /** To the peer, by every path. */
  | { readonly kind: 'send'; readonly message: HeartbeatMessage }
  /** The view of the peer has changed. A session ends by its own detector, never by this. */
  | { readonly kind: 'peer'; readonly view: PeerView }
  /**
   * Speaker: this host does not reach its LAN, and the peer does. Told again for as long as it is
   * so: the guest is better off there, once it is protected.
   */
  | { readonly kind: 'lanLost' }
  /** The main thread is hung, or is there again. */
  | { readonly kind: 'mainHung'; readonly hung: boolean };

export interface GuardOptions extends PermitOptions {
  readonly heartbeatUs: number;
}

export class SpeechGuard implements Core<GuardInput, GuardOutput> {
  readonly #heartbeatUs: number;
  readonly #permit: SpeechPermit;
  readonly #monitor: PeerMonitor;
  /** When each of the last heartbeats was sent. */
  readonly #sentAtUs = new Map<number, number>();
  #sequence = 0;
  /** The newest heartbeat heard: an older one, by a slower path or repeated, is no news. */
  #heardSequence = 0;
  /** The newest of our heartbeats whose confirmation was heard. */
  #confirmedSequence = 0;
  #sendAtUs: number;
  #hung = false;
  /** Undefined without a gateway to ask. */
  #lan: boolean | undefined;
  #peerHasLan = false;
  #lanToldAtUs = Number.NEGATIVE_INFINITY;

  constructor(options: GuardOptions) {
    this.#heartbeatUs = options.heartbeatUs;
    this.#permit = new SpeechPermit(options);
    this.#monitor = new PeerMonitor({
      peerTimeoutUs: options.promiseUs,
      tickUs: options.heartbeatUs,
    });
    this.#sendAtUs = options.startUs;
  }

  get state(): PermitState {
    return this.#permit.state;
  }

  get token(): number {
    return this.#permit.token;
  }

  get untilUs(): number {
    return this.#permit.untilUs;
  }

  get isWitnessed(): boolean {
    return this.#permit.isWitnessed;
  }

  get peer(): PeerView {
    return this.#monitor.view;
  }

  deadlineUs(): number {
    if (this.#hung) return this.#sendAtUs;
    return Math.min(this.#sendAtUs, this.#permit.deadlineUs() ?? Number.POSITIVE_INFINITY);
  }

  step(input: GuardInput, nowUs: number): GuardOutput[] {
    switch (input.kind) {
      case 'tick':
        return this.#tick(input.mainAliveAtUs, nowUs);
      case 'arrived':
        return this.#arrived(input.message, nowUs);
      case 'joined':
        this.#monitor.start(nowUs);
        // A peer that has started anew counts from the beginning.
        this.#heardSequence = 0;
        return [{ kind: 'peer', view: this.#monitor.view }];
      case 'parted':
        this.#monitor.stop();
        return [{ kind: 'peer', view: this.#monitor.view }];
      case 'peerTrouble':
        return viewChange(this.#monitor.suspect(input.reason));
      case 'peerGone':
        return viewChange(this.#monitor.lost(input.reason, true));
      case 'lan':
        this.#lan = input.reachable;
        return this.#permitted(input, nowUs);
      default:
        return this.#permitted(input, nowUs);
    }
  }

  #tick(mainAliveAtUs: number, nowUs: number): GuardOutput[] {
    const outputs = this.#watchMain(mainAliveAtUs, nowUs);
    if (nowUs >= this.#sendAtUs) {
      this.#sendAtUs = nowUs + this.#heartbeatUs;
      if (!this.#hung) outputs.push(this.#heartbeat(nowUs));
    }
    outputs.push(...viewChange(this.#monitor.tick(nowUs)));
    if (this.#hung) return outputs;
    return [...outputs, ...this.#watchLan(nowUs), ...this.#permitted({ kind: 'tick' }, nowUs)];
  }

  #watchLan(nowUs: number): GuardOutput[] {
    const speaks = this.#permit.state.kind === 'speaking' && this.peer.kind === 'alive';
    if (!speaks || this.#lan !== false || !this.#peerHasLan) return [];
    if (nowUs < this.#lanToldAtUs + LAN_LOST_AGAIN_US) return [];
    this.#lanToldAtUs = nowUs;
    return [{ kind: 'lanLost' }];
  }

  #watchMain(mainAliveAtUs: number, nowUs: number): GuardOutput[] {
    const hung = nowUs - mainAliveAtUs > MAIN_SILENCE_US_MAX;
    if (hung === this.#hung) return [];
    this.#hung = hung;
    return [{ kind: 'mainHung', hung }];
  }

  #heartbeat(nowUs: number): GuardOutput {
    this.#sequence += 1;
    this.#sentAtUs.set(this.#sequence, nowUs);
    this.#sentAtUs.delete(this.#sequence - HEARTBEATS_REMEMBERED_MAX);
    const { asks, token, session } = this.#permit;
    const said = { asks, token, session, lan: this.#lan === true };
    return { kind: 'send', message: { kind: 'heartbeat', sequence: this.#sequence, ...said } };
  }

  #arrived(message: HeartbeatMessage, nowUs: number): GuardOutput[] {
    if (message.kind === 'confirmation') return this.#heardConfirmation(message, nowUs);
    const { sequence, asks, token, session } = message;
    // What somebody has kept and sends again must not make the peer look alive.
    if (sequence <= this.#heardSequence) return [];
    this.#heardSequence = sequence;
    this.#peerHasLan = message.lan;
    const outputs = viewChange(this.#monitor.heard(nowUs));
    if (this.#hung) return outputs;
    for (const output of this.#permit.step({ kind: 'heard', asks, token, session }, nowUs)) {
      outputs.push(output.kind === 'confirm' ? this.#confirmation(sequence) : output);
    }
    return outputs;
  }

  #heardConfirmation(
    { sequence, token }: Extract<HeartbeatMessage, { kind: 'confirmation' }>,
    nowUs: number,
  ): GuardOutput[] {
    // Anybody's number would do for a claim to be confirmed, so only ours count, and each once.
    const sentAtUs = this.#sentAtUs.get(sequence);
    if (sentAtUs === undefined || sequence <= this.#confirmedSequence) return [];
    this.#confirmedSequence = sequence;
    const outputs = viewChange(this.#monitor.heard(nowUs));
    if (this.#hung) return outputs;
    return [...outputs, ...this.#permitted({ kind: 'confirmed', sentAtUs, token }, nowUs)];
  }

  #confirmation(sequence: number): GuardOutput {
    return {
      kind: 'send',
      message: { kind: 'confirmation', sequence, token: this.#permit.token },
    };
  }

  /** Every step but `heard`, which alone asks for a confirmation. */
  #permitted(input: PermitInput, nowUs: number): GuardOutput[] {
    return this.#permit.step(input, nowUs).filter((output) => output.kind !== 'confirm');
  }
}

function viewChange(view: PeerView | undefined): GuardOutput[] {
  return view === undefined ? [] : [{ kind: 'peer', view }];
}
