/**
 * A BPF program is put where a device's frames come in, as `tc qdisc add dev X clsact` and `tc
 * filter add dev X ingress bpf direct-action` do it; tc itself takes no descriptor of a program.
 * It goes away with the device.
 *
 * | struct tcmsg | offset | | nlmsghdr | offset | | rtattr     | offset |
 * |--------------|--------|-|----------|--------|-|------------|--------|
 * | family       | 0      | | length   | 0      | | length (2) | 0      |
 * | ifindex      | 4      | | type (2) | 4      | | type (2)   | 2      |
 * | handle       | 8      | | flags (2)| 6      | | payload    | 4      |
 * | parent       | 12     | | sequence | 8      | |            |        |
 * | info         | 16     | | port     | 12     | |            |        |
 *
 * Sources: rtnetlink(7), netlink(7); Linux include/uapi/linux/{rtnetlink,pkt_sched,pkt_cls}.h.
 */
import { check, libc, SystemCallError } from './libc.js';

const AF_NETLINK = 16;
const SOCK_RAW_CLOEXEC = 0x80003;
const NETLINK_ROUTE = 0;
const RTM_NEWQDISC = 36;
const RTM_NEWTFILTER = 44;
/** NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE. */
const FLAGS = 0x1 | 0x4 | 0x200 | 0x400;
const NLMSG_ERROR = 2;
const HEADER_BYTES = 16;
const TCMSG_BYTES = 20;
const ANSWER_BYTES_MAX = 8192;

const TCA_KIND = 1;
const TCA_OPTIONS = 2;
const TCA_BPF_FD = 6;
const TCA_BPF_NAME = 7;
const TCA_BPF_FLAGS = 8;
const NLA_F_NESTED = 0x8000;
/** The program's result is what happens to the frame. */
const TCA_BPF_FLAG_ACT_DIRECT = 1;
const TC_H_CLSACT = 0xffff_fff1;
const CLSACT_HANDLE = 0xffff_0000;
const INGRESS = 0xffff_fff2;
/** Priority 1 above ETH_P_ALL in network order. */
const FIRST_OF_ALL_PROTOCOLS = (1 << 16) | 0x0300;

const openSocket = libc.func('int socket(int family, int type, int protocol)') as (
  family: number,
  type: number,
  protocol: number,
) => number;
const sendMessage = libc.func(
  'long send(int fd, const void *bytes, unsigned long size, int flags)',
) as (fd: number, bytes: Buffer, size: number, flags: number) => number;
const receive = libc.func('long recv(int fd, void *bytes, unsigned long size, int flags)') as (
  fd: number,
  bytes: Buffer,
  size: number,
  flags: number,
) => number;
const closeFile = libc.func('int close(int fd)') as (fd: number) => number;
const interfaceIndex = libc.func('unsigned int if_nametoindex(const char *name)') as (
  name: string,
) => number;

/** `programFd` of `loadClassifier`; may be closed afterwards. Throws SystemCallError. */
export function attachToIngress(device: string, programFd: number): void {
  const socket = check('socket', openSocket(AF_NETLINK, SOCK_RAW_CLOEXEC, NETLINK_ROUTE));
  try {
    const ifindex = interfaceIndex(device);
    request(socket, RTM_NEWQDISC, [
      header({ ifindex, handle: CLSACT_HANDLE, parent: TC_H_CLSACT, info: 0 }),
      attribute(TCA_KIND, Buffer.from('clsact\0')),
    ]);
    request(socket, RTM_NEWTFILTER, [
      header({ ifindex, handle: 0, parent: INGRESS, info: FIRST_OF_ALL_PROTOCOLS }),
      attribute(TCA_KIND, Buffer.from('bpf\0')),
      attribute(
        TCA_OPTIONS | NLA_F_NESTED,
        Buffer.concat([
          attribute(TCA_BPF_FD, word(programFd)),
          attribute(TCA_BPF_NAME, Buffer.from('colo\0')),
          attribute(TCA_BPF_FLAGS, word(TCA_BPF_FLAG_ACT_DIRECT)),
        ]),
      ),
    ]);
  } finally {
    closeFile(socket);
  }
}

/** Sends one request and waits for its acknowledgement, which the kernel gives at once. */
function request(socket: number, type: number, parts: readonly Buffer[]): void {
  const body = Buffer.concat(parts);
  const message = Buffer.alloc(HEADER_BYTES + body.length);
  message.writeUInt32LE(message.length, 0);
  message.writeUInt16LE(type, 4);
  message.writeUInt16LE(FLAGS, 6);
  body.copy(message, HEADER_BYTES);
  check('send to netlink', sendMessage(socket, message, message.length, 0));
  const answer = Buffer.alloc(ANSWER_BYTES_MAX);
  const length = check('recv from netlink', receive(socket, answer, answer.length, 0));
  const isAnswer = length >= HEADER_BYTES + 4 && answer.readUInt16LE(4) === NLMSG_ERROR;
  if (!isAnswer) throw new SystemCallError('rtnetlink', 0);
  const errno = -answer.readInt32LE(HEADER_BYTES);
  if (errno !== 0) throw new SystemCallError('rtnetlink', errno);
}

function header(fields: {
  readonly ifindex: number;
  readonly handle: number;
  readonly parent: number;
  readonly info: number;
}): Buffer {
  const bytes = Buffer.alloc(TCMSG_BYTES);
  bytes.writeInt32LE(fields.ifindex, 4);
  bytes.writeUInt32LE(fields.handle, 8);
  bytes.writeUInt32LE(fields.parent, 12);
  bytes.writeUInt32LE(fields.info, 16);
  return bytes;
}

function attribute(type: number, payload: Buffer): Buffer {
  const bytes = Buffer.alloc(4 + Math.ceil(payload.length / 4) * 4);
  bytes.writeUInt16LE(4 + payload.length, 0);
  bytes.writeUInt16LE(type, 2);
  payload.copy(bytes, 4);
  return bytes;
}

function word(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value, 0);
  return bytes;
}
