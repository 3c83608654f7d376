/** Drives a core through a conversation and writes down what it answers, one line per output. */
import type { Core } from '../../../src/lib/index.js';

/** `kind rest...`, such as `release 7` or `runAlone Secondary lost`. */
function line(output: object): string {
  return Object.values(output)
    .filter((value) => typeof value !== 'object')
    .join(' ');
}

/** A core with a clock: `at(ms)` moves it, `says` steps and answers with the lines. */
export class Conversation<In, Out extends object> {
  readonly core: Core<In, Out>;
  nowUs = 0;

  constructor(core: Core<In, Out>) {
    this.core = core;
  }

  at(ms: number): this {
    this.nowUs = ms * 1000;
    return this;
  }

  says(input: In): string[] {
    return this.core.step(input, this.nowUs).map(line);
  }

  /** All of them, in order; the lines of all answers. */
  saysAll(...inputs: readonly In[]): string[] {
    return inputs.flatMap((input) => this.says(input));
  }
}
