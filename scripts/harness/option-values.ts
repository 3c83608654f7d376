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
