import { packError, unpackError } from './error-parcel.js';
import type { LinkCloseReason, ReasonParcel } from './link-types.js';

/** A reason as plain data. */
export function packReason({ kind, error }: LinkCloseReason): ReasonParcel {
  return error === undefined ? { kind } : { kind, error: packError(error) };
}

/** The reason again. */
export function unpackReason({ kind, error }: ReasonParcel): LinkCloseReason {
  return error === undefined ? { kind } : { kind, error: unpackError(error) };
}
