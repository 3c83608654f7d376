/**
 * How a wrong value is told to the operator: what was found, what was expected, what to change,
 * in one line. `ValueError` is one value without its place; `ConfigurationError` is everything that
 * is wrong with a command line and its file, one line for each, each with its place.
 */
import { OperatorError } from '../lib/index.js';
import { PROBLEMS_SHOWN_MAX } from './limits.js';

const QUOTED_LENGTH_MAX = 80;

/** A value breaks its grammar or range. The message has no place in it; the caller knows that. */
export class ValueError extends OperatorError {
  constructor(found: string, expected: string, advice: string) {
    super('COLO_E_USAGE', `found ${quote(found)}, expected ${expected}; ${advice}`);
  }
}

/** One wrong setting: where it stands, and the whole line to print. */
export interface Problem {
  readonly from: 'file' | 'flag';
  readonly line: string;
  /** The key it is about, as it was written; undefined when it is about no single one. */
  readonly key?: string;
}

/** The configuration can't be used. Each line of the message is one problem, in reading order. */
export class ConfigurationError extends OperatorError {
  /** 64 when only flags are wrong, 78 as soon as a file is (sysexits.h EX_USAGE, EX_CONFIG). */
  readonly exitCode: 64 | 78;
  readonly problems: readonly Problem[];

  constructor(problems: readonly Problem[]) {
    const lines = problems.slice(0, PROBLEMS_SHOWN_MAX).map((problem) => problem.line);
    const more = problems.length - lines.length;
    if (more > 0) lines.push(`and ${more} more problems; correct these first`);
    const exitCode = problems.some((problem) => problem.from === 'file') ? 78 : 64;
    super(exitCode === 78 ? 'COLO_E_CONFIGURATION' : 'COLO_E_USAGE', lines.join('\n'));
    this.exitCode = exitCode;
    this.problems = problems;
  }
}

/** `text` in quotes on one line, control characters escaped, cut to what a person reads. */
export function quote(text: string): string {
  const characters = [...text.slice(0, QUOTED_LENGTH_MAX + 1)];
  const cut = text.length > QUOTED_LENGTH_MAX;
  const shown = cut ? `${characters.slice(0, QUOTED_LENGTH_MAX).join('')}...` : text;
  return JSON.stringify(shown).replace(/[\u007f-\u009f\u2028\u2029]/g, (character) => {
    return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
  });
}
