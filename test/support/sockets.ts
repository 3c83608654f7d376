/** Waiting for sockets that the other side may cut: `once(socket, 'close')` rejects on errors. */
import type { Socket } from 'node:net';

/** Resolves when the socket is closed, by whatever. Call it before anything can happen to it. */
export function closed(socket: Socket): Promise<void> {
  socket.on('error', () => {});
  return new Promise((resolve) => {
    socket.once('close', () => resolve());
  });
}
