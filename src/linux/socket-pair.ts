import { check, libc } from './libc.js';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_NONBLOCK_CLOEXEC = 0x80800;

const socketpair = libc.func(
  'int socketpair(int domain, int type, int protocol, void *descriptors)',
) as (domain: number, type: number, protocol: number, descriptors: Int32Array) => number;

/** Two connected stream sockets; the caller closes both. Throws SystemCallError. */
export function socketPair(): [number, number] {
  const descriptors = new Int32Array(2);
  const type = SOCK_STREAM | SOCK_NONBLOCK_CLOEXEC;
  check('socketpair', socketpair(AF_UNIX, type, 0, descriptors));
  const [near = -1, far = -1] = descriptors;
  return [near, far];
}
