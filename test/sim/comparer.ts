/**
 * The comparer in small: it releases what the PVM says once the SVM has said it too.
 *
 * In: frames of both guests, of one epoch. Out: the PVM's frames, in the order of each flow, as
 * soon as what the SVM has said last in that flow implies them, as a byte stream's position does; a
 * word for which that can't come true any more, since the SVM has said another one, is a
 * divergence; one that waits too long a time-out. Either is told once per epoch, and what is still
 * held when the epoch ends is for the gate.
 */
import { FLOWS, type Frame } from './guest.js';
import type { History } from './history.js';

export interface ComparerParts {
  readonly history: History;
  readonly timeoutUs: number;
  readonly release: (frame: Frame) => void;
  readonly checkpoint: (reason: 'divergence' | 'timeout') => void;
  /** A sabotage: what counts as said by both. */
  readonly confirms?: ((frame: Frame) => boolean) | undefined;
}

interface Held {
  readonly frame: Frame;
  readonly order: number;
  readonly sinceUs: number;
}

export class ModelComparer {
  readonly #parts: ComparerParts;
  readonly #held: Held[][] = Array.from({ length: FLOWS }, () => []);
  /** The newest word of the SVM in each flow. */
  readonly #said: (number | undefined)[] = new Array<undefined>(FLOWS).fill(undefined);
  #order = 0;
  #started = false;
  #asked = false;

  constructor(parts: ComparerParts) {
    this.#parts = parts;
  }

  get heldFrames(): number {
    return this.#held.reduce((sum, held) => sum + held.length, 0);
  }

  /** Time runs from now on for what is held. */
  start(nowUs: number): void {
    this.#started = true;
    for (const flow of this.#held.keys()) {
      this.#held[flow] = (this.#held[flow] ?? []).map((held) => ({ ...held, sinceUs: nowUs }));
    }
  }

  primary(frame: Frame, nowUs: number): void {
    this.#order += 1;
    this.#held[frame.flow]?.push({ frame, order: this.#order, sinceUs: nowUs });
    this.#settle(frame.flow);
  }

  secondary(frame: Frame): void {
    // A repeated word takes nothing back.
    this.#said[frame.flow] = Math.max(this.#said[frame.flow] ?? 0, frame.event);
    this.#settle(frame.flow);
  }

  /** When `tick` is due; undefined while nothing waits. */
  deadlineUs(): number | undefined {
    if (!this.#started || this.#asked) return undefined;
    const since = this.#held.flatMap(([oldest]) => oldest?.sinceUs ?? []);
    return since.length === 0 ? undefined : Math.min(...since) + this.#parts.timeoutUs;
  }

  tick(nowUs: number): void {
    const deadlineUs = this.deadlineUs();
    if (deadlineUs !== undefined && nowUs >= deadlineUs) this.#ask('timeout');
  }

  /** The epoch is over: what is still held, in the order in which the PVM said it. */
  closeEpoch(): Frame[] {
    const held = this.#held.flat().sort((a, b) => a.order - b.order);
    this.#held.forEach((queue) => {
      queue.length = 0;
    });
    this.#said.fill(undefined);
    this.#started = false;
    this.#asked = false;
    return held.map(({ frame }) => frame);
  }

  #settle(flow: number): void {
    const { history, release, confirms } = this.#parts;
    const queue = this.#held[flow] ?? [];
    for (let next = queue[0]; next !== undefined; next = queue[0]) {
      const { frame } = next;
      const said = this.#said[flow];
      const confirmed = said !== undefined && history.implies(said, frame.event);
      if (!confirmed && confirms?.(frame) !== true) {
        if (said !== undefined && !history.implies(frame.event, said)) this.#ask('divergence');
        return;
      }
      queue.shift();
      release(frame);
    }
  }

  #ask(reason: 'divergence' | 'timeout'): void {
    if (this.#asked) return;
    this.#asked = true;
    this.#parts.checkpoint(reason);
  }
}
