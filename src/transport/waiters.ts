/** Promises that wait for the same thing. */
interface Waiter {
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

export class Waiters {
  #waiting: Waiter[] = [];

  wait(): Promise<void> {
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  resolveAll(): void {
    if (this.#waiting.length === 0) return;
    for (const { resolve } of this.#waiting.splice(0)) resolve();
  }

  rejectAll(error: () => Error): void {
    for (const { reject } of this.#waiting.splice(0)) reject(error());
  }
}
