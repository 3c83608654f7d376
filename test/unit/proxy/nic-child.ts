/**
 * Runs one scenario of a `Nic` on a real TAP in a real bridge, in the network namespace it was
 * started in, and prints what was observed as one line of JSON. Namespace (`unshare --net`) and
 * directory are the caller's, so whatever happens here, nothing stays behind.
 * Arguments: scenario, directory.
 *
 *     client (TAP lan0) -- bridge br0 -- TAP colo0 -- Nic -- unix socket -- guest (a plain socket)
 */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { join } from 'node:path';
import type { Logger } from '../../../src/lib/index.js';
import { openTap, type Tap } from '../../../src/linux/index.js';
import {
  BatchDecoder,
  encodeAnnouncement,
  encodeBatch,
  forEachFrame,
  Nic,
} from '../../../src/proxy/index.js';
import { HELD_BYTES_HARD } from '../../../src/proxy/limits.js';
import { attachToBridge, bringUp } from '../../../src/proxy/link-shell.js';

const DEADLINE_MS = 20_000;
/** IEEE 802 local experimental EtherType: nobody else in the namespace sends it. */
const ETHERTYPE = 0x88b5;
const GUEST_MAC = '525400123456';
const CLIENT_MAC = '5254000000c1';

const SILENT_LOG: Logger = { debug() {}, info() {}, warn() {}, error() {} };

type Observation = Record<string, unknown>;

/** Names of our frames in the order of arrival, and a way to wait for them. */
class Ear {
  readonly heard: string[] = [];
  #waiting: (() => void)[] = [];

  hear(frame: Buffer): void {
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
  readonly directory = process.argv[3] ?? '.';
  readonly logged: string[] = [];
  readonly clientEar = new Ear();
  readonly guestEar = new Ear();
  readonly socketPath = join(this.directory, 'nic.sock');
  readonly nic = new Nic({
    index: 0,
    tapName: 'colo0',
    bridge: 'br0',
    socketPath: this.socketPath,
    mtu: 1500,
    log: this.#logger(),
  });
  client: Tap = openTap({ name: 'lan0' });
  guest!: Socket;

  async up(): Promise<void> {
    writeFileSync('/proc/sys/net/ipv6/conf/default/disable_ipv6', '1');
    ip('link add br0 type bridge forward_delay 0 mcast_snooping 0');
    ip('link set br0 up');
    await bringUp('lan0');
    await attachToBridge('lan0', 'br0');
    this.client.onReadable(() => {
      const batch = this.client.readBatch();
      if (batch !== undefined) forEachFrame(batch, (frame) => this.clientEar.hear(frame));
    });
    await this.nic.start();
    this.guest = await this.connectGuest();
  }

  async connectGuest(): Promise<Socket> {
    const guest = createConnection(this.socketPath);
    const decoder = new BatchDecoder();
    guest.on('error', () => {});
    guest.on('data', (chunk) => {
      for (const batch of decoder.write(chunk)) {
        forEachFrame(batch, (frame) => this.guestEar.hear(frame));
      }
    });
    await once(guest, 'connect');
    await waitFor(() => this.nic.stats.connected);
    return guest;
  }

  guestSays(...names: string[]): void {
    this.guest.write(encodeBatch(names.map((name) => frame(GUEST_MAC, name))));
  }

  clientSays(...names: string[]): void {
    for (const name of names) this.client.writeFrame(frame(CLIENT_MAC, name));
  }

  async down(): Promise<void> {
    await this.nic.stop();
    this.guest?.destroy();
    this.client.close();
  }

  #logger(): Logger {
    const write = (message: string) => this.logged.push(message);
    return { debug: write, info: write, warn: write, error: write };
  }
}

function frame(source: string, name: string): Buffer {
  const header = Buffer.from(`ffffffffffff${source}88b5`, 'hex');
  const named = Buffer.concat([header, Buffer.from([name.length]), Buffer.from(name)]);
  return Buffer.concat([named], Math.max(60, named.length));
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
    lab.nic.onInbound = (batch) => forEachFrame(batch, (each) => mirrored.hear(each));
    lab.nic.onOutput = (batch) => {
      forEachFrame(batch, (each) => emitted.hear(each));
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
    await lab.nic.drain();
    lab.nic.closeEpoch(1);
    lab.guestSays('third');
    await lab.nic.drain();
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
      await lab.nic.drain();
      counts.push(lab.nic.stats.outputFrames);
    }
    return { counts };
  },

  async silent(lab) {
    lab.guestSays('unheard');
    lab.clientSays('too early');
    await waitFor(() => lab.nic.stats.inboundSilentFrames === 1);
    await lab.nic.drain();
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
    await lab.nic.drain();
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

  async malformed(lab) {
    lab.nic.open();
    lab.guest.write(encodeBatch([Buffer.alloc(3)]));
    lab.guest.write(Buffer.alloc(4, 0xff));
    await once(lab.guest, 'close');
    await waitFor(() => !lab.nic.stats.connected);
    const { protocolErrors } = lab.nic.stats;
    lab.guest = await lab.connectGuest();
    lab.guestSays('back');
    return { protocolErrors, client: await lab.clientEar.until(1), logged: lab.logged };
  },

  async secondConnection(lab) {
    lab.nic.open();
    const second = createConnection(lab.socketPath);
    second.on('error', () => {});
    await once(second, 'close');
    lab.guestSays('still here');
    const { refusedConnections } = lab.nic.stats;
    return { refusedConnections, client: await lab.clientEar.until(1), logged: lab.logged };
  },

  async guestNotReading(lab) {
    lab.guest.pause();
    const batch = encodeBatch(Array.from({ length: 64 }, () => Buffer.alloc(1500, 1)));
    let largestQueue = 0;
    for (let count = 0; count < 200; count++) {
      lab.nic.inject(batch);
      largestQueue = Math.max(largestQueue, lab.nic.stats.guestQueueBytes);
    }
    const { inboundFrames, inboundDroppedFrames } = lab.nic.stats;
    return { largestQueue, inboundDroppedFrames, sum: inboundFrames + inboundDroppedFrames };
  },

  async backPressure(lab) {
    lab.nic.hold(1);
    const frames = 1600;
    lab.guest.write(encodeBatch(Array.from({ length: frames }, () => Buffer.alloc(60_000, 2))));
    await waitFor(() => lab.nic.stats.heldBytes >= HELD_BYTES_HARD);
    // Were the socket still read, every turn would bring in more.
    let turns = 0;
    await waitFor(() => ++turns > 200);
    const { heldBytes, overBound } = lab.nic.stats;
    lab.nic.closeEpoch(1);
    lab.nic.release(1);
    await waitFor(() => lab.nic.stats.outputFrames === frames);
    return { heldBytes, overBound, outputFrames: lab.nic.stats.outputFrames };
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
    await lab.nic.drain();
    lab.nic.open();
    lab.nic.announce();
    await waitFor(() => lab.nic.stats.announcementsSent === 5);
    lab.nic.announce();
    lab.nic.silence();
    return { whileSilent, sent: lab.nic.stats.announcementsSent };
  },

  /** A QEMU without a system, whose NIC announces itself. */
  async qemu(lab) {
    lab.guest.destroy();
    await waitFor(() => !lab.nic.stats.connected);
    const emitted: Buffer[] = [];
    lab.nic.onOutput = (batch) => {
      forEachFrame(batch, (each) => emitted.push(each));
      return false;
    };
    lab.nic.hold(1);
    const qemu = spawn(
      'qemu-system-x86_64',
      [
        ['-nodefaults', '-display', 'none', '-accel', 'tcg', '-m', '16', '-qmp', 'stdio'],
        ['-netdev', `stream,id=n0,server=off,addr.type=unix,addr.path=${lab.socketPath}`],
        ['-device', `virtio-net-pci,netdev=n0,mac=${GUEST_MAC.replace(/..(?!$)/g, '$&:')}`],
      ].flat(),
      { stdio: ['pipe', 'ignore', 'inherit'] },
    );
    try {
      await waitFor(() => lab.nic.stats.connected);
      const rounds = { initial: 10, max: 10, rounds: 2, step: 0 };
      qemu.stdin.write('{"execute":"qmp_capabilities"}');
      qemu.stdin.write(JSON.stringify({ execute: 'announce-self', arguments: rounds }));
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
    await Promise.all([lab.nic.stop(), lab.nic.stop()]);
    await lab.nic.stop();
    return { before, after: tapExists() };
  },

  async startErrors(lab) {
    const messages: string[] = [];
    const base = { index: 1, log: SILENT_LOG, socketPath: join(lab.directory, 'other.sock') };
    const occupied = join(lab.directory, 'file');
    writeFileSync(occupied, '');
    for (const options of [
      { ...base, tapName: 'colo0' },
      { ...base, tapName: 'a name with spaces' },
      { ...base, tapName: 'colo1', bridge: 'br9' },
      { ...base, tapName: 'colo1', bridge: 'lan0' },
      { ...base, tapName: 'colo1', socketPath: occupied },
    ]) {
      await new Nic(options).start().catch((error: Error) => messages.push(error.message));
    }
    const again = new Nic({ ...base, tapName: 'colo1' });
    await again.start();
    await again.stop();
    return { messages: messages.map((message) => message.replace(lab.directory, 'DIR')) };
  },
};

async function main(): Promise<void> {
  const scenario = SCENARIOS[process.argv[2] ?? ''];
  if (scenario === undefined) throw new Error(`No scenario ${process.argv[2]}`);
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
