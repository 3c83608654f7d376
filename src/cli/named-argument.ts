/** Says of a value that can't be taken which argument it was. */
import { ValueError } from '../config/index.js';

/** Puts the name of the argument before what is wrong with it. */
export function named<T>(name: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (error instanceof ValueError) error.message = `${name}: ${error.message}`;
    throw error;
  }
}
