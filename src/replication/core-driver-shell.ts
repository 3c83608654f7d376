/**
 * Runs a pure core in real time: inputs in order, outputs carried out in order, ticks when due.
 *
 * An output that is carried out may cause the next input at once; it waits until all outputs of
 * the one before are done, so that their order is the order in which the core gave them.
 */
import type { Core } from '../lib/index.js';
import { monotonicUs } from '../linux/index.js';

/** Drives one core until `stop`. An exception from `perform` is a bug and goes to the caller. */
export class CoreDriver<In extends { readonly kind: string }, Out> {
  readonly #core: Core<In | { readonly kind: 'tick' }, Out>;
  readonly #perform: (output: Out) => void;
  readonly #onStepped: () => void;
  readonly #waiting: (In | { readonly kind: 'tick' })[] = [];
  #busy = false;
  #stopped = false;
  #timer: NodeJS.Timeout | undefined;

  /** `onStepped` is called when inputs have been carried out: the core's state may be another. */
  constructor(
    core: Core<In | { readonly kind: 'tick' }, Out>,
    perform: (output: Out) => void,
    onStepped: () => void = () => undefined,
  ) {
    this.#core = core;
    this.#perform = perform;
    this.#onStepped = onStepped;
  }

  /** Hands an input to the core; ignored once stopped. */
  input(input: In | { readonly kind: 'tick' }): void {
    if (this.#stopped) return;
    this.#waiting.push(input);
    if (this.#busy) return;
    this.#busy = true;
    try {
      for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
        for (const output of this.#core.step(next, monotonicUs())) this.#perform(output);
      }
    } finally {
      this.#busy = false;
    }
    this.#onStepped();
    this.#schedule();
  }

  /** Ends the ticks; idempotent. */
  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  #schedule(): void {
    clearTimeout(this.#timer);
    const deadlineUs = this.#core.deadlineUs();
    if (deadlineUs === undefined || this.#stopped) return;
    const delayMs = Math.max(0, Math.ceil((deadlineUs - monotonicUs()) / 1000));
    this.#timer = setTimeout(() => this.input({ kind: 'tick' }), delayMs);
  }
}
