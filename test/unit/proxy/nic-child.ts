/**
 * Runs one scenario of a `Nic` on a real TAP in a real bridge, in the network namespace it was
 * started in, and prints what was observed as one line of JSON. The namespace (`unshare --net`) is
 * the caller's, so whatever happens here, nothing stays behind. Argument: scenario.
 *
 *     client (TAP lan0) -- bridge br0 -- TAP colo0 -- Nic -- QEMU's end of the port -- guest
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { createLeaseMemory, LeaseWriter, OutputLease } from '../../../src/failover/index.js';
import type { Logger } from '../../../src/lib/index.js';
import {
  bootTimeUs,
  OutputDeadline,
  openTap,
  PacketDevice,
  type Tap,
} from '../../../src/linux/index.js';
import {
  countFrames,
  encodeAnnouncement,
  encodeBatch,
  forEachFrame,
  Nic,
} from '../../../src/proxy/index.js';
import { HELD_BYTES_HARD, VNET_HEADER_BYTES } from '../../../src/proxy/limits.js';
import { attachToBridge, bringUp } from '../../../src/proxy/link-shell.js';

const DEADLINE_MS = 20_000;
/** IEEE 802 local experimental EtherType: nobody else in the namespace sends it. */
const ETHERTYPE = 0x88b5;
const GUEST_MAC = '525400123456';
const CLIENT_MAC = '5254000000c1';

const PRELOAD = fileURLToPath(new URL('../../../native/ram-preload.so', import.meta.url));

const SILENT_LOG: Logger = { debug() {}, info() {}, warn() {}, error() {} };

type Observation = Record<string, unknown>;

/** Names of our frames in the order of arrival, and a way to wait for them. */
class Ear {
  readonly heard: string[] = [];
  #waiting: (() => void)[] = [];

  /** Looks at each frame of a batch. */
  hear(batch: Buffer): void {
    forEachFrame(batch, (each) => this.#hearFrame(each.subarray(VNET_HEADER_BYTES)));
  }

  #hearFrame(frame: Buffer): void {
    if (frame.readUInt16BE(12) !== ETHERTYPE) return;
    this.heard.push(frame.subarray(15, 15 + frame.readUInt8(14)).toString());
    for (const check of this.#waiting) check();
  }

  async until(count: number): Promise<string[]> {
    if (this.heard.length < count) {
      await new Promise<void>((resolve) => {
        this.#waiting.push(() => {
          if (this.heard.length >= count) resolve();
        });
      });
    }
    return [...this.heard];
  }
}

class Lab {
  readonly logged: string[] = [];
  readonly debugged: string[] = [];
  readonly clientEar = new Ear();
  readonly guestEar = new Ear();
  /** False: the NIC finds the lease in order, as one does that is stopped after its look. */
  looks = true;
  readonly deadline = createDeadline();
  readonly #memory = createLeaseMemory(this.deadline?.fd);
  readonly lease = new LeaseWriter(this.#memory);
  readonly #output = new OutputLease(this.#memory);
  readonly nic = new Nic({
    index: 0,
    tapName: 'colo0',
    bridge: 'br0',
    mtu: 1500,
    lease: { allows: (nowUs) => !this.looks || this.#output.allows(nowUs) },
    deadline: this.deadline,
    log: this.#logger(),
  });
  client: Tap = openTap({ name: 'lan0' });
  guest!: PacketDevice;

  async up(): Promise<void> {
    this.lease.armForEver();
    writeFileSync('/proc/sys/net/ipv6/conf/default/disable_ipv6', '1');
    ip('link add br0 type bridge forward_delay 0 mcast_snooping 0');
    ip('link set br0 up');
    await bringUp('lan0');
    await attachToBridge('lan0', 'br0');
    this.client.onReadable(() => {
      const batch = this.client.readBatch();
      if (batch !== undefined) this.clientEar.hear(batch);
    });
    await this.nic.start();
    this.guest = new PacketDevice('the guest', this.nic.qemuFds.frames);
    this.guest.onReadable(() => {
      const batch = this.guest.readBatch();
      if (batch !== undefined) this.guestEar.hear(batch);
    });
  }

  guestSays(...names: string[]): void {
    this.guest.writeBatch(encodeBatch(names.map((name) => frame(GUEST_MAC, name))), 0);
  }

  clientSays(...names: string[]): void {
    this.client.writeBatch(encodeBatch(names.map((name) => frame(CLIENT_MAC, name))), 0);
  }

  async down(): Promise<void> {
    // The same descriptors as the NIC's: closed here first, while nobody can have reused them.
    this.guest?.close();
    this.nic.stop();
    this.client.close();
  }

  #logger(): Logger {
    const write = (message: string) => this.logged.push(message);
    const debug = (message: string) => this.debugged.push(message);
    return { debug, info: write, warn: write, error: write };
  }
}

/** Undefined for somebody who is root in a user namespace only. */
function createDeadline(): OutputDeadline | undefined {
  try {
    return OutputDeadline.create();
  } catch (error) {
    if (process.getuid?.() === 0 && isInitialUserNamespace()) throw error;
    return undefined;
  }
}

function isInitialUserNamespace(): boolean {
  return /^\s*0\s+0\s+4294967295\s*$/.test(readFileSync('/proc/self/uid_map', 'utf8'));
}

function frame(source: string, name: string): Buffer {
  const header = Buffer.from(`ffffffffffff${source}88b5`, 'hex');
  const parts = [
    Buffer.alloc(VNET_HEADER_BYTES),
    header,
    Buffer.of(name.length),
    Buffer.from(name),
  ];
  const named = Buffer.concat(parts);
  return Buffer.concat([named], Math.max(VNET_HEADER_BYTES + 60, named.length));
}

/** TCP over IPv4 with 3,500 bytes, to be cut into segments of 1,000, its checksum unfinished. */
function superFrame(): Buffer {
  const payload = Buffer.alloc(3500, 7);
  const tcp = Buffer.from('10011002000000010000000150100400000000' + '00', 'hex');
  const length = 20 + tcp.length + payload.length;
  const ip = Buffer.from('45000000000140004006000' + '00a0000010a000002', 'hex');
  ip.writeUInt16BE(length, 2);
  let sum = 0;
  for (let at = 0; at < 20; at += 2) sum += ip.readUInt16BE(at);
  ip.writeUInt16BE(~((sum & 0xffff) + (sum >>> 16)) & 0xffff, 10);
  let pseudo = 6 + tcp.length + payload.length;
  for (let at = 12; at < 20; at += 2) pseudo += ip.readUInt16BE(at);
  tcp.writeUInt16BE((pseudo & 0xffff) + (pseudo >>> 16), 16);
  // NEEDS_CSUM, TCPv4, 54 bytes of headers, segments of 1,000, checksum at 34 + 16.
  const vnet = Buffer.from('01013600e80322001000', 'hex');
  const ethernet = Buffer.from(`${GUEST_MAC}${CLIENT_MAC}0800`, 'hex');
  return Buffer.concat([vnet, ethernet, ip, tcp, payload]);
}

function ip(command: string): void {
  execFileSync('ip', command.split(' '), { stdio: 'pipe' });
}

/** Lets the event loop turn until the condition holds; the process's deadline bounds it. */
async function waitFor(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

function tapExists(): boolean {
  try {
    ip('link show dev colo0');
    return true;
  } catch {
    return false;
  }
}

const SCENARIOS: Record<string, (lab: Lab) => Promise<Observation>> = {
  async relay(lab) {
    const mirrored = new Ear();
    const emitted = new Ear();
    lab.nic.onInbound = (batch) => mirrored.hear(batch);
    lab.nic.onOutput = (batch) => {
      emitted.hear(batch);
      return false;
    };
    lab.nic.open();
    lab.guestSays('hello', 'world');
    const client = await lab.clientEar.until(2);
    lab.clientSays('a', 'b', 'c');
    const guest = await lab.guestEar.until(3);
    return { client, guest, mirrored: mirrored.heard, emitted: emitted.heard };
  },

  async hold(lab) {
    lab.nic.hold(1);
    lab.guestSays('first', 'second');
    lab.nic.drain();
    lab.nic.closeEpoch(1);
    lab.guestSays('third');
    lab.nic.drain();
    const heldBefore = lab.nic.stats.heldFrames;
    const beforeCommit = [...lab.clientEar.heard];
    lab.nic.release(1);
    const afterCommit = await lab.clientEar.until(2);
    const heldAfter = lab.nic.stats.heldFrames;
    lab.nic.closeEpoch(2);
    lab.nic.release(2);
    return { beforeCommit, afterCommit, end: await lab.clientEar.until(3), heldBefore, heldAfter };
  },

  async drain(lab) {
    lab.nic.hold(1);
    const names = Array.from({ length: 200 }, (_, index) => String(index));
    const counts: number[] = [];
    for (let round = 0; round < 20; round++) {
      lab.guestSays(...names);
      lab.nic.drain();
      counts.push(lab.nic.stats.outputFrames);
    }
    return { counts };
  },

  async silent(lab) {
    lab.guestSays('unheard');
    lab.clientSays('too early');
    await waitFor(() => lab.nic.stats.inboundSilentFrames === 1);
    lab.nic.drain();
    lab.nic.inject(encodeBatch([frame(CLIENT_MAC, 'mirrored')]));
    const guest = await lab.guestEar.until(1);
    const { droppedFrames, inboundSilentFrames } = lab.nic.stats;
    lab.nic.open();
    lab.guestSays('heard');
    const client = await lab.clientEar.until(1);
    return { guest, client, droppedFrames, inboundSilentFrames };
  },

  async pause(lab) {
    lab.nic.open();
    lab.nic.pauseInbound();
    lab.clientSays('waits');
    // Were the TAP still read, the frame would be here after a few turns.
    let turns = 0;
    await waitFor(() => ++turns > 20);
    const during = [...lab.guestEar.heard];
    lab.nic.resumeInbound();
    return { during, after: await lab.guestEar.until(1) };
  },

  async kernelQueue(lab) {
    lab.nic.open();
    lab.nic.pauseInbound();
    const count = 3000;
    for (let index = 0; index < count; index++) lab.clientSays(String(index));
    const dropped = await lab.nic.kernelDroppedFrames();
    lab.nic.resumeInbound();
    const heard = await lab.guestEar.until(count - dropped);
    return { dropped, sum: heard.length + dropped, last: heard.at(-1) };
  },

  /** What a guest may write into QEMU's transmit queue, and no network would carry. */
  async malformed(lab) {
    lab.nic.open();
    const good = frame(GUEST_MAC, 'good');
    const cutToNothing = Buffer.from(good);
    cutToNothing.writeUInt8(1, 1); // TCP segments of 0 bytes
    const sumOutside = Buffer.from(good);
    sumOutside.writeUInt8(1, 0); // a checksum that is finished beyond the end
    sumOutside.writeUInt16LE(60_000, 6);
    const unknown = Buffer.from(good);
    unknown.writeUInt8(0x7f, 1);
    const tooLong = Buffer.alloc(70_000);
    const bad = [cutToNothing, sumOutside, unknown, tooLong, Buffer.alloc(3), Buffer.alloc(10)];
    lab.guest.writeBatch(encodeBatch(bad), 0);
    lab.guestSays('good');
    const client = await lab.clientEar.until(1);
    const { lanDroppedFrames, outputFrames } = lab.nic.stats;
    return { client, lanDroppedFrames, outputFrames, logged: lab.logged };
  },

  async lease(lab) {
    lab.nic.open();
    let told = 0;
    lab.nic.onLeaseOver = () => {
      told += 1;
    };
    lab.lease.extend(bootTimeUs() + 60_000_000);
    lab.guestSays('in time');
    await lab.clientEar.until(1);
    lab.lease.extend(bootTimeUs());
    lab.guestSays('late', 'later');
    await waitFor(() => lab.nic.stats.leaseDroppedFrames === 2);
    // An extension that comes too late is none: somebody has to decide to go on.
    lab.lease.extend(bootTimeUs() + 60_000_000);
    lab.guestSays('too late');
    await waitFor(() => lab.nic.stats.leaseDroppedFrames === 3);
    lab.lease.arm(bootTimeUs() + 60_000_000);
    lab.guestSays('again');
    return { client: await lab.clientEar.until(2), told, logged: lab.logged };
  },

  /** Stopped with output on its way, and continued when the lease is over. */
  async stopped(lab) {
    lab.nic.open();
    const frames = Array.from({ length: 100 }, (_, index) => `late ${index}`);
    lab.guestSays('in time');
    await lab.clientEar.until(1);
    lab.lease.extend(bootTimeUs() + 300_000);
    // Again and again, for one that comes before the stop is lost.
    const script = `while sleep 0.6; do kill -CONT ${process.pid}; done`;
    const helper = spawn('sh', ['-c', script], { stdio: 'ignore' });
    lab.guestSays(...frames);
    process.kill(process.pid, 'SIGSTOP');
    await waitFor(() => lab.nic.stats.leaseDroppedFrames === frames.length);
    helper.kill();
    return { client: await lab.clientEar.until(1) };
  },

  /** Stopped between its look at the lease and the write, as it were. */
  async late(lab) {
    if (lab.deadline === undefined) return { skipped: 'BPF is not allowed here' };
    lab.nic.open();
    lab.guestSays('in time');
    await lab.clientEar.until(1);
    lab.looks = false;
    lab.lease.revoke();
    lab.guestSays('late', 'later');
    lab.guest.writeBatch(encodeBatch([superFrame()]), 0);
    await waitFor(() => lab.nic.stats.leaseDroppedFrames === 3);
    lab.lease.arm(bootTimeUs() + 60_000_000);
    lab.guestSays('again');
    return { client: await lab.clientEar.until(2), logged: lab.logged };
  },

  async end(lab) {
    lab.nic.open();
    lab.guestSays('last words');
    lab.guest.close();
    lab.nic.closeQemuFds();
    const client = await lab.clientEar.until(1);
    await waitFor(() => lab.logged.length > 0);
    lab.nic.inject(encodeBatch([frame(CLIENT_MAC, 'to nobody')]));
    return { client, inboundDroppedFrames: lab.nic.stats.inboundDroppedFrames, logged: lab.logged };
  },

  async quiesce(lab) {
    lab.nic.open();
    lab.guest.pauseReading();
    lab.clientSays('unread');
    await waitFor(() => lab.nic.stats.inboundFrames === 1);
    const whileUnread = await lab.nic.quiesceInbound(20);
    lab.clientSays('waits');
    lab.guest.resumeReading();
    const onceRead = await lab.nic.quiesceInbound(10_000);
    const during = [...lab.guestEar.heard];
    lab.nic.resumeInbound();
    return { whileUnread, onceRead, during, after: await lab.guestEar.until(2) };
  },

  async offload(lab) {
    lab.nic.open();
    const taken = async (): Promise<Observation> => {
      const heard: Buffer[] = [];
      let bytes = 0;
      lab.guest.onReadable(() => {
        forEachFrame(lab.guest.readBatch() ?? Buffer.alloc(0), (each) => {
          // Without hdr_len, which is a hint that the kernel makes anew.
          heard.push(Buffer.concat([each.subarray(0, 2), each.subarray(4, VNET_HEADER_BYTES)]));
          bytes += each.length;
        });
      });
      lab.client.writeBatch(encodeBatch([superFrame()]), 0);
      await waitFor(() => bytes - heard.length * (VNET_HEADER_BYTES + 54) >= 3500);
      const headers = [...new Set(heard.map((header) => header.toString('hex')))];
      return { frames: heard.length, bytes, headers };
    };
    const before = await taken();
    const driver = new PacketDevice('the driver', lab.nic.qemuFds.offload);
    const tell = async (flags: number): Promise<void> => {
      const told = lab.debugged.length;
      driver.writeBatch(Buffer.of(0, 0, 0, 4, flags, 0, 0, 0), 0);
      await waitFor(() => lab.debugged.length > told);
    };
    await tell(1 + 2);
    const whole = await taken();
    // TCP segments without checksums.
    await tell(2);
    return { before, taken: whole, nonsense: await taken(), logged: lab.logged };
  },

  async guestNotReading(lab) {
    lab.guest.pauseReading();
    const batch = encodeBatch(Array.from({ length: 64 }, () => Buffer.alloc(1500, 1)));
    let largestQueue = 0;
    let refused = 0;
    let left = 200;
    const inject = (): void => {
      for (; left > 0 && lab.nic.inject(batch); left--) {
        largestQueue = Math.max(largestQueue, lab.nic.stats.guestQueueBytes);
      }
      if (left > 0) refused++;
    };
    lab.nic.onGuestReady = inject;
    inject();
    let readFrames = 0;
    const count = (): void => {
      readFrames += countFrames(lab.guest.readBatch() ?? Buffer.alloc(0));
    };
    lab.guest.onReadable(count);
    lab.guest.resumeReading();
    await waitFor(() => left === 0 && readFrames >= lab.nic.stats.inboundFrames);
    return { largestQueue, refused, readFrames };
  },

  async backPressure(lab) {
    lab.nic.hold(1);
    const frames = 1600;
    const batch = encodeBatch(Array.from({ length: frames }, () => Buffer.alloc(60_000, 2)));
    let at = 0;
    let waits = 0;
    const write = (): void => {
      const { end, result } = lab.guest.writeBatch(batch, at);
      at = end;
      if (result !== 'full') return;
      waits++;
      lab.guest.onceWritable(write);
    };
    write();
    await waitFor(() => lab.nic.stats.heldBytes >= HELD_BYTES_HARD);
    // Were the socket still read, every turn would bring in more.
    let turns = 0;
    await waitFor(() => ++turns > 200);
    const { heldBytes, overBound } = lab.nic.stats;
    const waitedBefore = waits;
    lab.nic.closeEpoch(1);
    lab.nic.release(1);
    await waitFor(() => lab.nic.stats.outputFrames === frames);
    const { outputFrames } = lab.nic.stats;
    return { heldBytes, overBound, outputFrames, waited: waitedBefore > 0 };
  },

  async tapDeleted(lab) {
    lab.nic.open();
    ip('link del colo0');
    lab.guestSays('into', 'the', 'void');
    await waitFor(() => lab.nic.stats.lanDroppedFrames === 3);
    return { logged: lab.logged };
  },

  async linkDown(lab) {
    lab.nic.open();
    ip('link set colo0 down');
    lab.guestSays('lost');
    await waitFor(() => lab.nic.stats.lanDroppedFrames === 1);
    ip('link set colo0 up');
    lab.guestSays('found');
    return { client: await lab.clientEar.until(1), logged: lab.logged };
  },

  async announce(lab) {
    lab.nic.announce();
    const whileSilent = lab.nic.stats.announcementsSent;
    lab.guestSays('my mac');
    lab.nic.drain();
    lab.nic.open();
    lab.nic.announce();
    await waitFor(() => lab.nic.stats.announcementsSent === 5);
    lab.nic.announce();
    lab.nic.silence();
    return { whileSilent, sent: lab.nic.stats.announcementsSent };
  },

  /** A QEMU without a system, whose NIC announces itself. */
  async qemu(lab) {
    const emitted: Buffer[] = [];
    lab.nic.onOutput = (batch) => {
      forEachFrame(batch, (each) => emitted.push(each));
      return false;
    };
    lab.nic.hold(1);
    const { frames, offload } = lab.nic.qemuFds;
    const qemu = spawn(
      'qemu-system-x86_64',
      [
        ['-nodefaults', '-display', 'none', '-accel', 'tcg', '-m', '16', '-qmp', 'stdio'],
        ['-netdev', 'tap,id=n0,fd=3'],
        ['-device', `virtio-net-pci,netdev=n0,mac=${GUEST_MAC.replace(/..(?!$)/g, '$&:')}`],
      ].flat(),
      {
        stdio: ['pipe', 'ignore', 'inherit', frames, offload],
        env: { ...process.env, LD_PRELOAD: PRELOAD, COLO_NIC_FDS: '3 1' },
      },
    );
    try {
      const rounds = { initial: 10, max: 10, rounds: 2, step: 0 };
      qemu.stdin?.write('{"execute":"qmp_capabilities"}');
      qemu.stdin?.write(JSON.stringify({ execute: 'announce-self', arguments: rounds }));
      await waitFor(() => emitted.length >= 2);
    } finally {
      qemu.kill('SIGKILL');
    }
    const ours = encodeAnnouncement(lab.nic.addresses.announceable());
    const { heldFrames } = lab.nic.stats;
    return { sameAsOurs: encodeBatch(emitted.slice(0, 1)).equals(ours), heldFrames };
  },

  async stop(lab) {
    const before = tapExists();
    lab.nic.stop();
    lab.nic.stop();
    return { before, after: tapExists() };
  },

  async startErrors() {
    const messages: string[] = [];
    const base = { index: 1, log: SILENT_LOG };
    for (const options of [
      { ...base, tapName: 'colo0' },
      { ...base, tapName: 'a name with spaces' },
      { ...base, tapName: 'colo1', bridge: 'br9' },
      { ...base, tapName: 'colo1', bridge: 'lan0' },
    ]) {
      await new Nic(options).start().catch((error: Error) => messages.push(error.message));
    }
    const again = new Nic({ ...base, tapName: 'colo1' });
    await again.start();
    again.stop();
    return { messages };
  },
};

async function main(): Promise<void> {
  const scenario = SCENARIOS[process.argv[2] ?? ''];
  if (scenario === undefined) throw new Error(`No scenario ${process.argv[2]}`);
  // The first process of a PID namespace can't be stopped from inside.
  if (process.argv[2] === 'stopped' && process.pid === 1) {
    const child = spawnSync(process.execPath, process.argv.slice(1), { stdio: 'inherit' });
    process.exit(child.status ?? 1);
  }
  const deadline = setTimeout(() => {
    process.stderr.write(`Nothing after ${DEADLINE_MS} ms\n`);
    process.exit(1);
  }, DEADLINE_MS);
  const lab = new Lab();
  try {
    await lab.up();
    const observed = await scenario(lab);
    process.stdout.write(`${JSON.stringify(observed)}\n`);
  } finally {
    await lab.down();
    clearTimeout(deadline);
  }
}

await main();
