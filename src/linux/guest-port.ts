/**
 * One guest NIC as QEMU sees it from outside: a TAP that is none.
 *
 * A real TAP would hand its frames to the kernel. This is a pair of packet sockets; native/
 * ram-preload.c inside QEMU answers the TUN ioctls for QEMU's end. Each packet is a virtio_net_hdr
 * of 10 bytes and a frame. A second pair tells us what the guest's driver takes unfinished:
 *
 *     field   size   order   meaning                                            limit
 *     flags   4      host    TUN_F_* as in TUNSETOFFLOAD (see `Tap.setOffload`)  0 to 15
 *
 * Nothing is lost between the two: a sender whose packet does not fit waits. QEMU's TAP code does so
 * when a write gives EAGAIN. Room is bytes of the sender's buffer; `net.unix.max_dgram_qlen` is for
 * unconnected senders and does not bound a pair.
 *
 * Sources: unix(7); Linux net/unix/af_unix.c (`unix_dgram_sendmsg`); QEMU 7.2 net/tap.c.
 */
import { check, libc } from './libc.js';
import { PacketDevice } from './packet-device.js';

/** What QEMU inherits: frames, and the socket that tells the guest's offloads. */
export interface GuestPortFds {
  readonly frames: number;
  readonly offload: number;
}

/**
 * Asked for in each direction; the kernel doubles it for its own bookkeeping. 10 ms of 400 MB/s,
 * longer than our event loop is away. Without CAP_NET_ADMIN it is `net.core.wmem_max` at most.
 */
const BUFFER_BYTES = 4 * 1024 * 1024;
const MESSAGE_BYTES = 4;

const AF_UNIX = 1;
const SOCK_SEQPACKET = 5;
const SOCK_CLOEXEC = 0x80000;
const SOL_SOCKET = 1;
const SO_SNDBUF = 7;
const SO_SNDBUFFORCE = 32;
const SIOCOUTQ = 0x5411;

const socketpair = libc.func('int socketpair(int domain, int type, int protocol, void *fds)') as (
  domain: number,
  type: number,
  protocol: number,
  fds: Buffer,
) => number;
const setsockopt = libc.func(
  'int setsockopt(int fd, int level, int name, const void *value, unsigned int size)',
) as (fd: number, level: number, name: number, value: Buffer, size: number) => number;
const ioctl = libc.func('int ioctl(int fd, unsigned long request, void *argument)') as (
  fd: number,
  request: number,
  argument: Buffer,
) => number;
const closeFile = libc.func('int close(int fd)') as (fd: number) => number;

/** Our end. Any thread may make it; the numbers in `qemuFds` are good in the whole process. */
export class GuestPort extends PacketDevice {
  /** QEMU's ends; it inherits them. */
  readonly qemuFds: GuestPortFds;
  readonly #offload: PacketDevice;
  readonly #queueSize = Buffer.alloc(4);
  #qemuFdsOpen = true;

  /** `name` is for error messages. */
  constructor(name: string) {
    const frames = makePair();
    super(name, frames.ours);
    const offload = makePair();
    this.#offload = new PacketDevice(name, offload.ours);
    this.qemuFds = { frames: frames.qemus, offload: offload.qemus };
    for (const fd of [frames.ours, frames.qemus]) setSendBuffer(fd);
  }

  /** Calls `callback` with the flags whenever QEMU or the guest's driver sets them. */
  onOffload(callback: (flags: number) => void): void {
    this.#offload.onReadable(() => {
      const batch = this.#offload.readBatch();
      // The latest one counts. The sender is our own code, in a QEMU that is not trusted.
      if (batch !== undefined && batch.length >= MESSAGE_BYTES) {
        callback(batch.readUInt32LE(batch.length - MESSAGE_BYTES));
      }
    });
  }

  /** Of what was written, in bytes of kernel memory: 0 exactly when QEMU has read all of it. */
  unreadBytes(): number {
    check('ioctl SIOCOUTQ', ioctl(this.fd, SIOCOUTQ, this.#queueSize));
    return this.#queueSize.readInt32LE(0);
  }

  /** QEMU has inherited its ends: from now on they close with it. Idempotent. */
  closeQemuFds(): void {
    if (!this.#qemuFdsOpen) return;
    this.#qemuFdsOpen = false;
    closeFile(this.qemuFds.frames);
    closeFile(this.qemuFds.offload);
  }

  override close(): void {
    this.closeQemuFds();
    this.#offload.close();
    super.close();
  }
}

function makePair(): { ours: number; qemus: number } {
  const fds = Buffer.alloc(8);
  check('socketpair', socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds));
  return { ours: fds.readInt32LE(0), qemus: fds.readInt32LE(4) };
}

function setSendBuffer(fd: number): void {
  const value = Buffer.alloc(4);
  value.writeInt32LE(BUFFER_BYTES, 0);
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, value, 4) < 0) {
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, value, 4);
  }
}
