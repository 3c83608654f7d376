/** Where the time went: each part lasts from the mark before it, or from the start. */
export class Timeline {
  readonly #partsUs: Record<string, number> = {};
  #lastUs: number;

  constructor(nowUs: number) {
    this.#lastUs = nowUs;
  }

  /** The part ends now; a part that comes again adds up. */
  mark(part: string, nowUs: number): void {
    this.#partsUs[part] = (this.#partsUs[part] ?? 0) + nowUs - this.#lastUs;
    this.#lastUs = nowUs;
  }

  /** Microseconds by part, in the order of their first ends. */
  get partsUs(): Readonly<Record<string, number>> {
    return { ...this.#partsUs };
  }
}
