/**
 * What must be undone, in reverse order, however a script ends: normally, by an error, by Ctrl-C.
 * Each step runs even if one before it failed; what failed is told on stderr.
 */
import { describeError } from '../../src/lib/index.js';

const SIGNALS = [
  ['SIGHUP', 1],
  ['SIGINT', 2],
  ['SIGTERM', 15],
] as const;
const STEP_DEADLINE_MS = 20_000;

interface Step {
  readonly name: string;
  run(): Promise<void> | void;
}

export class Cleanup {
  readonly #steps: Step[] = [];
  #running: Promise<void> | undefined;
  #interrupted = false;

  /** Adds a step; it runs before those that were added earlier. */
  add(name: string, run: () => Promise<void> | void): void {
    this.#steps.push({ name, run });
  }

  /** The steps run or ran: what fails now fails because of that. */
  get started(): boolean {
    return this.#running !== undefined;
  }

  /** A signal came: nothing must be begun any more. */
  get interrupted(): boolean {
    return this.#interrupted;
  }

  /** Runs all steps once; later calls wait for the same run. */
  run(): Promise<void> {
    this.#running ??= this.#runAll();
    return this.#running;
  }

  /**
   * From now on a signal runs the steps and ends this process with 128 + its number, and nobody
   * reading the output does not end it. Returns what ends that.
   */
  onSignals(): () => void {
    const ignore = (): void => {};
    process.stdout.on('error', ignore);
    let code: number | undefined;
    const handlers = SIGNALS.map(([signal, number]) => {
      const handler = (): void => {
        if (code !== undefined) return;
        code = 128 + number;
        this.#interrupted = true;
        process.stderr.write(`\n${signal}: cleaning up\n`);
        void this.run().finally(() => process.exit(code));
      };
      process.on(signal, handler);
      return [signal, handler] as const;
    });
    return () => {
      process.stdout.off('error', ignore);
      for (const [signal, handler] of handlers) process.off(signal, handler);
    };
  }

  async #runAll(): Promise<void> {
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      try {
        await withDeadline(Promise.resolve(step.run()), STEP_DEADLINE_MS, step.name);
      } catch (error) {
        process.stderr.write(`Cleaning up (${step.name}) failed: ${describeError(error)}\n`);
      }
    }
  }
}

/** The result of `work`, or an error that names `what` once `deadlineMs` have passed. */
export async function withDeadline<T>(
  work: Promise<T>,
  deadlineMs: number,
  what: string,
): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`${what}: not done within ${deadlineMs / 1000} s`)),
      deadlineMs,
    );
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
