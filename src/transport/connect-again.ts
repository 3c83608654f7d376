/**
 * The connecting side after the loss of a connection: tries until it has another one.
 */
import type { Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { connectErrorKind } from './errors.js';
import {
  RESUME_CONNECT_MS,
  RESUME_CONNECT_MS_MAX,
  RESUME_PAUSE_MS,
  RESUME_PAUSE_MS_MAX,
} from './limits.js';
import { type Endpoint, openStream } from './stream.js';

/** Until `signal`. `pauseMs`: before the first attempt. */
export interface ConnectAgainOptions {
  readonly signal: AbortSignal;
  readonly pauseMs: number;
}

/** A connected socket, paused; or `refused`: nobody listens there any more. Never rejects. */
export async function connectAgain(
  endpoint: Endpoint,
  { signal, pauseMs }: ConnectAgainOptions,
): Promise<Socket | 'refused' | 'aborted'> {
  let pause = pauseMs;
  let patience = RESUME_CONNECT_MS;
  while (!signal.aborted) {
    if (pause > 0) await delay(pause, undefined, { signal }).catch(() => undefined);
    if (signal.aborted) break;
    const outcome = await connectOnce(endpoint, patience, signal);
    if (outcome !== 'failed') return outcome;
    pause = Math.min(Math.max(2 * pause, RESUME_PAUSE_MS), RESUME_PAUSE_MS_MAX);
    patience = Math.min(2 * patience, RESUME_CONNECT_MS_MAX);
  }
  return 'aborted';
}

function connectOnce(
  endpoint: Endpoint,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Socket | 'refused' | 'failed'> {
  return new Promise((resolve) => {
    const socket = openStream(endpoint);
    const end = (outcome: Socket | 'refused' | 'failed'): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      if (outcome !== socket) socket.destroy();
      resolve(outcome);
    };
    const onAbort = (): void => end('failed');
    const timer = setTimeout(() => end('failed'), timeoutMs);
    signal.addEventListener('abort', onAbort);
    socket.on('error', (error) => {
      end(connectErrorKind(error) === 'refused' ? 'refused' : 'failed');
    });
    socket.once('connect', () => {
      socket.pause();
      end(socket);
    });
  });
}
