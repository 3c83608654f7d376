/**
 * Connections that outlive one host after the other: what their remote ends and each guest see over
 * several failovers, with and without a checkpoint in between.
 */
import test from 'ava';
import { seqAdd } from '../../../../src/lib/index.js';
import {
  decodeTranslations,
  encodeBatch,
  encodeTranslations,
  FlowRewriter,
  type TranslationRecord,
} from '../../../../src/proxy/index.js';
import {
  TIMESTAMP_MARGIN,
  TRANSLATION_IDLE_SWEEPS,
  TRANSLATION_WATCH_SWEEPS,
} from '../../../../src/proxy/limits.js';
import {
  ACK,
  FIN,
  FLOW_V4,
  FLOW_V6,
  type Flow,
  flowKey,
  icmpError,
  type Numbers,
  numbersOf,
  RST,
  type Segment,
  SYN,
  sack,
  tcpFrame,
  timestamps,
  transportChecksumValid,
} from '../../../support/packets.js';

interface Start {
  readonly isn: number;
  readonly timestamp: number;
}

/** Where three guests begin that each open the same connection. */
const [A, B, C] = [
  { isn: 0xffff_ff00, timestamp: 700_000 },
  { isn: 0x9000_0000, timestamp: 0xffff_fff0 },
  { isn: 0x7fff_fff0, timestamp: 500_123 },
] as const satisfies Start[];
const OTHER = { ...FLOW_V4, remotePort: 40_001 };

/** What crosses the link, through its bytes. */
function send(records: readonly TranslationRecord[], to: FlowRewriter): void {
  if (records.length === 0) return;
  for (const record of decodeTranslations(encodeTranslations(records))) to.keep(record);
}

/** A next secondary of the guest behind `source`. */
function rejoin(source: FlowRewriter, flow: Flow = FLOW_V4): FlowRewriter {
  const target = new FlowRewriter({ vnetBytes: flow.vnetBytes });
  send(source.records(), target);
  source.onChange = (record) => send([record], target);
  return target;
}

function open(rewriter: FlowRewriter, flow: Flow, primary: Start, secondary: Start): void {
  rewriter.open({
    key: flowKey(flow),
    primaryIsn: primary.isn,
    secondaryIsn: secondary.isn,
    timestamps: { primary: primary.timestamp, secondary: secondary.timestamp },
  });
}

/** B's host, on which a connection that A's guest has opened goes on. */
function afterFirstFailover(flow: Flow = FLOW_V4): FlowRewriter {
  const rewriter = new FlowRewriter({ vnetBytes: flow.vnetBytes });
  open(rewriter, flow, A, B);
  rewriter.takeOver([]);
  return rewriter;
}

function checked(flow: Flow, frame: Buffer, fromGuest: boolean): Numbers {
  if (!transportChecksumValid(flow, frame)) throw new Error('The checksum is wrong');
  return numbersOf(flow, frame, fromGuest);
}

function outbound(rewriter: FlowRewriter, flow: Flow, segment: Segment): Numbers {
  const batch = encodeBatch([tcpFrame(flow, true, segment)]);
  rewriter.outbound(batch);
  return checked(flow, batch.subarray(4), true);
}

function inbound(rewriter: FlowRewriter, flow: Flow, segment: Segment): Buffer {
  return rewriter.inbound(encodeBatch([tcpFrame(flow, false, segment)]));
}

/** What a guest says at `position` of a connection that its numbers begin with `from`. */
function said(from: Start, position: number, flags = ACK): Segment {
  const options = timestamps(seqAdd(from.timestamp, position), 9);
  return { seq: seqAdd(from.isn, position), ack: 77, flags, options };
}

for (const [name, flow] of [
  ['IPv4', FLOW_V4],
  ['IPv6 with a VLAN tag and a virtio header', { ...FLOW_V6, vlans: [9], vnetBytes: 10 }],
] as const) {
  test(`one space of numbers over two failovers with a checkpoint in between: ${name}`, (t) => {
    const b = afterFirstFailover(flow);
    const before = outbound(b, flow, said(B, 100));
    t.is(before.seq, seqAdd(A.isn, 100));
    const c = rejoin(b, flow);
    // A checkpoint: the guest at C's host counts as B does.
    c.forget();
    const client = {
      seq: 77,
      ack: seqAdd(A.isn, 120),
      flags: ACK,
      options: Buffer.concat([
        timestamps(3, before.value as number),
        sack(seqAdd(A.isn, 130), seqAdd(A.isn, 140)),
      ]),
    };
    const given = inbound(b, flow, client);
    const seen = checked(flow, given.subarray(4), false);
    t.is(seen.ack, seqAdd(B.isn, 120));
    t.deepEqual(seen.edges, [seqAdd(B.isn, 130), seqAdd(B.isn, 140)]);
    t.is(seen.echo, seqAdd(B.timestamp, 100));
    // What is mirrored is what the guest was given; nothing is left to be translated.
    t.is(c.mirrored(given), given);

    c.takeOver([given]);
    const after = outbound(c, flow, said(B, 150));
    t.is(after.seq, seqAdd(A.isn, 150));
    // The margin of each failover, and nothing else.
    t.is(after.value, seqAdd(A.timestamp, 150 + 2 * TIMESTAMP_MARGIN));
    const late = checked(flow, inbound(c, flow, client).subarray(4), false);
    t.deepEqual([late.ack, late.edges, late.echo], [seen.ack, seen.edges, seen.echo]);
    const quoted = { seq: seqAdd(A.isn, 150), ack: 1, flags: ACK };
    const error = c.inbound(encodeBatch([icmpError(flow, quoted)])).subarray(4);
    t.deepEqual(error, icmpError(flow, { ...quoted, seq: seqAdd(B.isn, 150) }));
  });

  test(`a connection of the last epoch beside one of the host before: ${name}`, (t) => {
    const newer = { ...flow, remotePort: 50_000 };
    const b = afterFirstFailover(flow);
    const c = rejoin(b, flow);
    c.forget();
    open(c, newer, B, C);
    const given = inbound(b, newer, { seq: 5, ack: seqAdd(B.isn, 1), flags: ACK });
    t.is(numbersOf(newer, c.mirrored(given).subarray(4), false).ack, seqAdd(C.isn, 1));
    c.takeOver([given]);
    t.is(outbound(c, newer, said(C, 9)).seq, seqAdd(B.isn, 9));
    t.is(outbound(c, flow, said(B, 9)).seq, seqAdd(A.isn, 9));
    const heard = inbound(c, newer, { seq: 5, ack: seqAdd(B.isn, 9), flags: ACK });
    t.is(numbersOf(newer, heard.subarray(4), false).ack, seqAdd(C.isn, 9));
    // And a third one: both are known there.
    const d = rejoin(c, flow);
    d.takeOver([]);
    t.is(outbound(d, newer, said(C, 10)).seq, seqAdd(B.isn, 10));
    t.is(outbound(d, flow, said(B, 10)).seq, seqAdd(A.isn, 10));
  });
}

test('offsets of a connection add up that is translated on both hosts', (t) => {
  // Its timestamps were set forward here; there it is opened anew before this one has forgotten it.
  const b = new FlowRewriter({ vnetBytes: 0 });
  const echo = { seq: 1, ack: 1, flags: ACK, options: timestamps(1, 5000) };
  b.takeOver([encodeBatch([tcpFrame(FLOW_V4, false, echo)])]);
  const raise = 5001 + TIMESTAMP_MARGIN - 4000;
  t.is(outbound(b, FLOW_V4, { ...echo, options: timestamps(4000, 1) }).value, 4000 + raise);
  const c = rejoin(b);
  open(c, FLOW_V4, { isn: 50, timestamp: 4100 }, { isn: 9, timestamp: 100 });
  // Mirrored in B's numbers: the remote end has seen 4200 + raise.
  const mirrored = { seq: 1, ack: 60, flags: ACK, options: timestamps(1, 4200) };
  const batch = encodeBatch([tcpFrame(FLOW_V4, false, mirrored)]);
  t.is(numbersOf(FLOW_V4, c.mirrored(batch).subarray(4), false).echo, 200);
  c.takeOver([batch]);
  const seen = outbound(c, FLOW_V4, { seq: 19, ack: 1, flags: ACK, options: timestamps(250, 1) });
  t.deepEqual([seen.seq, seen.value], [60, 4250 + raise + TIMESTAMP_MARGIN]);
});

test('a SYN that both guests repeat is still in the numbers of the first', (t) => {
  const c = rejoin(afterFirstFailover());
  open(c, FLOW_V4, B, B);
  c.takeOver([]);
  const seen = outbound(c, FLOW_V4, said(B, 0, SYN));
  t.deepEqual([seen.seq, seen.value], [A.isn, A.timestamp + TIMESTAMP_MARGIN]);
});

test('timestamps that one failover has set forward stay so after the next', (t) => {
  const b = new FlowRewriter({ vnetBytes: 0 });
  const echo = { seq: 1, ack: 1, flags: ACK, options: timestamps(1, 5000) };
  b.takeOver([encodeBatch([tcpFrame(FLOW_V4, false, echo)])]);
  const c = rejoin(b);
  t.is(c.counters.flows, 0);
  const raised = outbound(b, FLOW_V4, { ...echo, options: timestamps(4000, 1) }).value as number;
  t.is(raised, 5001 + TIMESTAMP_MARGIN);
  t.is(c.counters.flows, 1);
  c.takeOver([]);
  const next = outbound(c, FLOW_V4, { ...echo, options: timestamps(4001, 1) }).value;
  t.is(next, raised + 1 + TIMESTAMP_MARGIN);
});

test('the same ports again: the former translation ends before the SYN leaves, everywhere', (t) => {
  for (const flags of [SYN, SYN | ACK]) {
    const b = afterFirstFailover();
    const c = rejoin(b);
    t.is(c.counters.flows, 1);
    t.is(outbound(b, FLOW_V4, { seq: 12, ack: 4, flags }).seq, 12);
    t.deepEqual([b.counters.flows, c.counters.flows], [0, 0]);
  }
});

test('the same ports again, opened by both guests, but the host died before it said so', (t) => {
  const c = rejoin(afterFirstFailover());
  open(c, FLOW_V4, { isn: 4000, timestamp: 10 }, { isn: 100, timestamp: 7 });
  c.takeOver([]);
  const seen = outbound(c, FLOW_V4, { ...said({ isn: 100, timestamp: 7 }, 5) });
  t.deepEqual([seen.seq, seen.value], [4005, 15 + TIMESTAMP_MARGIN]);
});

test('a SYN of the next guest ends what the former had of these ports', (t) => {
  const c = rejoin(afterFirstFailover());
  c.takeOver([]);
  t.is(outbound(c, FLOW_V4, { seq: 12, ack: 4, flags: SYN | ACK }).seq, 12);
  t.is(c.counters.flows, 0);
});

test('a SYN that is repeated by the next guest is still in the numbers of the first', (t) => {
  const c = rejoin(afterFirstFailover());
  c.takeOver([]);
  t.is(outbound(c, FLOW_V4, { seq: B.isn, ack: 4, flags: SYN | ACK }).seq, A.isn);
});

test('no flow is opened by the primary once its guest has been taken over', (t) => {
  const rewriter = new FlowRewriter({ vnetBytes: 0 });
  rewriter.takeOver([]);
  t.throws(() => open(rewriter, FLOW_V4, A, B), { code: 'COLO_E_BUG' });
});

test('a FIN before and one after the failover close the connection', (t) => {
  const b = afterFirstFailover();
  const c = rejoin(b);
  outbound(b, FLOW_V4, { ...said(B, 9, FIN | ACK) });
  inbound(b, FLOW_V4, { seq: 77, ack: seqAdd(A.isn, 10), flags: ACK });
  c.takeOver([]);
  inbound(c, FLOW_V4, { seq: 77, ack: seqAdd(A.isn, 10), flags: FIN | ACK });
  t.is(c.counters.closedFlows, 0);
  outbound(c, FLOW_V4, { seq: seqAdd(B.isn, 10), ack: 78, flags: ACK });
  t.is(c.counters.closedFlows, 1);
});

test('a FIN that was acknowledged by what was mirrored last counts as acknowledged', (t) => {
  const b = afterFirstFailover();
  const c = rejoin(b);
  outbound(b, FLOW_V4, { ...said(B, 9, FIN | ACK) });
  b.onChange = undefined;
  const given = inbound(b, FLOW_V4, { seq: 77, ack: seqAdd(A.isn, 10), flags: FIN | ACK });
  c.takeOver([given]);
  outbound(c, FLOW_V4, { seq: seqAdd(B.isn, 10), ack: 78, flags: ACK });
  t.is(c.counters.closedFlows, 1);
});

test('a connection that closed before the failover is kept as one that closed', (t) => {
  const b = afterFirstFailover();
  const c = rejoin(b);
  outbound(b, FLOW_V4, { ...said(B, 9, FIN | ACK) });
  inbound(b, FLOW_V4, { seq: 77, ack: seqAdd(A.isn, 10), flags: FIN | ACK });
  outbound(b, FLOW_V4, { seq: seqAdd(B.isn, 10), ack: 78, flags: ACK });
  t.deepEqual([c.counters.flows, c.counters.closedFlows], [1, 1]);
  c.takeOver([]);
  // The last acknowledgement was lost.
  const again = outbound(c, FLOW_V4, { seq: seqAdd(B.isn, 10), ack: 78, flags: ACK });
  t.is(again.seq, seqAdd(A.isn, 10));
});

test('a reset ends a translation everywhere', (t) => {
  const byGuest = afterFirstFailover();
  const first = rejoin(byGuest);
  outbound(byGuest, FLOW_V4, { seq: B.isn + 1, ack: 1, flags: RST | ACK });
  t.is(first.counters.flows, 0);
  const byRemote = afterFirstFailover();
  const second = rejoin(byRemote);
  outbound(byRemote, FLOW_V4, { seq: B.isn + 1, ack: 500, flags: ACK });
  inbound(byRemote, FLOW_V4, { seq: 501, flags: RST });
  t.is(second.counters.flows, 1);
  inbound(byRemote, FLOW_V4, { seq: 500, flags: RST });
  t.is(second.counters.flows, 0);
  t.deepEqual(byRemote.records(), []);
});

test('what nobody has used for days is forgotten everywhere, what is used is not', (t) => {
  const b = new FlowRewriter({ vnetBytes: 0 });
  for (const flow of [FLOW_V4, OTHER]) open(b, flow, A, B);
  b.takeOver([]);
  const c = rejoin(b);
  t.is(c.counters.flows, 2);
  for (let sweep = 1; sweep < TRANSLATION_IDLE_SWEEPS; sweep++) b.sweep();
  outbound(b, OTHER, said(B, 1));
  t.is(c.counters.flows, 2);
  b.sweep();
  t.deepEqual([b.counters.flows, c.counters.flows], [1, 1]);
  t.is(outbound(b, OTHER, said(B, 2)).seq, seqAdd(A.isn, 2));
});

test('timestamps are watched for a while after the failover, and then nothing is looked at', (t) => {
  const b = new FlowRewriter({ vnetBytes: 0 });
  b.takeOver([]);
  const echo = { seq: 1, ack: 1, flags: ACK, options: timestamps(1, 5000) };
  const raised = { ...FLOW_V4, remotePort: 7 };
  inbound(b, FLOW_V4, echo);
  inbound(b, raised, echo);
  outbound(b, raised, { ...echo, options: timestamps(4999, 1) });
  t.deepEqual([b.counters.flows, b.counters.watchedFlows], [2, 1]);
  for (let sweep = 0; sweep < TRANSLATION_WATCH_SWEEPS; sweep++) b.sweep();
  inbound(b, OTHER, echo);
  t.deepEqual([b.counters.flows, b.counters.watchedFlows], [1, 0]);
  t.is(outbound(b, raised, { ...echo, options: timestamps(5000, 1) }).value, 5002);
});

test('watched timestamps are nobody else’s business until they are changed', (t) => {
  const b = new FlowRewriter({ vnetBytes: 0 });
  b.takeOver([]);
  b.onChange = () => t.fail('A change was told');
  const echo = { seq: 1, ack: 1, flags: ACK, options: timestamps(1, 5000) };
  inbound(b, FLOW_V4, echo);
  outbound(b, FLOW_V4, { ...echo, flags: FIN | ACK, options: timestamps(6000, 1) });
  outbound(b, FLOW_V4, { ...echo, flags: RST, options: timestamps(6001, 1) });
  t.deepEqual(b.records(), []);
});

test('beyond the bound connections of the last epoch are lost, counted, and none before', (t) => {
  const c = new FlowRewriter({ vnetBytes: 0, flowsMax: 2 });
  const ports = [1, 2, 3].map((remotePort) => ({ ...FLOW_V4, remotePort })) as [Flow, Flow, Flow];
  const b = afterFirstFailover();
  send(b.records(), c);
  for (const flow of ports.slice(0, 2)) open(c, flow, B, C);
  c.takeOver([]);
  t.deepEqual([c.counters.flows, c.counters.lostFlows], [2, 1]);
  t.is(outbound(c, FLOW_V4, said(B, 1)).seq, seqAdd(A.isn, 1));
});

test('another primary knows nothing of what the last one said', (t) => {
  const c = rejoin(afterFirstFailover());
  c.dropKept();
  c.takeOver([]);
  t.is(c.counters.flows, 0);
});
