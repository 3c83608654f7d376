/**
 * The primary's network on models, as production has it in guest/network/source-role-shell.ts: LAN and guest,
 * the mirror, the comparison, the gate.
 *
 * It keeps account of every frame that the guest has said: it is held somewhere, has left or was
 * dropped by `silence`; and the frames of a flow leave in the order in which they were said.
 */
import { type Breakage, type Departure, Violation } from './checker.js';
import { ModelComparer } from './comparer.js';
import { FLOWS, type Frame, type Request } from './guest.js';
import type { History } from './history.js';
import { Gate } from './layers.js';
import type { Message } from './network.js';

type Way = Departure['way'];

/** For the summary. */
export type OutputTotals = ReturnType<typeof noOutput>;

export function noOutput() {
  return {
    'frames confirmed': 0,
    'frames through the gate': 0,
    'SVM output discarded': 0,
    divergences: 0,
    'time-outs': 0,
  };
}

export interface PvmNetworkParts {
  readonly history: History;
  readonly compareTimeoutUs: number;
  readonly breakage: Breakage | undefined;
  nowUs(): number;
  later(delayUs: number, run: () => void): void;
  send(message: Message): void;
  /** False if nobody is there. */
  toGuest(request: Request): boolean;
  leave(frame: Frame, way: Way): void;
  checkpointNeeded(reason: 'divergence' | 'timeout', epoch: number): void;
  readonly totals: OutputTotals;
  /** Requests that the guest has received so far. */
  readonly arrived: number;
}

interface Said extends Frame {
  /** How many frames the guest had said with this one. */
  readonly order: number;
}

export class PvmNetwork {
  readonly gate = new Gate('open');
  readonly totals: OutputTotals;
  readonly #parts: PvmNetworkParts;
  readonly #comparer: ModelComparer;
  /** The running epoch; label of what is mirrored. */
  #epoch = 0;
  #attached = false;
  #compares = false;
  #started = false;
  /** This session has reached the edge of an epoch: output is held for it. */
  #holds = false;
  /** What the SVM has said in the running epoch before the comparison could start. */
  #early: Frame[] = [];
  #timer = false;
  /** The LAN's frames wait while the guest is about to be stopped. */
  #waiting: Request[] | undefined;
  #arrived: number;
  #said = 0;
  /** Dropped by the comparer, not by the gate. */
  #cleared = 0;
  readonly #newestLeft = new Array<number>(FLOWS).fill(0);

  constructor(parts: PvmNetworkParts) {
    this.#parts = parts;
    this.#arrived = parts.arrived;
    this.totals = parts.totals;
    const { breakage } = parts;
    const confirms =
      breakage === 'release-unconfirmed'
        ? () => this.#started
        : breakage === 'ack-unconfirmed'
          ? ({ kind }: Frame) => this.#started && kind === 'ack'
          : undefined;
    this.#comparer = new ModelComparer({
      history: parts.history,
      timeoutUs: parts.compareTimeoutUs,
      confirms,
      release: (frame) => {
        if (this.gate.confirm(this.#epoch)) this.#leave([frame], 'confirmed');
      },
      checkpoint: (reason) => {
        this.totals[reason === 'divergence' ? 'divergences' : 'time-outs'] += 1;
        parts.checkpointNeeded(reason, this.#epoch);
      },
    });
  }

  /** A frame at this host's TAP. */
  fromLan(request: Request): void {
    if (this.#waiting !== undefined) {
      this.#waiting.push(request);
      return;
    }
    const { client, seq, service, data } = request;
    const arrived: Request = { client, seq, service, data, arrival: this.#arrived + 1 };
    if (!this.#parts.toGuest(arrived)) return;
    this.#arrived += 1;
    if (!this.#attached) return;
    this.#parts.send({ kind: 'inbound', epoch: this.#epoch, request: arrived });
  }

  fromGuest(frame: Frame): void {
    this.#said += 1;
    const { kind, flow, seq, event, head } = frame;
    const said: Said = { kind, flow, seq, event, head, order: this.#said };
    if (!this.#compares) {
      this.#leave(this.gate.push(said), 'gate');
      return;
    }
    this.#comparer.primary(said, this.#parts.nowUs());
    this.#schedule();
  }

  fromSvm(epoch: number, frame: Frame): void {
    const current = epoch === this.#epoch || this.#parts.breakage === 'compare-stale';
    if (!this.#compares || !current) this.totals['SVM output discarded'] += 1;
    else if (this.#started) {
      this.#comparer.secondary(frame);
      this.#schedule();
    } else this.#early.push(frame);
  }

  attach(epoch: number): void {
    this.#attached = true;
    this.#holds = false;
    this.#mark(epoch, false);
  }

  detach(): void {
    this.#attached = false;
    this.#stopComparing();
    this.#holds = false;
  }

  quiesce(): void {
    this.#waiting ??= [];
  }

  /** The pause is over, whether it has reached the edge or not. */
  resume(): void {
    const waiting = this.#waiting ?? [];
    this.#waiting = undefined;
    for (const request of waiting) this.fromLan(request);
  }

  edge(epoch: number, options: { exact: boolean; compares: boolean }): void {
    this.#stopComparing();
    const stale = this.#parts.breakage === 'stale-hold';
    if (stale ? this.gate.state === 'holding' : this.#holds) this.gate.closeEpoch(epoch);
    else this.gate.hold(epoch + 1);
    this.#holds = true;
    this.#compares = options.compares;
    this.#mark(epoch + 1, options.exact);
  }

  startCompare(epoch: number): void {
    if (!this.#compares || epoch !== this.#epoch) return;
    this.#started = true;
    this.#comparer.start(this.#parts.nowUs());
    for (const frame of this.#early.splice(0)) this.#comparer.secondary(frame);
    this.#schedule();
  }

  release(epoch: number): void {
    this.#leave(this.gate.release(epoch), 'gate');
  }

  /** Unless a new session holds by then: its first release covers what the old one has held. */
  open(): void {
    if (this.#holds && this.#parts.breakage !== 'stale-hold') return;
    this.#stopComparing();
    this.#leave(this.gate.open(), 'gate');
  }

  silence(): void {
    this.#cleared += this.#comparer.closeEpoch().length;
    this.#compares = false;
    this.#started = false;
    this.gate.silence();
  }

  /** Throws if a frame that the guest has said is nowhere. */
  checkNothingLost(): void {
    const known = this.gate.frames + this.#comparer.heldFrames + this.#cleared;
    if (known === this.#said) return;
    throw new Violation('Output', `The guest has said ${this.#said} frames, ${known} are known`);
  }

  #mark(epoch: number, exact: boolean): void {
    this.#epoch = epoch;
    this.#parts.send({ kind: 'epochMark', epoch, exact });
  }

  #stopComparing(): void {
    const held = this.#comparer.closeEpoch();
    this.#compares = false;
    this.#started = false;
    this.#early = [];
    if (this.#parts.breakage === 'lose-held') return;
    for (const frame of held) this.#leave(this.gate.push(frame), 'gate');
  }

  #leave(frames: readonly Frame[], way: Way): void {
    for (const frame of frames as readonly Said[]) {
      const newest = this.#newestLeft[frame.flow] ?? 0;
      if (frame.order < newest) {
        throw new Violation('Output', `Frame ${frame.order} of a flow leaves after ${newest}`);
      }
      this.#newestLeft[frame.flow] = frame.order;
      this.totals[way === 'confirmed' ? 'frames confirmed' : 'frames through the gate'] += 1;
      this.#parts.leave(frame, way);
    }
  }

  #schedule(): void {
    if (this.#timer || !this.#started) return;
    const deadlineUs = this.#comparer.deadlineUs();
    if (deadlineUs === undefined) return;
    this.#timer = true;
    const { nowUs, later } = this.#parts;
    later(Math.max(1, deadlineUs - nowUs()), () => {
      this.#timer = false;
      if (!this.#started) return;
      this.#comparer.tick(nowUs());
      this.#schedule();
    });
  }
}
