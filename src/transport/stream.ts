/**
 * Where byte streams come from. Both directions of the transport take their sockets here and
 * nowhere else; secure-stream.ts puts TLS around them.
 */
import net from 'node:net';
import { TLSSocket } from 'node:tls';
import { assert } from '../lib/index.js';
import { smoothedRoundTripUs } from '../linux/index.js';
import { KEEP_ALIVE_MS } from './limits.js';

/** A peer's listening address. `localAddress` picks our end, for hosts with several networks. */
export interface Endpoint {
  readonly host: string;
  readonly port: number;
  readonly localAddress?: string;
}

/** Whole messages are written at once, so Nagle only adds delay. */
const TCP_OPTIONS = {
  noDelay: true,
  keepAlive: true,
  keepAliveInitialDelay: KEEP_ALIVE_MS,
} as const;

/** Frames up to this long are copied into one buffer: cheaper than a vector (1.5 times the rate of
 * 64 byte frames, measured); no difference from 1500 bytes on. */
const COPY_MAX_BYTES = 512;

/** A socket that is connecting. */
export function openStream(endpoint: Endpoint): net.Socket {
  return net.connect({ ...endpoint, ...TCP_OPTIONS });
}

/** A server that is not listening yet. */
export function createStreamServer(onStream: (socket: net.Socket) => void): net.Server {
  return net.createServer(TCP_OPTIONS, onStream);
}

/**
 * The descriptor of a connected stream. Only a plain socket has one that says it all: what TLS
 * knows of a connection can't be handed on with it.
 */
export function descriptorOf(socket: net.Socket): number {
  assert(!socket.connecting && !(socket instanceof TLSSocket), 'Only a plain connected socket');
  const fd = handleOf(socket)?.fd;
  assert(fd !== undefined && fd >= 0, 'The socket has no descriptor');
  return fd;
}

/** As TCP measures it, microseconds; 0 for a stream that has no connection. */
export function roundTripOf(socket: net.Socket): number {
  const fd = socket.readyState === 'open' ? handleOf(socket)?.fd : undefined;
  return fd === undefined || fd < 0 ? 0 : smoothedRoundTripUs(fd);
}

/**
 * Stops reading for good and gives what has been read and not been delivered: what came after it
 * is still in the kernel. libuv hands over each piece in the call that read it, so nothing is in
 * between. The socket's listeners are gone then; destroying it closes its descriptor without
 * shutdown(2), so that with another one open the peer notices nothing.
 */
export function takeUnread(socket: net.Socket): Buffer[] {
  for (const event of ['data', 'end', 'error', 'close']) socket.removeAllListeners(event);
  socket.on('error', () => {});
  socket.pause();
  const unread: Buffer[] = [];
  for (;;) {
    const chunk = socket.read() as Buffer | null;
    if (chunk === null) break;
    unread.push(chunk);
  }
  // Asking for more than there was has made the handle poll again; no event can have come yet.
  handleOf(socket)?.readStop();
  return unread;
}

/** A frame of so many bytes as it is to be written, and kept until it is acknowledged. */
export function joinShort(buffers: readonly Buffer[], bytes: number): readonly Buffer[] {
  return bytes <= COPY_MAX_BYTES ? [Buffer.concat(buffers, bytes)] : buffers;
}

/** Writes with one system call if nothing is queued; `onWritten` when the kernel has the last. */
export function writeAll(
  socket: net.Socket,
  buffers: readonly Buffer[],
  onWritten: () => void,
): void {
  const last = buffers.length - 1;
  if (last > 0) socket.cork();
  for (let i = 0; i < last; i += 1) socket.write(buffers[i] as Buffer);
  socket.write(buffers[last] as Buffer, onWritten);
  if (last > 0) socket.uncork();
}

/** A socket on a connection whose descriptor came from another thread; it owns `fd` from now on. */
export function adoptStream(fd: number): net.Socket {
  return new net.Socket({ fd, readable: true, writable: true });
}

/**
 * The same, reading into memory of ours: each read to what `next` gave last. Paused. The way of Node
 * for that is an option of the constructor, so whoever has a socket already goes on with another
 * one on a duplicate of its descriptor.
 */
export function adoptReading(
  fd: number,
  reading: {
    next(): Uint8Array;
    /** So many bytes have come to the beginning of `place`. */
    came(bytes: number, place: Uint8Array): void;
  },
): net.Socket {
  const socket = new net.Socket({
    ...{ fd, readable: true, writable: true },
    onread: {
      buffer: () => reading.next(),
      callback: (bytes: number, place: Uint8Array) => {
        reading.came(bytes, place);
        return true;
      },
    },
  } as net.SocketConstructorOpts);
  socket.pause();
  return socket;
}

/** A socket that has seen its end: nothing is read from it and nothing leaves. */
export function endedStream(): net.Socket {
  return new net.Socket().destroy();
}

/** What libuv's stream looks like from JavaScript. Node's own cluster and http use the same. */
interface StreamHandle {
  readonly fd?: number;
  readStop(): number;
}

function handleOf(socket: net.Socket): StreamHandle | null {
  return (socket as unknown as { readonly _handle: StreamHandle | null })._handle;
}
