/**
 * Sockets that are read to where their bytes belong: the rest of a large payload goes from the
 * kernel to its own place, and everything else through one piece of memory that is used again. A
 * socket that makes memory for each read costs a copy of all that comes, and garbage at the link's
 * rate, which V8 collects many times a second.
 *
 * Of plain connections: TLS makes memory for what it has decrypted. A connection goes on in another
 * socket on a duplicate of its descriptor; the peer notices nothing.
 */
import type net from 'node:net';
import { TLSSocket } from 'node:tls';
import { duplicateDescriptor, SystemCallError } from '../linux/index.js';
import type { Frame, FrameDecoder } from './frame-wire.js';
import { LINK_READ_BYTES } from './limits.js';
import { adoptReading, descriptorOf, takeUnread } from './stream.js';

/** Gives a decoder what has come. */
export type Decode = (decoder: FrameDecoder) => Frame[];

/** Of bytes that nobody changes any more. */
export function kept(chunk: Buffer): Decode {
  return (decoder) => decoder.write(chunk);
}

export interface StreamReader {
  /** Of this socket's stream; undefined once it is of no interest any more. */
  decoder(): FrameDecoder | undefined;
  /** So many bytes have come; `decode` is to be called at once. */
  came(decode: Decode, bytes: number): void;
}

interface Reading {
  reader: StreamReader | undefined;
}

const readings = new WeakMap<net.Socket, Reading>();

/** A socket on a connected descriptor, which it owns from now on. Paused, for `readStream`. */
export function adoptInPlace(fd: number): net.Socket {
  const reading: Reading = { reader: undefined };
  const passing = Buffer.allocUnsafeSlow(LINK_READ_BYTES);
  const socket = adoptReading(fd, {
    next: () => reading.reader?.decoder()?.place() ?? passing,
    came: (bytes, place) => {
      reading.reader?.came((decoder) => {
        if (place !== passing) return decoder.filled(bytes);
        return decoder.write(passing.subarray(0, bytes), 'passing');
      }, bytes);
    },
  });
  readings.set(socket, reading);
  return socket;
}

/** Says who reads a socket, of this kind or any other. */
export function readStream(socket: net.Socket, reader: StreamReader): void {
  const reading = readings.get(socket);
  if (reading !== undefined) reading.reader = reader;
  else socket.on('data', (chunk: Buffer) => reader.came(kept(chunk), chunk.length));
}

/**
 * The same connection in such a socket, and what has been read of it before. What is returned is
 * the same one if it has to stay what it is: secured, not connected, with something that waits to
 * be written, or no descriptor is free.
 */
export function moveInPlace(socket: net.Socket): {
  readonly socket: net.Socket;
  readonly unread: readonly Buffer[];
} {
  const fd = movableDescriptor(socket);
  if (fd === undefined) return { socket, unread: [] };
  const unread = takeUnread(socket);
  socket.destroy();
  return { socket: adoptInPlace(fd), unread };
}

/** Of the same connection, to be closed by whoever gets it. */
function movableDescriptor(socket: net.Socket): number | undefined {
  const stays = socket instanceof TLSSocket || readings.has(socket);
  if (stays || socket.readyState !== 'open' || socket.writableLength > 0) return undefined;
  try {
    return duplicateDescriptor(descriptorOf(socket));
  } catch (error) {
    if (!(error instanceof SystemCallError)) throw error;
    return undefined;
  }
}
