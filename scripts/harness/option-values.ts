/** Command-line options of the scripts. All throw `OperatorError` with what to change. */
import { type ParseArgsConfig, parseArgs } from 'node:util';
import { OperatorError } from '../../src/lib/index.js';

/** The values of `node:util`'s parseArgs. */
export function readOptions<const T extends NonNullable<ParseArgsConfig['options']>>(
  args: readonly string[],
  options: T,
) {
  try {
    return parseArgs({ args: [...args], options }).values;
  } catch (error) {
    throw new OperatorError('COLO_E_OPTION', (error as Error).message);
  }
}

export function numberOption(
  name: string,
  text: string,
  [min, max]: readonly [number, number],
): number {
  const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= min && value <= max) return value;
  const expected = `a whole number from ${min} to ${max}`;
  throw new OperatorError('COLO_E_OPTION', `--${name}: found "${text}", expected ${expected}`);
}

export function oneOfOption<const T extends string>(
  name: string,
  text: string,
  choices: readonly T[],
): T {
  const found = choices.find((choice) => choice === text);
  if (found !== undefined) return found;
  const expected = choices.join(' or ');
  throw new OperatorError('COLO_E_OPTION', `--${name}: found "${text}", expected ${expected}`);
}

/** Chosen by the clock where nobody names one. */
export function seedOption(text: string | undefined, clockMs: number): number {
  return numberOption('seed', text ?? String(clockMs % 1_000_000), [0, 999_999_999]);
}

/** Those of `all` that one of the words means; a word that means none of them is refused. */
export function chosenOption<T>(
  option: string,
  words: readonly string[],
  {
    all,
    nameOf,
    means,
  }: {
    readonly all: readonly T[];
    readonly nameOf: (one: T) => string;
    readonly means: (word: string, one: T) => boolean;
  },
): readonly T[] {
  const unknown = words.find((word) => !all.some((one) => means(word, one)));
  if (unknown !== undefined) {
    const found = `--${option}: found "${unknown}"`;
    const message = `${found}, expected ${all.map(nameOf).join(', ')}`;
    throw new OperatorError('COLO_E_OPTION', message);
  }
  return all.filter((one) => words.some((word) => means(word, one)));
}

/** For a usage: one after the other, in lines behind a heading of seven columns. */
export function listed(names: readonly string[]): string {
  return names.join(', ').replace(/(.{60,80}?) /g, '$1\n       ');
}
