/**
 * The secondary's state machine: what is staged, what is committed, and whether to take over.
 *
 * In: what arrived of an epoch, what the emulator and the disks report, the peer's signs of life,
 * the operator. Out: instructions for the node's shell, to be carried out in order.
 *
 * An epoch is committed when every part of it is staged and agrees with the primary's end record,
 * never in parts (I2, I3). `committed` is sent after the commit is recorded here (I6): from then on
 * a failover continues from that epoch's end, so a loss that comes while it is being applied waits
 * for the apply. A loss that comes before the commit drops what is staged.
 *
 * A session that broke while the peer is provably alive (`abandoned`) leaves a state that must
 * never be promoted: the primary runs on alone and has told its clients newer things.
 *
 * With a witness a loss is no more than a claim (`askTakeOver`): the promotion follows its grant,
 * and a state that is proved an old one is discarded (`stale`).
 */
import { FailureDetector, type ProbeResult } from '../failover/index.js';
import { assert, type Core } from '../lib/index.js';
import type { EndRecord, GoodbyeKind } from '../replication/index.js';
import { type StagedDisk, type StagedRam, Staging } from './staging.js';

export type SecondaryInput =
  | { readonly kind: 'tick' }
  /** The hello is accepted and the SVM launched, paused. */
  | { readonly kind: 'peerConnected' }
  /** A primary asks for a session while this node keeps one's state. */
  | { readonly kind: 'peerReturned' }
  | { readonly kind: 'linkLost'; readonly reason: string }
  /** Connections of the session broke; `resumed` or `linkLost` follows. */
  | { readonly kind: 'interrupted'; readonly reason: string }
  | { readonly kind: 'resumed' }
  | { readonly kind: 'probed'; readonly result: ProbeResult }
  /** `isDeaf`: that it hears nothing itself. */
  | { readonly kind: 'heard'; readonly isDeaf: boolean }
  | { readonly kind: 'ramStaged'; readonly ram: StagedRam }
  | { readonly kind: 'diskStaged'; readonly disk: StagedDisk }
  | { readonly kind: 'endRecord'; readonly record: EndRecord }
  /** The SVM is at the end of `epoch`: RAM, disks and devices. */
  | { readonly kind: 'applied'; readonly epoch: number; readonly durationUs: number }
  /** The SVM, its disks or the staging can't go on; what was committed may not be servable. */
  | { readonly kind: 'broken'; readonly reason: string }
  /** QEMU does not answer: its state is of no use, unless this is the only guest that there is. */
  | { readonly kind: 'hung'; readonly reason: string }
  | { readonly kind: 'operatorFailover'; readonly force: boolean }
  | { readonly kind: 'yielded' }
  | { readonly kind: 'goodbye'; readonly goodbye: GoodbyeKind; readonly reason: string }
  /** The answer to `askTakeOver`: this node may speak. */
  | { readonly kind: 'granted' }
  /** The other node has gone on alone: what is held here is old. */
  | { readonly kind: 'stale'; readonly reason: string }
  | { readonly kind: 'promoted' }
  | { readonly kind: 'stopRequested'; readonly reason: string };

export type SecondaryOutput =
  | { readonly kind: 'heartbeat'; readonly hears: boolean }
  | { readonly kind: 'probe' }
  /** All parts of the epoch are here and agree: it is what a failover continues from. */
  | { readonly kind: 'commit'; readonly epoch: number }
  | { readonly kind: 'sendCommitted'; readonly epoch: number }
  /** `svmRuns`: the SVM executes from then on, until the next apply. */
  | { readonly kind: 'apply'; readonly epoch: number; readonly svmRuns: boolean }
  | { readonly kind: 'sendApplied'; readonly epoch: number; readonly durationUs: number }
  | { readonly kind: 'sendUnfit'; readonly reason: string }
  /** Forget every part of an epoch that is not committed. */
  | { readonly kind: 'dropStaged' }
  | { readonly kind: 'closeSession'; readonly reason: string }
  /** Kill the SVM and forget its state: it is not what clients have seen. */
  | { readonly kind: 'discard'; readonly reason: string }
  | { readonly kind: 'sendTakeover' }
  /**
   * With a witness: ask to take over, until it is `granted` or the state `stale`. `proof`: the
   * primary can't speak any more; `force`: the operator says so.
   */
  | { readonly kind: 'askTakeOver'; readonly proof: boolean; readonly force: boolean }
  /** Go live: TAPs open, SVM runs, neighbours are told. Answer with `promoted`. */
  | { readonly kind: 'promote'; readonly reason: string }
  | { readonly kind: 'alarm'; readonly message: string }
  | { readonly kind: 'failoverDone' }
  | { readonly kind: 'failoverRefused'; readonly reason: string }
  | { readonly kind: 'exit'; readonly code: number; readonly reason: string };

export type SecondaryState =
  | { readonly kind: 'waiting' }
  | { readonly kind: 'synchronising' }
  | {
      readonly kind: 'standby';
      readonly committedEpoch: number;
      readonly applying: boolean;
      /** Between checkpoints the SVM executes, as the primary asked (mode colo). */
      readonly svmRuns: boolean;
      /** The peer is lost, or has left, and this is what to do once nothing is being applied. */
      readonly next: 'promote' | 'wait' | undefined;
      /** Of the loss. */
      readonly reason: string;
      readonly proof: boolean;
      readonly force: boolean;
    }
  /** The peer is lost and only the operator may promote (`--on-peer-loss=wait`). */
  | { readonly kind: 'waitingForOperator'; readonly committedEpoch: number }
  /** The witness is asked. */
  | { readonly kind: 'claiming'; readonly committedEpoch: number; readonly reason: string }
  | { readonly kind: 'promoting'; readonly committedEpoch: number }
  | { readonly kind: 'active'; readonly committedEpoch: number }
  | { readonly kind: 'left'; readonly reason: string };

export interface SecondaryOptions {
  readonly peerTimeoutUs: number;
  readonly heartbeatUs: number;
  readonly onPeerLoss: 'failover' | 'wait';
  /** False: a loss is enough to take over. */
  readonly hasWitness: boolean;
}

/** What is known of a primary that is gone. */
interface Loss {
  readonly reason: string;
  readonly proof: boolean;
  readonly force?: boolean;
}

const WITNESS_ASKED =
  'The witness has not allowed it yet; ' +
  '"colo failover --force" if you know that the other host is silent';

const PEER_RETURNED =
  'A primary has asked for a session since this one was lost and may have newer state: ' +
  'restart this node to join it, or "colo failover --force" to continue from here';

/** The pure core of the secondary node. */
export class SecondaryCore implements Core<SecondaryInput, SecondaryOutput> {
  readonly #options: SecondaryOptions;
  readonly #detector: FailureDetector;
  #state: SecondaryState = { kind: 'waiting' };
  #staging = new Staging();
  #heartbeatAtUs = 0;
  #takeoverAsked = false;
  /** A primary lives that this node had lost: what it told its clients since is not known here. */
  #peerReturned = false;

  constructor(options: SecondaryOptions) {
    this.#options = options;
    this.#detector = new FailureDetector({
      peerTimeoutUs: options.peerTimeoutUs,
      tickUs: options.heartbeatUs,
      peerServes: true,
    });
  }

  get state(): SecondaryState {
    return this.#state;
  }

  get committedEpoch(): number | undefined {
    return 'committedEpoch' in this.#state ? this.#state.committedEpoch : undefined;
  }

  /** Between checkpoints the SVM executes. */
  get svmRuns(): boolean {
    return this.#state.kind === 'standby' && this.#state.svmRuns;
  }

  /** What a primary that asks is told of this node. */
  get probeAnswer(): 'idle' | 'holding' | 'serving' {
    const { kind } = this.#state;
    if (kind === 'promoting' || kind === 'active') return 'serving';
    const holds = kind === 'standby' || kind === 'waitingForOperator' || kind === 'claiming';
    return holds ? 'holding' : 'idle';
  }

  get peerHeardAtUs(): number | undefined {
    return this.#detector.heardAtUs;
  }

  get peerSuspected(): boolean {
    return this.#detector.suspected;
  }

  deadlineUs(): number | undefined {
    const detectorUs = this.#detector.deadlineUs();
    return detectorUs === undefined ? undefined : Math.min(this.#heartbeatAtUs, detectorUs);
  }

  step(input: SecondaryInput, nowUs: number): SecondaryOutput[] {
    if (this.#state.kind === 'left') return [];
    switch (input.kind) {
      case 'tick':
        return this.#tick(nowUs);
      case 'peerConnected':
        return this.#connected(nowUs);
      case 'peerReturned':
        return this.#returned();
      case 'linkLost':
      case 'interrupted':
      case 'probed':
        return this.#link(input);
      case 'resumed':
        this.#detector.resumed();
        return [];
      case 'heard':
        this.#detector.heard(nowUs, input.isDeaf);
        return [];
      case 'ramStaged':
        return this.#staged(() => this.#staging.addRam(input.ram));
      case 'diskStaged':
        return this.#staged(() => this.#staging.addDisk(input.disk));
      case 'endRecord':
        return this.#staged(() => this.#staging.addEnd(input.record));
      case 'applied':
        return this.#applied(input.epoch, input.durationUs);
      case 'broken':
        return this.#broken(input.reason);
      case 'hung':
        return this.probeAnswer === 'serving' ? [] : this.#broken(input.reason);
      case 'operatorFailover':
        return this.#operatorFailover(input.force);
      case 'yielded':
        if (!this.#takeoverAsked) return [];
        return this.#peerGone('promote', { reason: 'The primary yielded', proof: true });
      case 'goodbye':
        return this.#goodbye(input.goodbye, input.reason);
      case 'granted':
        return this.#granted();
      case 'stale':
        return this.#stale(input.reason);
      case 'promoted':
        return this.#promoted();
      case 'stopRequested':
        return this.#stop(input.reason);
    }
  }

  #tick(nowUs: number): SecondaryOutput[] {
    const verdict = this.#detector.tick(nowUs);
    if (verdict?.kind === 'lost') return this.#lost(verdict);
    const outputs: SecondaryOutput[] = verdict?.kind === 'probe' ? [{ kind: 'probe' }] : [];
    if (this.#detector.deadlineUs() !== undefined && nowUs >= this.#heartbeatAtUs) {
      this.#heartbeatAtUs = nowUs + this.#options.heartbeatUs;
      const { isOver, hears } = this.#detector;
      if (!isOver) outputs.push({ kind: 'heartbeat', hears });
    }
    return outputs;
  }

  #connected(nowUs: number): SecondaryOutput[] {
    if (this.#state.kind !== 'waiting') {
      return [
        { kind: 'closeSession', reason: `A secondary that is ${this.#state.kind} can't join` },
      ];
    }
    this.#detector.start(nowUs);
    this.#heartbeatAtUs = nowUs;
    this.#staging = new Staging();
    this.#peerReturned = false;
    this.#state = { kind: 'synchronising' };
    return [];
  }

  /**
   * It may have run on alone, or have booted afresh and lost everything: the state stays, but only
   * an operator who insists may continue from it.
   */
  #returned(): SecondaryOutput[] {
    const state = this.#state;
    // The process that had the session knows best: its answer means life, a refusal its death.
    if (state.kind === 'standby' && state.next === undefined && this.#detector.suspected) {
      // Whoever begins a session has given up the one that was interrupted.
      this.#detector.linkLost('The primary begins another session');
      return [{ kind: 'probe' }];
    }
    const waits =
      state.kind === 'waitingForOperator' || (state.kind === 'standby' && state.next === 'wait');
    if (!waits || this.#peerReturned) return [];
    this.#peerReturned = true;
    return [{ kind: 'alarm', message: PEER_RETURNED }];
  }

  #link(
    input: Extract<SecondaryInput, { kind: 'linkLost' | 'interrupted' | 'probed' }>,
  ): SecondaryOutput[] {
    const verdict = this.#detector.told(input);
    switch (verdict?.kind) {
      case undefined:
      // The primary connects.
      case 'renew':
        return [];
      case 'probe':
        return [{ kind: 'probe' }];
      case 'lost':
        return this.#lost(verdict);
      case 'abandoned':
      case 'superseded':
        return this.#discard(`Session lost: ${verdict.reason}`);
    }
  }

  #lost({ reason, proof }: Loss): SecondaryOutput[] {
    if (this.#options.onPeerLoss === 'failover') {
      return this.#peerGone('promote', { reason, proof });
    }
    // Whoever asked for a planned take-over has not said that the primary is dead.
    const refused = this.#takeoverAsked && this.#state.kind === 'standby';
    if (refused) this.#takeoverAsked = false;
    const outputs = this.#peerGone('wait', { reason, proof });
    return refused ? [...outputs, { kind: 'failoverRefused', reason }] : outputs;
  }

  /** The primary is lost or silent for good. What is not committed is dropped, never half-used. */
  #peerGone(next: 'promote' | 'wait', loss: Loss): SecondaryOutput[] {
    const { reason, proof, force = false } = loss;
    this.#detector.stop();
    const state = this.#state;
    if (state.kind !== 'standby')
      return this.#discard(`Primary gone before the first commit: ${reason}`);
    this.#staging = new Staging();
    this.#state = { ...state, next, reason, proof, force };
    const outputs: SecondaryOutput[] = [{ kind: 'closeSession', reason }, { kind: 'dropStaged' }];
    return state.applying ? outputs : [...outputs, ...this.#goOn()];
  }

  /** Carries out what a loss decided, once nothing is being applied any more. */
  #goOn(): SecondaryOutput[] {
    const state = this.#state;
    if (state.kind !== 'standby' || state.next === undefined) return [];
    const { committedEpoch, reason } = state;
    if (state.next === 'wait') {
      this.#state = { kind: 'waitingForOperator', committedEpoch };
      return [{ kind: 'alarm', message: `${reason}; waiting for "colo failover"` }];
    }
    return this.#takeOver(committedEpoch, state);
  }

  #takeOver(committedEpoch: number, { reason, proof, force = false }: Loss): SecondaryOutput[] {
    if (this.#options.hasWitness) {
      this.#state = { kind: 'claiming', committedEpoch, reason };
      return [{ kind: 'askTakeOver', proof, force }];
    }
    this.#state = { kind: 'promoting', committedEpoch };
    return [{ kind: 'promote', reason }];
  }

  #granted(): SecondaryOutput[] {
    if (this.#state.kind !== 'claiming') return [];
    const { committedEpoch, reason } = this.#state;
    this.#state = { kind: 'promoting', committedEpoch };
    return [{ kind: 'promote', reason }];
  }

  #stale(reason: string): SecondaryOutput[] {
    switch (this.#state.kind) {
      case 'standby':
      case 'waitingForOperator':
      case 'claiming':
        return this.#discard(reason);
      default:
        return [];
    }
  }

  #staged(add: () => string | undefined): SecondaryOutput[] {
    const state = this.#state;
    if (state.kind !== 'synchronising' && state.kind !== 'standby') return [];
    if (state.kind === 'standby' && state.next !== undefined) return [];
    const disagreement = add();
    if (disagreement !== undefined) return this.#broken(disagreement);
    const complete = this.#staging.complete();
    if (complete === undefined) return [];
    const { epoch, svmRuns } = complete;
    if (state.kind === 'standby' && (state.applying || epoch <= state.committedEpoch)) {
      return this.#broken(`Epoch ${epoch} came before ${state.committedEpoch} was applied`);
    }
    this.#staging = new Staging();
    this.#state = {
      kind: 'standby',
      committedEpoch: epoch,
      applying: true,
      svmRuns,
      next: undefined,
      reason: '',
      proof: false,
      force: false,
    };
    return [
      { kind: 'commit', epoch },
      { kind: 'sendCommitted', epoch },
      { kind: 'apply', epoch, svmRuns },
    ];
  }

  #applied(epoch: number, durationUs: number): SecondaryOutput[] {
    const state = this.#state;
    if (state.kind !== 'standby' || !state.applying || epoch !== state.committedEpoch) return [];
    this.#state = { ...state, applying: false };
    if (state.next !== undefined) return this.#goOn();
    return [{ kind: 'sendApplied', epoch, durationUs }];
  }

  /** This side can't hold what it holds: say so, and never be promoted from it. */
  #broken(reason: string): SecondaryOutput[] {
    const state = this.#state;
    switch (state.kind) {
      case 'waiting':
      case 'left':
        return [];
      case 'active':
      case 'promoting':
        this.#state = { kind: 'left', reason };
        return [
          { kind: 'failoverRefused', reason },
          { kind: 'exit', code: 1, reason },
        ];
      case 'synchronising':
      case 'standby':
      case 'waitingForOperator':
      case 'claiming':
        return [{ kind: 'sendUnfit', reason }, ...this.#discard(reason)];
    }
  }

  #discard(reason: string): SecondaryOutput[] {
    this.#detector.stop();
    this.#staging = new Staging();
    this.#state = { kind: 'waiting' };
    const outputs: SecondaryOutput[] = [
      { kind: 'closeSession', reason },
      { kind: 'discard', reason },
    ];
    if (this.#takeoverAsked) outputs.push({ kind: 'failoverRefused', reason });
    this.#takeoverAsked = false;
    return outputs;
  }

  #operatorFailover(force: boolean): SecondaryOutput[] {
    const state = this.#state;
    switch (state.kind) {
      case 'waiting':
      case 'synchronising':
      case 'left':
        return [
          { kind: 'failoverRefused', reason: 'This node holds no committed state of the guest' },
        ];
      case 'promoting':
      case 'active':
        return [{ kind: 'failoverRefused', reason: 'This node already runs the guest' }];
      case 'waitingForOperator':
        if (this.#peerReturned && !force) {
          return [{ kind: 'failoverRefused', reason: PEER_RETURNED }];
        }
        this.#takeoverAsked = true;
        return this.#takeOver(state.committedEpoch, {
          reason: 'The operator asked for it',
          proof: false,
          force,
        });
      case 'claiming':
        if (!force) return [{ kind: 'failoverRefused', reason: WITNESS_ASKED }];
        this.#takeoverAsked = true;
        return [{ kind: 'askTakeOver', proof: false, force }];
      case 'standby':
        if (state.next !== undefined) return this.#failoverAfterApply(force);
        this.#takeoverAsked = true;
        if (force) {
          const reason = 'The operator forced it';
          return this.#peerGone('promote', { reason, proof: false, force });
        }
        return [{ kind: 'sendTakeover' }];
    }
  }

  /** The primary is lost already, and its last epoch is still being applied. */
  #failoverAfterApply(force: boolean): SecondaryOutput[] {
    if (this.#peerReturned && !force) return [{ kind: 'failoverRefused', reason: PEER_RETURNED }];
    assert(this.#state.kind === 'standby', 'Only a standby applies');
    this.#takeoverAsked = true;
    this.#state = { ...this.#state, next: 'promote', force };
    return [];
  }

  #goodbye(goodbye: GoodbyeKind, reason: string): SecondaryOutput[] {
    if (this.#state.kind !== 'synchronising' && this.#state.kind !== 'standby') return [];
    switch (goodbye) {
      case 'handover':
        return this.#peerGone('promote', { reason: `The primary left: ${reason}`, proof: true });
      case 'guest-off':
        return this.#discard(`The guest ended: ${reason}`);
      case 'detach':
        // The answer that the primary waits for: this side will not take over.
        return [{ kind: 'sendUnfit', reason }, ...this.#discard(reason)];
      case 'stop':
        return this.#stop(reason);
    }
  }

  #promoted(): SecondaryOutput[] {
    if (this.#state.kind !== 'promoting') return [];
    this.#state = { kind: 'active', committedEpoch: this.#state.committedEpoch };
    return this.#takeoverAsked ? [{ kind: 'failoverDone' }] : [];
  }

  #stop(reason: string): SecondaryOutput[] {
    this.#detector.stop();
    const tell = this.#state.kind === 'synchronising' || this.#state.kind === 'standby';
    this.#state = { kind: 'left', reason };
    return [
      ...(tell ? [{ kind: 'sendUnfit', reason } as const] : []),
      { kind: 'exit', code: 0, reason },
    ];
  }
}
