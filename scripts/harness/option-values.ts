/** Values of command-line options of the scripts. Both throw `OperatorError` with what to change. */
import { OperatorError } from '../../src/lib/index.js';

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
