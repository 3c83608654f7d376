/**
 * Runs one scenario of a nudge at Linux' own TCP, in the network namespace it was started in, and
 * prints what was observed as one line of JSON. The kernel is one end of a connection, over a TAP;
 * this process is the other one, and falls silent. Arguments: which end the kernel is (`remote` or
 * `guest`), IP version.
 *
 * Times are the kernel's own: the timestamps in its segments, in milliseconds.
 */
import { execFileSync } from 'node:child_process';
import { connect, createServer, type Socket } from 'node:net';
import { openTap } from '../../../src/linux/index.js';
import {
  encodeBatch,
  encodeNudge,
  forEachFrame,
  type RecentFlow,
  RecentFlows,
  VNET_HEADER_BYTES,
} from '../../../src/proxy/index.js';
import { PACKET_TCP, Packet } from '../../../src/proxy/packet.js';
import {
  ACK,
  FLOW_V4,
  FLOW_V6,
  type Flow,
  type Numbers,
  numbersOf,
  type Segment,
  SYN,
  tcpFrame,
  timestamps,
} from '../../support/packets.js';

const DEADLINE_MS = 40_000;
/** The first one, a probe after 0.2 s, and what follows after 0.2, 0.4 and 0.8 s. */
const TRANSMISSIONS = 5;
const MSS = Buffer.from('020405b4', 'hex');
const ISN = 9000;
const CLOCK = 500;
/** Longer than an answer takes on a busy machine: a second SYN is answered, too. */
const AGAIN_MS = 500;

const [kernel = '', version = ''] = process.argv.slice(2);
const kernelIsGuest = kernel === 'guest';
const flow: Flow = { ...(version === '4' ? FLOW_V4 : FLOW_V6), vnetBytes: VNET_HEADER_BYTES };

setTimeout(() => {
  console.error(`nothing after ${DEADLINE_MS} ms`);
  process.exit(1);
}, DEADLINE_MS).unref();

function textAddress(hex: string): string {
  if (hex.length === 8) return [...Buffer.from(hex, 'hex')].join('.');
  return (hex.match(/.{4}/g) ?? []).join(':');
}

function ip(command: string): void {
  execFileSync('ip', command.split(' '), { stdio: 'pipe' });
}

const guestIp = textAddress(flow.guestIp);
const remoteIp = textAddress(flow.remoteIp);
const [ownIp, otherIp] = kernelIsGuest ? [guestIp, remoteIp] : [remoteIp, guestIp];
const [guestMac, remoteMac] = ['52:54:00:00:00:01', '52:54:00:00:00:02'];
const [ownMac, otherMac] = kernelIsGuest ? [guestMac, remoteMac] : [remoteMac, guestMac];

const tap = openTap({ name: 'colo0' });
const recent = new RecentFlows();
/** The kernel's segments of the flow, and who waits for one. */
const heard: Numbers[] = [];
let check = (): void => undefined;
let remotePort = flow.remotePort;
const packet = new Packet();

function onFrame(frame: Buffer): void {
  packet.parse(frame, VNET_HEADER_BYTES, frame.length, kernelIsGuest);
  if (packet.kind !== PACKET_TCP) return;
  if (!kernelIsGuest) remotePort = (packet.key[2] as number) & 0xffff;
  heard.push(numbersOf(flow, frame, kernelIsGuest));
  check();
}

async function nth(wanted: (numbers: Numbers) => boolean, count: number): Promise<Numbers[]> {
  for (;;) {
    const found = heard.filter(wanted);
    if (found.length >= count) return found.slice(0, count);
    await new Promise<void>((resolve) => {
      check = resolve;
    });
  }
}

/** From the end that is not the kernel. */
function say(segment: Segment): void {
  const frame = tcpFrame({ ...flow, remotePort }, !kernelIsGuest, segment);
  const batch = encodeBatch([frame]);
  if (kernelIsGuest) recent.note(batch);
  tap.writeBatch(batch, 0);
}

/**
 * Again and again until it is answered: the kernel drops what comes before its address is ready,
 * which is the work of a thread of its own.
 */
async function sayUntil<T>(segment: Segment, answer: Promise<T>): Promise<T> {
  say(segment);
  const again = setInterval(() => say(segment), AGAIN_MS);
  try {
    return await answer;
  } finally {
    clearInterval(again);
  }
}

/** The kernel's connection, opened by itself or by this end; its first sequence number. */
async function established(): Promise<{ socket: Socket; first: number }> {
  const options = Buffer.concat([MSS, timestamps(CLOCK, 0)]);
  if (!kernelIsGuest) {
    const socket = connect({ host: otherIp, port: flow.guestPort });
    const [syn] = (await nth(({ flags }) => (flags & SYN) !== 0, 1)) as [Numbers];
    const first = syn.seq + 1;
    const echoing = Buffer.concat([MSS, timestamps(CLOCK, syn.value ?? 0)]);
    const confirmed = nth(({ flags }) => flags === ACK, 1);
    await sayUntil({ seq: ISN, ack: first, flags: SYN | ACK, options: echoing }, confirmed);
    return { socket, first };
  }
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(flow.guestPort, ownIp, resolve));
  const accepted = new Promise<Socket>((resolve) => server.once('connection', resolve));
  const answer = nth(({ flags }) => flags === (SYN | ACK), 1);
  const [synAck] = (await sayUntil({ seq: ISN, flags: SYN, options }, answer)) as [Numbers];
  const first = synAck.seq + 1;
  const echo = synAck.value ?? 0;
  say({ seq: ISN + 1, ack: first, flags: ACK, options: timestamps(CLOCK, echo) });
  return { socket: await accepted, first };
}

function onlyFlow(): RecentFlow {
  const flows = recent.flows();
  if (flows.length !== 1) throw new Error(`${flows.length} flows are known`);
  return flows[0] as RecentFlow;
}

ip(`link set colo0 address ${ownMac}`);
ip('link set colo0 up');
ip(
  `addr add ${ownIp}/${version === '4' ? '24' : '64'} dev colo0${version === '4' ? '' : ' nodad'}`,
);
ip(`neigh add ${otherIp} lladdr ${otherMac} dev colo0 nud permanent`);
tap.onReadable(() => {
  const batch = tap.readBatch();
  if (batch === undefined) return;
  // What it says from here on is lost with the primary, but what it is built on is known.
  if (!kernelIsGuest && heard.length < 2) recent.note(batch);
  forEachFrame(batch, onFrame);
});

const { socket, first } = await established();
socket.on('error', () => undefined);
socket.write('outstanding');
const carries = ({ payload }: Numbers): boolean => payload.length > 0;
const before = (await nth(carries, TRANSMISSIONS)).map(({ value }) => value ?? 0);
const pureBefore = heard.filter((numbers) => !carries(numbers)).length;
const nudge = encodeNudge(onlyFlow());
tap.writeBatch(kernelIsGuest ? nudge.toGuest : nudge.toRemote, 0);
const after = (await nth(carries, TRANSMISSIONS + 1)).map(({ value }) => value ?? 0);
const intervals = after.slice(1).map((value, at) => value - (after[at] as number));
const answer = heard.filter((numbers) => !carries(numbers))[pureBefore];
console.log(
  JSON.stringify({
    intervals,
    known: before.length,
    quoted: (onlyFlow()[kernelIsGuest ? 'acknowledged' : 'next'] - first) >>> 0,
    answered: answer === undefined ? null : { seq: answer.seq - first, ack: answer.ack - ISN },
  }),
);
process.exit(0);
