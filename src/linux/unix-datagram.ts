/**
 * One-way datagrams to a unix socket. Node has no unix datagram sockets (`dgram` is UDP only), and
 * systemd's NOTIFY_SOCKET is one.
 *
 * Address, `struct sockaddr_un` (man 7 unix):
 *
 *     field   size      order   meaning                                            limit
 *     family  2         host    AF_UNIX
 *     path    1 to 108          a path with its zero byte, or, for an abstract     108
 *                               address, a zero byte and the name without one
 */
import { OperatorError } from '../lib/index.js';
import { check, libc } from './libc.js';

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0x800;
const SOCK_CLOEXEC = 0x80000;
const MSG_NOSIGNAL = 0x4000;
const PATH_BYTES_MAX = 108;

const socket = libc.func('int socket(int domain, int type, int protocol)') as (
  domain: number,
  type: number,
  protocol: number,
) => number;
const sendto = libc.func(
  'long sendto(int fd, const void *data, unsigned long size, int flags, const void *address, ' +
    'unsigned int addressSize)',
) as (
  fd: number,
  data: Buffer,
  size: number,
  flags: number,
  address: Buffer,
  addressSize: number,
) => number;
const closeFile = libc.func('int close(int fd)') as (fd: number) => number;

/**
 * The `sockaddr_un` of `/path`, or of `@name`, which is how an abstract address is written. Throws
 * `OperatorError` for anything else.
 */
export function encodeUnixAddress(text: string): Buffer {
  const abstract = text.startsWith('@');
  const path = Buffer.from(abstract ? `\0${text.slice(1)}` : `${text}\0`);
  if ((!abstract && !text.startsWith('/')) || path.length > PATH_BYTES_MAX || path.length < 2) {
    throw new OperatorError(
      'COLO_E_UNIX_ADDRESS',
      `Found the socket address ${JSON.stringify(text)}, expected /path or @name of at most ` +
        `${PATH_BYTES_MAX - 1} bytes`,
    );
  }
  const family = Buffer.alloc(2);
  family.writeUInt16LE(AF_UNIX);
  return Buffer.concat([family, path]);
}

/** A socket that sends to one address. */
export class UnixDatagramSender {
  readonly #address: Buffer;
  readonly #fd: number;
  #closed = false;

  /** `address`: see `encodeUnixAddress`. Nobody needs to listen there yet. */
  constructor(address: string) {
    this.#address = encodeUnixAddress(address);
    this.#fd = check('socket', socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  }

  /** Hands `data` over as one datagram, without ever waiting. Throws `SystemCallError`. */
  send(data: Buffer): void {
    const { length } = this.#address;
    check('sendto', sendto(this.#fd, data, data.length, MSG_NOSIGNAL, this.#address, length));
  }

  /** Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeFile(this.#fd);
  }
}
