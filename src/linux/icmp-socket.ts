/**
 * A raw socket that speaks ICMP with one address: what is written is one message, what is read is
 * one message from there, over IPv4 with its IP header in front. For IPv6 the kernel fills in the
 * checksum. Needs CAP_NET_RAW.
 *
 * Source: man 7 raw, man 7 ip, RFC 3542 section 3.
 */
import { OperatorError } from '../lib/index.js';
import { check, libc } from './libc.js';
import { PacketDevice } from './packet-device.js';

const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0x80000;
const IPPROTO_ICMP = 1;
const IPPROTO_ICMPV6 = 58;

const openSocket = libc.func('int socket(int family, int type, int protocol)') as (
  family: number,
  type: number,
  protocol: number,
) => number;
const connectSocket = libc.func('int connect(int fd, const void *address, unsigned int size)') as (
  fd: number,
  address: Buffer,
  size: number,
) => number;
const closeFile = libc.func('int close(int fd)') as (fd: number) => number;
const toBytes = libc.func('int inet_pton(int family, const char *text, void *bytes)') as (
  family: number,
  text: string,
  bytes: Buffer,
) => number;
const interfaceIndex = libc.func('unsigned int if_nametoindex(const char *name)') as (
  name: string,
) => number;

/** Throws `OperatorError` for what is no address, `SystemCallError` if there is no way to it. */
export function openIcmpSocket(address: string): PacketDevice {
  const isIpv6 = address.includes(':');
  const target = isIpv6 ? ipv6Address(address) : ipv4Address(address);
  const family = isIpv6 ? AF_INET6 : AF_INET;
  const protocol = isIpv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
  const fd = check('socket', openSocket(family, SOCK_RAW | SOCK_CLOEXEC, protocol));
  try {
    check('connect', connectSocket(fd, target, target.length));
    return new PacketDevice(`ICMP with ${address}`, fd);
  } catch (error) {
    closeFile(fd);
    throw error;
  }
}

/** `struct sockaddr_in`: family, port, 4 bytes of address, 8 of nothing. */
function ipv4Address(text: string): Buffer {
  const bytes = Buffer.alloc(16);
  bytes.writeUInt16LE(AF_INET, 0);
  parse(AF_INET, text, bytes.subarray(4, 8));
  return bytes;
}

/** `struct sockaddr_in6`: family, port, flow, 16 bytes of address, scope. */
function ipv6Address(text: string): Buffer {
  const bytes = Buffer.alloc(28);
  const [address = '', scope] = text.split('%');
  bytes.writeUInt16LE(AF_INET6, 0);
  parse(AF_INET6, address, bytes.subarray(8, 24));
  if (scope !== undefined) bytes.writeUInt32LE(interfaceIndex(scope), 24);
  return bytes;
}

function parse(family: number, text: string, bytes: Buffer): void {
  if (toBytes(family, text, bytes) === 1) return;
  throw new OperatorError('COLO_E_ADDRESS', `${JSON.stringify(text)} is no IP address`);
}
