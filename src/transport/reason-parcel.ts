/** Why a link is over: found out, and between threads. */
import { packError, unpackError } from './error-parcel.js';
import { LinkError } from './errors.js';
import type { FrameDecoder } from './frame-wire.js';
import type { LinkCloseReason, ReasonParcel } from './link-types.js';

/** The peer's FIN has come: maybe in the middle of a frame. */
export function endOfStream(decoder: FrameDecoder): LinkCloseReason {
  try {
    decoder.end();
    return { kind: 'ended' };
  } catch (error) {
    return { kind: 'ended', error: error as Error };
  }
}

/** A reason as plain data. */
export function packReason({ kind, error }: LinkCloseReason): ReasonParcel {
  return error === undefined ? { kind } : { kind, error: packError(error) };
}

/** The reason again. */
export function unpackReason({ kind, error }: ReasonParcel): LinkCloseReason {
  return error === undefined ? { kind } : { kind, error: unpackError(error) };
}

/** For whoever still uses a link that is over, for that reason. */
export function closedError(remoteAddress: string, { kind, error }: LinkCloseReason): LinkError {
  const text = `The link to ${remoteAddress} is closed (${kind})`;
  return new LinkError('closed', text, error === undefined ? {} : { cause: error });
}
