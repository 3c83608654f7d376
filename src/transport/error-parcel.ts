/**
 * Errors between threads. The structured clone makes plain Errors of all classes and drops their
 * `code`; here an error travels with its name, code and other plain fields, and arrives as one of
 * the same class, for the classes that cross threads.
 */
import { AssertionFailed, ColoError, OperatorError, ProtocolError } from '../lib/index.js';
import { SystemCallError } from '../linux/index.js';
import { LinkError } from './errors.js';

type Plain = string | number | boolean | bigint;

/** An error as plain data. */
export interface ErrorParcel {
  readonly name: string;
  readonly message: string;
  readonly stack: string | undefined;
  /** Own fields such as `code`, `kind` or `errno`; what is no plain value stays behind. */
  readonly fields: Readonly<Record<string, Plain>>;
  readonly cause?: ErrorParcel;
}

/** By name; any other error that has a code of ours becomes a ColoError that keeps its name. */
const CLASSES: ReadonlyMap<string, { readonly prototype: Error }> = new Map(
  [AssertionFailed, ColoError, OperatorError, ProtocolError, SystemCallError, LinkError].map(
    (errorClass) => [errorClass.name, errorClass],
  ),
);

/** Causes of causes: more than any error of ours has, and a bound for one that contains itself. */
const CAUSES_MAX = 16;

/** Whatever was thrown, as plain data. */
export function packError(thrown: unknown, causesMax = CAUSES_MAX): ErrorParcel {
  if (!(thrown instanceof Error)) {
    return { name: 'Error', message: String(thrown), stack: undefined, fields: {} };
  }
  const { name, message, stack, cause } = thrown;
  const fields: Record<string, Plain> = {};
  for (const [key, value] of Object.entries(thrown)) {
    if (isPlain(value)) fields[key] = value;
  }
  const parcel = { name, message, stack, fields };
  if (cause === undefined || causesMax === 0) return parcel;
  return { ...parcel, cause: packError(cause, causesMax - 1) };
}

/** The error again. */
export function unpackError(parcel: ErrorParcel): Error {
  const { name, message, stack, fields, cause } = parcel;
  const error = new Error(message, cause === undefined ? {} : { cause: unpackError(cause) });
  const isOurs = typeof fields['code'] === 'string' && fields['code'].startsWith('COLO_E_');
  const errorClass = CLASSES.get(name) ?? (isOurs ? ColoError : undefined);
  if (errorClass !== undefined) Object.setPrototypeOf(error, errorClass.prototype);
  Object.assign(error, fields);
  const hidden = { enumerable: false, configurable: true, writable: true };
  if (error.name !== name) Object.defineProperty(error, 'name', { ...hidden, value: name });
  Object.defineProperty(error, 'stack', { ...hidden, value: stack });
  return error;
}

function isPlain(value: unknown): value is Plain {
  return ['string', 'number', 'boolean', 'bigint'].includes(typeof value);
}
