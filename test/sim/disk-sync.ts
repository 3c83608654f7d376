/** When the images of a host hold what its guest was told that they do. */

/** Of one checkpoint after the other. Times on the clock of the host, microseconds. */
export class DiskSync {
  readonly #host: SyncHost;
  #doneAtUs = 0;
  #waiting: (() => void)[] = [];

  constructor(host: SyncHost) {
    this.#host = host;
  }

  get done(): boolean {
    return this.#host.nowUs() >= this.#doneAtUs;
  }

  /** Another one begins; who waits for the one before goes on waiting for that. */
  begin(durationUs: number): void {
    this.#doneAtUs = this.#host.nowUs() + durationUs;
    this.#waiting = [];
  }

  /** In the order of the calls. */
  whenDone(run: () => void): void {
    this.#waiting.push(run);
    if (this.#waiting.length === 1) this.#await(this.#doneAtUs, this.#waiting);
  }

  #await(doneAtUs: number, waiting: (() => void)[]): void {
    const { nowUs, later, failed } = this.#host;
    later(Math.max(0, doneAtUs - nowUs()), () => {
      if (nowUs() < doneAtUs) this.#await(doneAtUs, waiting);
      else if (!failed()) for (const run of waiting.splice(0)) run();
    });
  }
}

export interface SyncHost {
  nowUs(): number;
  later(delayUs: number, run: () => void): void;
  /** The disk is broken, and that is told: nobody is called. */
  failed(): boolean;
}
