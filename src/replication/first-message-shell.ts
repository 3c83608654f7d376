/** Waits for the first control message of a session: a hello or the answer to one. */
import { describeError, ProtocolError } from '../lib/index.js';
import type { Frame, Session } from '../transport/index.js';
import { HELLO_TIMEOUT_MS } from './limits.js';
import { type ControlMessage, decodeControl } from './wire.js';

/**
 * The first message on the control link; the link then has no frame handler, so later ones wait.
 * Rejects with `ProtocolError` when the session ends, or `HELLO_TIMEOUT_MS` passes, before it.
 */
export async function firstControlMessage(session: Session): Promise<ControlMessage> {
  const { type, payload } = await firstControlFrame(session);
  return decodeControl(type, payload);
}

/** The same, not decoded: what is no message of this folder may be one of another. */
export function firstControlFrame(session: Session): Promise<Frame> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      reject(new ProtocolError(`No hello within ${HELLO_TIMEOUT_MS} ms`));
    }, HELLO_TIMEOUT_MS);
    session.onClose(({ kind, error }) => {
      clearTimeout(timer);
      const why = error === undefined ? kind : `${kind}: ${describeError(error)}`;
      reject(new ProtocolError(`The session ended before the hello (${why})`));
    });
    session.links.control.onFrame((frame) => {
      clearTimeout(timer);
      session.links.control.onFrame(undefined);
      resolve(frame);
    });
  });
}
