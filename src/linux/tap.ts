/**
 * A TAP device: the host's end of one guest NIC, an Ethernet port whose wire is a file descriptor.
 *
 * Each frame has a virtio_net_hdr of 10 bytes in front (IFF_VNET_HDR), in which either side may
 * leave a checksum or the cutting into segments to the other; so a frame can be far longer than the
 * MTU. What the kernel may leave to us is told by `setOffload`. Frames come out as batches: see
 * packet-device.ts. The device lives as long as its descriptor: it vanishes with the process,
 * however that ends.
 *
 * Source: Linux Documentation/networking/tuntap.rst; drivers/net/tun.c for the error numbers.
 */
import { ColoError, OperatorError } from '../lib/index.js';
import { check, libc, SystemCallError } from './libc.js';
import { PacketDevice } from './packet-device.js';

const INTERFACE_NAME_BYTES_MAX = 15;
/** `struct ifreq`: 16 bytes of name, then a union of which the flags are the first 2 bytes. */
const IFREQ_BYTES = 40;

const O_RDWR = 0x2;
const O_CLOEXEC = 0x80000;
const TUNSETIFF = 0x400454ca;
const TUNSETOFFLOAD = 0x400454d0;
const IFF_TAP = 0x0002;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;
/** Refuse a device that exists: two agents on one TAP would each get half of the frames. */
const IFF_TUN_EXCL = 0x8000;

const EPERM = 1;
const ENOENT = 2;
const ENXIO = 6;
const EACCES = 13;
const EBUSY = 16;
const ENODEV = 19;

const openFile = libc.func('int open(const char *path, int flags)') as (
  path: string,
  flags: number,
) => number;
const ioctl = libc.func('int ioctl(int fd, unsigned long request, void *argument)') as (
  fd: number,
  request: number,
  argument: Buffer,
) => number;
/** The same call; its argument is a number here. */
const ioctlNumber = libc.func(
  'int ioctl(int fd, unsigned long request, unsigned long argument)',
) as (fd: number, request: number, argument: number) => number;
const closeFile = libc.func('int close(int fd)') as (fd: number) => number;

/**
 * Creates the TAP device `name` in the process's network namespace. Its link is still down.
 * Throws `OperatorError` where the host can't or must not (no /dev/net/tun, no right, name taken).
 */
export function openTap(options: { name: string }): Tap {
  const { name } = options;
  if (!/^[^\s/:%]{1,15}$/.test(name) || Buffer.byteLength(name) > INTERFACE_NAME_BYTES_MAX) {
    throw new OperatorError(
      'COLO_E_TAP_NAME',
      `TAP name ${JSON.stringify(name)} is not valid: 1 to 15 bytes without space, "/", ":" or "%"`,
    );
  }
  const fd = openTunDevice();
  const request = Buffer.alloc(IFREQ_BYTES);
  request.write(name, 0);
  request.writeUInt16LE(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL, 16);
  try {
    check('ioctl TUNSETIFF', ioctl(fd, TUNSETIFF, request));
  } catch (cause) {
    closeFile(fd);
    throw explainTunSetIff(name, cause);
  }
  return new Tap(`TAP ${name}`, fd);
}

function openTunDevice(): number {
  try {
    return check('open', openFile('/dev/net/tun', O_RDWR | O_CLOEXEC));
  } catch (cause) {
    const number = cause instanceof SystemCallError ? cause.errno : 0;
    const missing = number === ENOENT || number === ENODEV || number === ENXIO;
    throw new OperatorError(
      'COLO_E_NO_TUN',
      missing
        ? '/dev/net/tun is missing: load the module with "modprobe tun", or give the container the device'
        : '/dev/net/tun can not be opened: run as root, or grant CAP_NET_ADMIN and access to it',
      { cause },
    );
  }
}

function explainTunSetIff(name: string, cause: unknown): unknown {
  if (!(cause instanceof SystemCallError)) return cause;
  if (cause.errno === EBUSY) {
    return new OperatorError(
      'COLO_E_TAP_EXISTS',
      `Interface ${name} exists already: stop what uses it, or choose another TAP name`,
      { cause },
    );
  }
  if (cause.errno === EPERM || cause.errno === EACCES) {
    return new OperatorError(
      'COLO_E_TAP_RIGHTS',
      `TAP ${name} can not be created: run as root, or grant CAP_NET_ADMIN`,
      { cause },
    );
  }
  return new ColoError('COLO_E_TAP', `TAP ${name} can not be created`, { cause });
}

/** One open TAP device; use `openTap`. */
export class Tap extends PacketDevice {
  /**
   * What the reader of the TAP takes unfinished, as TUN_F_* flags: 1 checksums, 2 and 4 segments of
   * TCP over IPv4 and IPv6, 8 those with ECN. Nothing at first. False, and nothing is changed, for
   * flags that make no sense together.
   */
  setOffload(flags: number): boolean {
    return ioctlNumber(this.fd, TUNSETOFFLOAD, flags) === 0;
  }
}
