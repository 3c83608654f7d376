/**
 * Runs one scenario of guests' networks that take over from each other, in the network namespace it
 * was started in, and prints what was observed as one line of JSON. TAPs, bridge, NICs and roles
 * are real; guests and client say what the scenario tells them. Argument: scenario.
 *
 *     client (TAP lan0) -- bridge br0 -- TAP colo0, colo1, ... -- Network of each host -- its guest
 *                                        Network <- link -> Network
 */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import type { CaptureOptions } from '../../../src/config/index.js';
import { GuestNetwork } from '../../../src/guest/index.js';
import type { NetworkLink } from '../../../src/guest/network/guest-nic.js';
import { Network } from '../../../src/guest/network/network-shell.js';
import type { Logger } from '../../../src/lib/index.js';
import { openTap, PacketDevice } from '../../../src/linux/index.js';
import { encodeBatch, forEachFrame, VNET_HEADER_BYTES } from '../../../src/proxy/index.js';
import { attachToBridge, bringUp } from '../../../src/proxy/link-shell.js';
import { PROTOCOL_ICMP } from '../../../src/proxy/packet.js';
import { decodeNetwork, encodeFlowsKnown, MessageType } from '../../../src/replication/index.js';
import {
  connectSession,
  type Frame,
  INSTANCE_BYTES,
  PeerListener,
  type Session,
} from '../../../src/transport/index.js';
import {
  ACK,
  FLOW_V4,
  type Flow,
  type Numbers,
  numbersOf,
  PSH,
  type Segment,
  SYN,
  tcpFrame,
  timestamps,
  transportChecksumValid,
} from '../../support/packets.js';

const DEADLINE_MS = 20_000;
const FLOW: Flow = { ...FLOW_V4, vnetBytes: VNET_HEADER_BYTES };
const LOG: Logger = { debug() {}, info() {}, warn() {}, error() {} };

/** Whom a connection begins with: an ISN and the TSval that goes with it. */
const A = { isn: 0xffff_ff00, clock: 700_000 };
const B = { isn: 0x1000_0000, clock: 300_000 };
const CLIENT = { isn: 5000, clock: 90 };
const MSS = Buffer.from('020405b4', 'hex');

const CAPTURE: CaptureOptions = { nic: 0, dir: '/nowhere', bytesMax: 1, durationUs: 1 };

/** Both ends of a session's network link; what is sent arrives in a later turn, in order. */
class LinkEnd implements NetworkLink {
  readonly writable = true;
  readonly roundTripUs = 0;
  peer: LinkEnd | undefined;
  /** Messages of this type are under way until `letGo`. */
  delays: number | undefined;
  readonly delayed: Frame[] = [];
  #handler: ((frame: Frame) => void) | undefined;

  send(type: number, parts: readonly Buffer[]): void {
    const frame = { type, payload: Buffer.concat(parts) };
    setImmediate(() => this.peer?.take(frame));
  }

  take(frame: Frame): void {
    if (frame.type === this.delays) this.delayed.push(frame);
    else this.#handler?.(frame);
  }

  letGo(): void {
    for (const frame of this.delayed.splice(0)) this.#handler?.(frame);
  }

  drained(): Promise<void> {
    return Promise.resolve();
  }

  onFrame(handler: ((frame: Frame) => void) | undefined): void {
    this.#handler = handler;
  }
}

/**
 * Hears the flow's segments on one device, and lets a scenario wait for them. What wakes a connection
 * after a failover is kept apart: errors, and to the guest a keep-alive.
 */
class Ear {
  readonly heard: Numbers[] = [];
  readonly errors: Buffer[] = [];
  readonly keepAlives: Numbers[] = [];
  #check: (() => void) | undefined;

  constructor(device: PacketDevice, fromGuest: boolean) {
    device.onReadable(() => {
      const batch = device.readBatch();
      if (batch === undefined) return;
      forEachFrame(batch, (frame) => this.#hear(frame, fromGuest));
    });
  }

  #hear(frame: Buffer, fromGuest: boolean): void {
    // What the host itself says on the bridge is nobody's.
    if (frame.length < 60 || frame.readUInt16BE(VNET_HEADER_BYTES + 12) !== 0x0800) return;
    if (!transportChecksumValid(FLOW, frame)) throw new Error('A checksum is wrong');
    if (frame.readUInt8(VNET_HEADER_BYTES + 23) === PROTOCOL_ICMP) this.errors.push(frame);
    else this.#hearSegment(numbersOf(FLOW, frame, fromGuest), fromGuest);
    this.#check?.();
  }

  #hearSegment(segment: Numbers, fromGuest: boolean): void {
    // No scenario's client is heard without payload once the connection stands.
    const isKeepAlive = !fromGuest && segment.payload.length === 0 && segment.flags === ACK;
    (isKeepAlive ? this.keepAlives : this.heard).push(segment);
  }

  /** Resolves once `count` segments were heard in all; to the last of them. */
  async nth(count: number): Promise<Numbers> {
    while (this.heard.length < count) {
      await new Promise<void>((resolve) => {
        this.#check = resolve;
      });
    }
    return this.heard[count - 1] as Numbers;
  }
}

class Host {
  readonly network: Network;
  readonly asked: string[] = [];
  guest!: PacketDevice;
  ear!: Ear;

  constructor(index: number, live: boolean) {
    this.network = new Network({
      nics: [{ tapName: `colo${index}`, bridge: 'br0' }],
      // Nothing in a scenario waits for it.
      compareTimeoutUs: 3_600_000_000,
      live,
      log: LOG,
      onCheckpointNeeded: (reason) => this.asked.push(reason),
    });
  }

  async start(): Promise<void> {
    const [fds] = await this.network.start();
    if (fds === undefined) throw new Error('No port');
    this.guest = new PacketDevice('the guest', fds.frames);
    this.ear = new Ear(this.guest, false);
  }

  says(segment: Segment, flow = FLOW): void {
    say(this.guest, segment, flow);
  }

  stop(): void {
    // The same descriptor as the network's: closed here first.
    this.guest.close();
    this.network.stop();
  }
}

class Lab {
  readonly hosts: Host[] = [];
  readonly client = openTap({ name: 'lan0' });
  clientEar!: Ear;

  async up(): Promise<void> {
    writeFileSync('/proc/sys/net/ipv6/conf/default/disable_ipv6', '1');
    ip('link add br0 type bridge forward_delay 0 mcast_snooping 0');
    ip('link set br0 up');
    await bringUp('lan0');
    await attachToBridge('lan0', 'br0');
    this.clientEar = new Ear(this.client, true);
  }

  async host(live: boolean): Promise<Host> {
    const host = new Host(this.hosts.length, live);
    this.hosts.push(host);
    await host.start();
    return host;
  }

  clientSays(segment: Segment): void {
    this.client.writeBatch(encodeBatch([tcpFrame(FLOW, false, segment)]), 0);
  }

  /** What the failover to `host` has said to the guest there, and the client's number it quoted. */
  async woken(host: Host): Promise<{ guest: unknown; quoted: number[] }> {
    await waitFor(() => host.ear.keepAlives.length > 0);
    const guest = host.ear.keepAlives.map(heard);
    // Behind the headers of Ethernet, IP and ICMP: IP again, then ports and sequence number.
    const quotedAt = VNET_HEADER_BYTES + 14 + 20 + 8 + 20 + 4;
    const errors = this.clientEar.errors.splice(0);
    return { guest, quoted: errors.map((frame) => frame.readUInt32BE(quotedAt)) };
  }

  down(): void {
    for (const host of this.hosts) host.stop();
    this.client.close();
  }
}

function say(guest: PacketDevice, segment: Segment, flow = FLOW): void {
  guest.writeBatch(encodeBatch([tcpFrame(flow, true, segment)]), 0);
}

function ip(command: string): void {
  execFileSync('ip', command.split(' '), { stdio: 'pipe' });
}

/** Lets the event loop turn until the condition holds; the process's deadline bounds it. */
async function waitFor(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

/** What was sent has arrived. */
function linkTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
}

/** The two ends of the session's link: the source's, the target's. */
function connect(source: Host, target: Host, epoch: number): [LinkEnd, LinkEnd] {
  const [one, other] = [new LinkEnd(), new LinkEnd()];
  one.peer = other;
  other.peer = one;
  target.network.attach(other, { role: 'target' });
  source.network.attach(one, { role: 'source', epoch });
  return [one, other];
}

/** A checkpoint at the end of `epoch`, without the guests: they are what the scenario says. */
async function checkpoint(source: Host, target: Host, epoch: number): Promise<void> {
  await source.network.quiesce();
  source.network.drain();
  source.network.source.edge(epoch, { exact: true, compares: true });
  source.network.source.resume();
  source.network.source.release(epoch);
  await linkTurn();
  await target.network.quiesce();
  target.network.drain();
  target.network.target.committed(epoch);
  target.network.target.rewind();
  target.network.target.run(epoch + 1);
  source.network.source.startCompare(epoch + 1);
}

function failOver(from: Host, to: Host): void {
  from.stop();
  to.network.detach();
  to.network.promote();
  to.network.goLive({ announce: false });
}

/** A network in its thread, with a guest that a scenario speaks for. */
class ThreadedHost {
  readonly network = new GuestNetwork({
    log: LOG,
    onCheckpointNeeded() {},
    onFailure: (error) => {
      throw error;
    },
  });
  guest!: PacketDevice;
  ear!: Ear;

  async start(tapName: string, live: boolean): Promise<void> {
    const nics = [{ tapName, bridge: 'br0' }];
    const compareTimeoutUs = 3_600_000_000;
    const [fds] = await this.network.start({ nics, compareTimeoutUs, live });
    if (fds === undefined) throw new Error('No port');
    this.guest = new PacketDevice('the guest', fds.frames);
    this.ear = new Ear(this.guest, false);
  }

  says(segment: Segment): void {
    say(this.guest, segment);
  }

  async stop(): Promise<void> {
    this.guest.close();
    await this.network.stop();
  }
}

/** A session over loopback, attached on both sides; both ends of it. */
async function connectThreads(
  source: ThreadedHost,
  target: ThreadedHost,
  epoch: number,
): Promise<Session[]> {
  const accepted: Session[] = [];
  const listener = new PeerListener({
    log: LOG,
    instance: Buffer.alloc(INSTANCE_BYTES),
    accept: () => ({ ok: true }),
    onSession: (session) => accepted.push(session),
  });
  const host = '127.0.0.1';
  const port = await listener.listen({ host, port: 0 });
  const near = await connectSession({ host, port, timeoutMs: DEADLINE_MS, log: LOG });
  await waitFor(() => accepted.length === 1);
  listener.close();
  const [far] = accepted as [Session];
  await target.network.attach(far, { role: 'target' });
  await source.network.attach(near, { role: 'source', epoch });
  return [near, far];
}

/** What a guest says on the connection `position` bytes after its ISN. */
function said(from: typeof A, position: number, payload: string, ack: number): Segment {
  return {
    seq: (from.isn + position) >>> 0,
    ack: CLIENT.isn + ack,
    flags: ACK | PSH,
    options: timestamps((from.clock + position) >>> 0, CLIENT.clock),
    payload: Buffer.from(payload),
  };
}

function synAck({ isn, clock }: typeof A): Segment {
  const options = Buffer.concat([MSS, timestamps(clock, CLIENT.clock)]);
  return { seq: isn, ack: CLIENT.isn + 1, flags: SYN | ACK, options };
}

/** Both guests answer a client on a port of its own, and the source's end has been told. */
async function openBoth(a: Host, b: Host, link: LinkEnd, remotePort: number): Promise<void> {
  const flow = { ...FLOW, remotePort };
  const count = link.delayed.length + 1;
  a.says(synAck(A), flow);
  b.says(synAck(B), flow);
  await waitFor(() => link.delayed.length === count);
}

function heard({ seq, ack, value, echo, payload }: Numbers) {
  return { seq, ack, value, echo, text: payload.toString() };
}

const SCENARIOS: Record<string, (lab: Lab) => Promise<unknown>> = {
  /** A connection on three hosts: opened on the first, confirmed and held on the second. */
  async generations(lab) {
    const a = await lab.host(true);
    const b = await lab.host(false);
    connect(a, b, 1);
    await checkpoint(a, b, 1);
    const options = Buffer.concat([MSS, timestamps(CLIENT.clock, 0)]);
    lab.clientSays({ seq: CLIENT.isn, flags: SYN, options });
    await Promise.all([a.ear.nth(1), b.ear.nth(1)]);
    a.says(synAck(A));
    b.says(synAck(B));
    const opened = heard(await lab.clientEar.nth(1));
    lab.clientSays(request('one', { position: 1, acknowledges: 1, echo: opened.value }));
    const first = { a: heard(await a.ear.nth(2)), b: heard(await b.ear.nth(2)) };

    failOver(a, b);
    // What the SVM had said is said again.
    const again = heard(await lab.clientEar.nth(2));
    b.says(said(B, 1, 'first', 4));
    const afterOne = heard(await lab.clientEar.nth(3));
    const wokenOnce = await lab.woken(b);

    const c = await lab.host(false);
    connect(b, c, 3);
    await checkpoint(b, c, 3);
    lab.clientSays(request('two', { position: 4, acknowledges: 6, echo: afterOne.value }));
    const second = { b: heard(await b.ear.nth(3)), c: heard(await c.ear.nth(1)) };
    b.says(said(B, 6, 'second', 7));
    c.says(said(B, 6, 'second', 7));
    const confirmed = heard(await lab.clientEar.nth(4));

    // The other guest does not say this: it waits for the checkpoint, and for its commit.
    b.says(said(B, 12, 'third', 7));
    await waitFor(() => b.network.stats.nics[0]?.heldFrames === 1);
    const whileHeld = lab.clientEar.heard.length;
    await checkpoint(b, c, 4);
    const released = heard(await lab.clientEar.nth(5));

    failOver(b, c);
    c.says(said(B, 17, 'fourth', 7));
    const afterTwo = heard(await lab.clientEar.nth(6));
    const wokenTwice = await lab.woken(c);
    lab.clientSays(request('six', { position: 7, acknowledges: 23, echo: afterTwo.value }));
    const last = heard(await c.ear.nth(2));
    const asked = [...a.asked, ...b.asked, ...c.asked];
    return {
      ...{ opened, first, again, afterOne, second, confirmed, whileHeld, released, afterTwo, last },
      ...{ asked, clientFrames: lab.clientEar.heard.length, wokenOnce, wokenTwice },
    };
  },

  /** New connections of which the secondary's word is under way. */
  async openings(lab) {
    const a = await lab.host(true);
    const b = await lab.host(false);
    const [link] = connect(a, b, 1);
    link.delays = MessageType.flowsKnown;
    await checkpoint(a, b, 1);
    const texts = (): string[] => {
      return lab.clientEar.heard.map(({ seq, payload }) => payload.toString() || `SYN ${seq}`);
    };
    const held = (): number | undefined => a.network.stats.nics[0]?.heldFrames;
    await openBoth(a, b, link, 1);
    // Said later, and by connections that both know.
    for (const host of [a, b]) host.says(said(A, 1, 'other', 1), { ...FLOW, remotePort: 2 });
    await lab.clientEar.nth(1);
    const meanwhile = texts();
    link.letGo();
    await lab.clientEar.nth(2);

    await openBoth(a, b, link, 3);
    a.network.source.edge(2, { exact: true, compares: true });
    const atEdge = held();
    link.letGo();
    const afterEdge = held();
    a.network.source.release(2);
    await lab.clientEar.nth(3);
    await checkpoint(a, b, 3);

    const tooMany = describe(() => {
      const { type, parts } = encodeFlowsKnown(4, 0, 1);
      link.delays = undefined;
      link.take({ type, payload: Buffer.concat(parts) });
    });
    link.delays = MessageType.flowsKnown;
    await openBoth(a, b, link, 4);
    a.network.detach();
    link.letGo();
    const afterSession = held();
    a.network.source.open();
    await lab.clientEar.nth(4);
    return { meanwhile, atEdge, afterEdge, tooMany, afterSession, texts: texts(), asked: a.asked };
  },

  /** A host that dies before the other knows its new connection, and what the other is told. */
  async unknown(lab) {
    const a = await lab.host(true);
    const b = await lab.host(false);
    const [link, far] = connect(a, b, 1);
    await checkpoint(a, b, 1);
    // What comes in one read is told once.
    far.delays = MessageType.openedFlow;
    link.delays = MessageType.flowsKnown;
    for (const port of [1, 2]) await openBoth(a, b, far, port);
    far.letGo();
    await waitFor(() => link.delayed.length > 0);
    const told = link.delayed.map(({ type, payload }) => decodeNetwork(type, payload, 1));
    link.letGo();
    await lab.clientEar.nth(2);

    await openBoth(a, b, far, 3);
    failOver(a, b);
    far.letGo();
    await linkTurn();
    const afterwards = link.delayed.length;
    for (const port of [3, 1]) b.says(synAck(B), { ...FLOW, remotePort: port });
    // Of the first nobody knows; it is the guest's own. The second has been seen.
    // All three that the SVM had answered by then come first.
    await lab.clientEar.nth(7);
    const seen = lab.clientEar.heard.slice(2).map(({ seq }) => seq);
    return { told, afterwards, again: seen.slice(0, 3), seen: seen.slice(3) };
  },

  /** What was mirrored but not delivered when the host died, and a role that is not there. */
  async rest(lab) {
    const a = await lab.host(true);
    const b = await lab.host(false);
    connect(a, b, 1);
    const refused = describe(() => b.network.source.open());
    const early = describe(() => a.network.target.run(1));
    lab.clientSays(request('mirrored', { position: 1, acknowledges: 1, echo: 0 }));
    await a.ear.nth(1);
    await linkTurn();
    const before = b.ear.heard.length;
    failOver(a, b);
    const delivered = heard(await b.ear.nth(1)).text;
    b.says(said(A, 1, 'loud', 1));
    const spoken = heard(await lab.clientEar.nth(1)).text;
    b.network.source.silence();
    b.says(said(A, 5, 'silent', 1));
    await waitFor(() => b.network.stats.nics[0]?.droppedFrames === 1);
    return { refused, early, before, delivered, spoken, heard: lab.clientEar.heard.length };
  },

  /** The same change of role through the threads' doors, with links that go from hand to hand. */
  async threads(lab) {
    ip('link set lo up');
    const [a, b, c] = [new ThreadedHost(), new ThreadedHost(), new ThreadedHost()];
    await a.start('colo0', true);
    await b.start('colo1', false);
    const first = await connectThreads(a, b, 1);
    lab.clientSays(request('one', { position: 1, acknowledges: 1, echo: 500 }));
    const toA = heard(await a.ear.nth(1)).text;
    // The mark, the addresses, the input.
    await waitFor(() => (first[1]?.links.network.counters.framesReceived ?? 0) > 2);
    const refused = await b.network.capture(CAPTURE).catch((error: Error) => error.message);
    for (const session of first) session.destroy();
    await a.stop();
    b.network.detach();
    await b.network.promote('held');
    b.network.goLive({ announce: false });
    const toB = heard(await b.ear.nth(1)).text;
    // Behind what the client has seen: from here on the timestamps are translated.
    b.says({ seq: 1, ack: 2, flags: ACK, options: timestamps(400, 1) });
    await waitFor(() => b.network.stats.nics[0]?.heldFrames === 1);
    b.network.open();
    const raised = (await lab.clientEar.nth(1)).value;

    await c.start('colo2', false);
    const second = await connectThreads(b, c, 3);
    await b.network.quiesce();
    await b.network.drain();
    await b.network.edge(3, { exact: true, compares: true });
    b.network.resume();
    c.network.committed(3);
    c.network.rewind();
    await c.network.run(4);
    b.network.startCompare(4);
    lab.clientSays(request('two', { position: 4, acknowledges: 1, echo: raised }));
    const both = [heard(await b.ear.nth(2)), heard(await c.ear.nth(1))];
    for (const host of [b, c]) host.says({ seq: 2, flags: ACK, options: timestamps(410, 1) });
    const confirmed = (await lab.clientEar.nth(2)).value;
    await waitFor(() => b.network.stats.compare.confirmedFrames === 1);
    for (const session of second) session.destroy();
    await b.stop();
    c.network.detach();
    await c.network.promote();
    c.network.goLive({ announce: true });
    c.says({ seq: 2, ack: 2, flags: ACK, options: timestamps(420, 1) });
    const afterTwo = (await lab.clientEar.nth(3)).value;
    await c.stop();
    return { toA, refused, toB, raised, both, confirmed, afterTwo };
  },
};

/** What the client says, in the only numbers that it knows. */
function request(
  text: string,
  at: { position: number; acknowledges: number; echo: number | undefined },
): Segment {
  const { position, acknowledges, echo = 0 } = at;
  return {
    seq: CLIENT.isn + position,
    ack: (A.isn + acknowledges) >>> 0,
    flags: ACK | PSH,
    options: timestamps(CLIENT.clock + 1, echo),
    payload: Buffer.from(text),
  };
}

function describe(run: () => void): string {
  try {
    run();
    return '';
  } catch (error) {
    return (error as Error).message;
  }
}

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
    lab.down();
    clearTimeout(deadline);
  }
}

await main();
