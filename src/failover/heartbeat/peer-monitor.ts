/**
 * What is known of the peer from outside of the session: alive, suspect or lost, and why.
 *
 * In: heartbeats of any path, what the node finds out or is told, ticks. Out: the view, when it
 * changes. Silence is measured as in failure-detector.ts: in time that this process was awake, each
 * tick counting for at most two intervals, so that a node which was itself stopped first reads what
 * waits in its sockets.
 *
 * A peer is suspect from half of the time-out on, or when something is wrong with it that does not
 * prove its end. `proof` says that it can't speak any more: its process is gone, or it told so after
 * it had fallen silent. Whoever was lost that way stays lost until `start`. One that was only silent
 * is alive when it is heard again: its session may have gone on, as its own connections tell.
 */

/** Why a peer is suspect or lost. */
export type PeerReason =
  | 'silence'
  | 'connection reset'
  | 'process gone'
  | 'QEMU exit'
  | 'QMP hang'
  | 'I/O unfit'
  | 'operator';

export type PeerView =
  /** Nothing is known yet, and nothing expected. */
  | { readonly kind: 'unknown' }
  | { readonly kind: 'alive' }
  | { readonly kind: 'suspect'; readonly reason: PeerReason }
  | { readonly kind: 'lost'; readonly reason: PeerReason; readonly proof: boolean };

const SUSPECT_AFTER = 0.5;

export class PeerMonitor {
  readonly #peerTimeoutUs: number;
  readonly #tickUs: number;
  #view: PeerView = { kind: 'unknown' };
  #silentUs = 0;
  #tickedAtUs = 0;

  /** `tickUs`: how often it is ticked, usually the heartbeat interval. */
  constructor(options: { peerTimeoutUs: number; tickUs: number }) {
    this.#peerTimeoutUs = options.peerTimeoutUs;
    this.#tickUs = options.tickUs;
  }

  get view(): PeerView {
    return this.#view;
  }

  /** A session begins: the peer has just been heard. */
  start(nowUs: number): void {
    this.#view = { kind: 'alive' };
    this.#silentUs = 0;
    this.#tickedAtUs = nowUs;
  }

  /** No session, and none expected. */
  stop(): void {
    this.#view = { kind: 'unknown' };
  }

  /** A heartbeat by any path, or any other message. */
  heard(nowUs: number): PeerView | undefined {
    // The next tick will count from the last one on, and what lies before now was not silence.
    this.#silentUs = -Math.min(nowUs - this.#tickedAtUs, 2 * this.#tickUs);
    const isSilence = 'reason' in this.#view && this.#view.reason === 'silence';
    const isProved = this.#view.kind === 'lost' && this.#view.proof;
    return isSilence && !isProved ? this.#change({ kind: 'alive' }) : undefined;
  }

  /** Something is wrong with a peer that may live on: its connection, its QEMU, its disk. */
  suspect(reason: PeerReason): PeerView | undefined {
    if (this.#view.kind !== 'alive' && this.#view.kind !== 'suspect') return undefined;
    return this.#change({ kind: 'suspect', reason });
  }

  /** The cause of the suspicion is over, as the session was renewed. */
  cleared(): PeerView | undefined {
    return this.#view.kind === 'suspect' ? this.#change({ kind: 'alive' }) : undefined;
  }

  /** It is known that the peer is out: it said so, its host did, or the operator does. */
  lost(reason: PeerReason, proof: boolean): PeerView | undefined {
    if (this.#view.kind === 'unknown') return undefined;
    // A proof that comes after the verdict is news.
    if (this.#view.kind === 'lost' && (this.#view.proof || !proof)) return undefined;
    return this.#change({ kind: 'lost', reason, proof });
  }

  tick(nowUs: number): PeerView | undefined {
    if (this.#view.kind !== 'alive' && this.#view.kind !== 'suspect') return undefined;
    if (nowUs < this.#tickedAtUs + this.#tickUs) return undefined;
    this.#silentUs += Math.min(nowUs - this.#tickedAtUs, 2 * this.#tickUs);
    this.#tickedAtUs = nowUs;
    if (this.#silentUs >= this.#peerTimeoutUs) {
      const reason = this.#view.kind === 'suspect' ? this.#view.reason : 'silence';
      return this.#change({ kind: 'lost', reason, proof: false });
    }
    if (this.#view.kind === 'suspect' || this.#silentUs < SUSPECT_AFTER * this.#peerTimeoutUs) {
      return undefined;
    }
    return this.#change({ kind: 'suspect', reason: 'silence' });
  }

  #change(view: PeerView): PeerView {
    this.#view = view;
    return view;
  }
}
