/**
 * The listening side of a resume: reads the one frame that it begins with.
 */
import type { Socket } from 'node:net';
import { ProtocolError } from '../lib/index.js';
import { FRAME_TYPES } from './attach-wire.js';
import { type Frame, FrameDecoder } from './frame-wire.js';
import { ATTACH_DEADLINE_MS } from './limits.js';
import { decodeResume, RESUME_BYTES, type Resume } from './resume-wire.js';

/** One of the two is called, once. */
export interface ResumeEvents {
  /** Nothing was read behind it, and the socket is paused. */
  onResume(resume: Resume): void;
  /** The socket is destroyed. */
  onFailure(error: Error): void;
}

/**
 * Fails when the peer says more than a resume before it has its answer, when the connection ends
 * first, and after ATTACH_DEADLINE_MS.
 */
export function answerResume(socket: Socket, events: ResumeEvents): void {
  const decoder = new FrameDecoder({ maxPayloadBytes: RESUME_BYTES });
  let resume: Resume | undefined;
  const stop = (): void => {
    clearTimeout(deadline);
    socket.off('data', onData).off('close', onClose).off('error', fail);
  };
  const fail = (error: Error): void => {
    stop();
    socket.on('error', () => {});
    socket.destroy();
    events.onFailure(error);
  };
  const onClose = (): void => fail(new ProtocolError('The connection ended before its resume'));
  const onData = (chunk: Buffer): void => {
    try {
      resume = onlyResume(decoder.write(chunk));
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      fail(error);
      return;
    }
    if (resume === undefined) return;
    stop();
    socket.pause();
    events.onResume(resume);
  };
  const deadline = setTimeout(() => {
    fail(new ProtocolError(`No resume came within ${ATTACH_DEADLINE_MS} ms`));
  }, ATTACH_DEADLINE_MS);
  socket.on('data', onData).on('close', onClose).on('error', fail);
}

function onlyResume([frame, ...others]: readonly Frame[]): Resume | undefined {
  if (frame === undefined) return undefined;
  if (frame.type !== FRAME_TYPES.resume || others.length > 0) {
    throw new ProtocolError(`A frame of type ${frame.type} came instead of a resume alone`);
  }
  return decodeResume(frame.payload);
}
