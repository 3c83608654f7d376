/** A large write that is carried out part by part while it comes, and answered once. */

/**
 * `failed`: with the error of the part that failed first. `abandoned`: the client went away before
 * the last part; there is nobody to be answered.
 */
export type PartedOutcome =
  | { readonly kind: 'done' | 'abandoned' }
  | { readonly kind: 'failed'; readonly error: unknown };

export class PartedWrite {
  readonly #onDone: (outcome: PartedOutcome) => void;
  #underWay = 0;
  #outcome: PartedOutcome = { kind: 'done' };
  #complete = false;

  /** `onDone` is called once, when no part is under way and none follows. */
  constructor(onDone: (outcome: PartedOutcome) => void) {
    this.#onDone = onDone;
  }

  /** The next part begins. False: it need not be carried out, since one before it has failed. */
  begin(part: { readonly last: boolean }): boolean {
    this.#complete = part.last;
    if (this.#outcome.kind === 'done') {
      this.#underWay += 1;
      return true;
    }
    this.#settle();
    return false;
  }

  /** A part that was begun is done, or has failed with `error`. */
  end(failure?: { readonly error: unknown }): void {
    this.#underWay -= 1;
    if (failure !== undefined && this.#outcome.kind === 'done') {
      this.#outcome = { kind: 'failed', ...failure };
    }
    this.#settle();
  }

  /** The rest will not come. */
  abandon(): void {
    this.#outcome = { kind: 'abandoned' };
    this.#complete = true;
    this.#settle();
  }

  #settle(): void {
    if (this.#complete && this.#underWay === 0) this.#onDone(this.#outcome);
  }
}
