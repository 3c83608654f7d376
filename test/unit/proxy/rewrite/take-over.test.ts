/** What remote ends see of the SVM after a failover, and how long each connection is remembered. */
import test from 'ava';
import { AssertionFailed } from '../../../../src/lib/index.js';
import { encodeBatch, FlowRewriter } from '../../../../src/proxy/index.js';
import {
  TIMESTAMP_LEAD_MAX,
  TIMESTAMP_MARGIN,
  TRANSLATIONS_CLOSED_MAX,
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
  PSH,
  RST,
  type Segment,
  SYN,
  tcpFrame,
  timestamps,
  transportChecksumValid,
} from '../../../support/packets.js';

const PRIMARY = { isn: 0xffff_ff00, timestamp: 700_000 };
const SECONDARY = { isn: 0x1000_0000, timestamp: 500_123 };
const SHIFT = PRIMARY.timestamp - SECONDARY.timestamp;

function rewriterFor(flow: Flow, flowsMax?: number): FlowRewriter {
  const { vnetBytes } = flow;
  return new FlowRewriter(flowsMax === undefined ? { vnetBytes } : { vnetBytes, flowsMax });
}

function open(rewriter: FlowRewriter, flow: Flow): void {
  rewriter.open({
    key: flowKey(flow),
    primaryIsn: PRIMARY.isn,
    secondaryIsn: SECONDARY.isn,
    timestamps: { primary: PRIMARY.timestamp, secondary: SECONDARY.timestamp },
  });
}

/** A rewriter that knows `flow` as opened and has taken over. */
function takenOver(flow: Flow, before: readonly Segment[] = []): FlowRewriter {
  const rewriter = rewriterFor(flow);
  open(rewriter, flow);
  takeOver(rewriter, flow, before);
  return rewriter;
}

function takeOver(rewriter: FlowRewriter, flow: Flow, before: readonly Segment[] = []): void {
  rewriter.takeOver(before.map((segment) => encodeBatch([tcpFrame(flow, false, segment)])));
}

function outbound(rewriter: FlowRewriter, flow: Flow, segment: Segment): Numbers {
  const batch = encodeBatch([tcpFrame(flow, true, segment)]);
  rewriter.outbound(batch);
  const frame = batch.subarray(4);
  if (!transportChecksumValid(flow, frame)) throw new Error('The checksum is wrong');
  return numbersOf(flow, frame, true);
}

function inbound(rewriter: FlowRewriter, flow: Flow, segment: Segment): Numbers {
  const frame = rewriter.inbound(encodeBatch([tcpFrame(flow, false, segment)])).subarray(4);
  if (!transportChecksumValid(flow, frame)) throw new Error('The checksum is wrong');
  return numbersOf(flow, frame, false);
}

function stamped(value: number, echo: number): Segment {
  return { seq: 1, ack: 1, flags: ACK, options: timestamps(value, echo) };
}

for (const [name, flow] of [
  ['IPv4', FLOW_V4],
  ['IPv6 with a VLAN tag and a virtio header', { ...FLOW_V6, vlans: [9], vnetBytes: 10 }],
] as const) {
  test(`the SVM goes on in the PVM's numbers: ${name}`, (t) => {
    const rewriter = takenOver(flow);
    const payload = Buffer.from('answer');
    const seen = outbound(rewriter, flow, {
      seq: SECONDARY.isn + 0x200,
      ack: 77,
      flags: ACK | PSH,
      options: timestamps(SECONDARY.timestamp + 50, 42),
      payload,
    });
    t.is(seen.seq, 0x100);
    t.is(seen.value, PRIMARY.timestamp + 50 + TIMESTAMP_MARGIN);
    t.deepEqual([seen.ack, seen.echo, seen.flags], [77, 42, ACK | PSH]);
    t.is(seen.payload.toString(), 'answer');
    t.is(inbound(rewriter, flow, { seq: 77, ack: 0x106, flags: ACK }).ack, SECONDARY.isn + 0x206);
  });
}

test('FIN, SYN-ACK sent again, reset with and without ACK: all in the PVM’s numbers', (t) => {
  const segments: readonly [number, number][] = [
    [FIN | ACK, SECONDARY.isn + 9],
    [SYN | ACK, SECONDARY.isn],
    [SYN, SECONDARY.isn],
    [RST | ACK, SECONDARY.isn + 9],
    [RST, SECONDARY.isn + 9],
  ];
  for (const [flags, seq] of segments) {
    const seen = outbound(takenOver(FLOW_V4), FLOW_V4, { seq, ack: 4, flags });
    t.is(seen.seq, (PRIMARY.isn + seq - SECONDARY.isn) >>> 0);
    t.deepEqual([seen.ack, seen.flags], [4, flags]);
  }
});

test('a reset that answers a segment without ACK has sequence number 0, and keeps it', (t) => {
  const seen = outbound(takenOver(FLOW_V4), FLOW_V4, { seq: 0, ack: 4, flags: RST | ACK });
  t.deepEqual([seen.seq, seen.ack], [0, 4]);
});

test('another SYN or SYN-ACK of the SVM begins a connection of its own', (t) => {
  for (const flags of [SYN, SYN | ACK]) {
    const rewriter = takenOver(FLOW_V4);
    const options = timestamps(5, 0);
    const seen = outbound(rewriter, FLOW_V4, { seq: 12, ack: 4, flags, options });
    t.deepEqual([seen.seq, seen.value], [12, 5]);
    t.is(rewriter.counters.flows, 0);
    t.is(inbound(rewriter, FLOW_V4, { seq: 4, ack: 13, flags: ACK }).ack, 13);
    t.is(outbound(rewriter, FLOW_V4, { seq: 13, ack: 5, flags: ACK }).seq, 13);
  }
});

test('a checksum that is left to the receiver is not touched', (t) => {
  const flow = { ...FLOW_V4, vnetBytes: 10 };
  const segment = { ...stamped(SECONDARY.timestamp, 1), needsCsum: true };
  const batch = encodeBatch([tcpFrame(flow, true, segment)]);
  const checksumAt = 4 + 10 + 14 + 20 + 16;
  const checksum = batch.readUInt16BE(checksumAt);
  takenOver(flow).outbound(batch);
  t.is(batch.readUInt16BE(checksumAt), checksum);
  t.is(
    numbersOf(flow, batch.subarray(4), true).seq,
    (1 + PRIMARY.isn - SECONDARY.isn + 0x1_0000_0000) >>> 0,
  );
});

test('an ICMP error about what the SVM said after the failover', (t) => {
  const rewriter = takenOver(FLOW_V4);
  const said = outbound(rewriter, FLOW_V4, { seq: SECONDARY.isn + 5, ack: 1, flags: ACK });
  const error = { seq: said.seq, ack: 1, flags: ACK };
  const seen = rewriter.inbound(encodeBatch([icmpError(FLOW_V4, error)])).subarray(4);
  t.deepEqual(seen, icmpError(FLOW_V4, { ...error, seq: SECONDARY.isn + 5 }));
});

test('a connection from before the checkpoint keeps its numbers and has no timestamp twice', (t) => {
  const rewriter = rewriterFor(FLOW_V4);
  const seenByRemote = 1_000_000;
  takeOver(rewriter, FLOW_V4, [stamped(1, seenByRemote - 1), stamped(2, seenByRemote)]);
  // The SVM's clock is 300 units behind what the remote end has echoed.
  const first = outbound(rewriter, FLOW_V4, { ...stamped(seenByRemote - 300, 2), seq: 55 });
  t.is(first.seq, 55);
  t.is(first.value, seenByRemote + 1 + TIMESTAMP_MARGIN);
  const second = outbound(rewriter, FLOW_V4, stamped(seenByRemote - 299, 2));
  t.is(second.value, seenByRemote + 2 + TIMESTAMP_MARGIN);
  t.is(inbound(rewriter, FLOW_V4, stamped(3, second.value as number)).echo, seenByRemote - 299);
});

test('the highest echo counts, also over the wrap and out of order', (t) => {
  const rewriter = rewriterFor(FLOW_V4);
  takeOver(rewriter, FLOW_V4, [stamped(1, 0xffff_fff0), stamped(1, 5), stamped(1, 0xffff_fffa)]);
  const seen = outbound(rewriter, FLOW_V4, stamped(0xffff_ff00, 1));
  t.is(seen.value, 6 + TIMESTAMP_MARGIN);
});

test('an idle connection keeps its timestamps, until its remote end shows newer ones', (t) => {
  const rewriter = rewriterFor(FLOW_V4);
  takeOver(rewriter, FLOW_V4);
  t.is(outbound(rewriter, FLOW_V4, stamped(500, 1)).value, 500);
  t.is(inbound(rewriter, FLOW_V4, stamped(2, 450)).echo, 450);
  t.is(outbound(rewriter, FLOW_V4, stamped(501, 1)).value, 501);
  // The PVM spoke last, and the remote end repeats it when it drops what seems old.
  t.is(inbound(rewriter, FLOW_V4, stamped(2, 800)).echo, 800);
  t.is(outbound(rewriter, FLOW_V4, stamped(502, 1)).value, 801);
  t.is(inbound(rewriter, FLOW_V4, stamped(2, 800)).echo, 800);
  t.is(inbound(rewriter, FLOW_V4, stamped(2, 801)).echo, 502);
});

test('what the PVM said is echoed exactly, whatever the SVM has said since', (t) => {
  // In SYN_SENT another TSecr than the one sent resets the connection.
  const rewriter = takenOver(FLOW_V4);
  const again = outbound(rewriter, FLOW_V4, {
    seq: SECONDARY.isn,
    flags: SYN,
    options: timestamps(SECONDARY.timestamp + 1000, 0),
  });
  t.is(again.value, PRIMARY.timestamp + 1000 + TIMESTAMP_MARGIN);
  const answer = { seq: 8, ack: (PRIMARY.isn + 1) >>> 0, flags: SYN | ACK };
  const late = { ...answer, options: timestamps(1, PRIMARY.timestamp) };
  const late2 = { ...answer, options: timestamps(1, PRIMARY.timestamp + 900) };
  const prompt = { ...answer, options: timestamps(1, again.value as number) };
  t.is(inbound(rewriter, FLOW_V4, late).echo, SECONDARY.timestamp);
  t.is(inbound(rewriter, FLOW_V4, late2).echo, SECONDARY.timestamp + 900);
  t.is(inbound(rewriter, FLOW_V4, prompt).echo, SECONDARY.timestamp + 1000);
});

test('nonsense in TSecr moves nothing', (t) => {
  const rewriter = takenOver(FLOW_V4, [stamped(1, PRIMARY.timestamp + TIMESTAMP_LEAD_MAX + 1)]);
  const seen = outbound(rewriter, FLOW_V4, stamped(SECONDARY.timestamp, 1));
  t.is(seen.value, PRIMARY.timestamp + TIMESTAMP_MARGIN);
});

test('TSecr without ACK, of a reset, or zero, is no echo', (t) => {
  const options = timestamps(1, SHIFT + 900_000);
  const rewriter = takenOver(FLOW_V4, [
    { seq: 1, flags: SYN, options },
    { seq: 1, flags: RST, options },
    { seq: 1, ack: 1, flags: RST | ACK, options },
    stamped(1, 0),
  ]);
  t.is(outbound(rewriter, FLOW_V4, stamped(5, 1)).value, SHIFT + 5 + TIMESTAMP_MARGIN);
});

/** Both ends say all; the last acknowledgement is the guest's. */
function close(rewriter: FlowRewriter, flow: Flow): void {
  const end = (PRIMARY.isn + 10) >>> 0;
  outbound(rewriter, flow, { seq: SECONDARY.isn + 9, ack: 30, flags: FIN | ACK });
  inbound(rewriter, flow, { seq: 30, ack: end, flags: ACK });
  inbound(rewriter, flow, { seq: 30, ack: end, flags: FIN | ACK, payload: Buffer.from('bye') });
  outbound(rewriter, flow, { seq: SECONDARY.isn + 10, ack: 33, flags: ACK });
}

test('a connection is closed when both FINs are acknowledged, not before', (t) => {
  const rewriter = takenOver(FLOW_V4);
  close(rewriter, FLOW_V4);
  t.is(rewriter.counters.closedFlows, 0);
  outbound(rewriter, FLOW_V4, { seq: SECONDARY.isn + 10, ack: 34, flags: ACK });
  t.is(rewriter.counters.closedFlows, 1);
});

test('a closed connection still answers in the PVM’s numbers', (t) => {
  const rewriter = takenOver(FLOW_V4);
  close(rewriter, FLOW_V4);
  const last = { seq: SECONDARY.isn + 10, ack: 34, flags: ACK };
  const once = outbound(rewriter, FLOW_V4, last);
  const fin = { seq: 30, ack: (PRIMARY.isn + 10) >>> 0, flags: FIN | ACK };
  t.is(inbound(rewriter, FLOW_V4, fin).ack, SECONDARY.isn + 10);
  t.deepEqual(outbound(rewriter, FLOW_V4, last), once);
});

test('only so many closed connections are kept, and the first to close goes first', (t) => {
  const rewriter = rewriterFor(FLOW_V4);
  const flows = Array.from({ length: TRANSLATIONS_CLOSED_MAX + 2 }, (_, port) => ({
    ...FLOW_V4,
    remotePort: port,
  }));
  for (const flow of flows) open(rewriter, flow);
  takeOver(rewriter, FLOW_V4);
  for (const flow of flows) {
    outbound(rewriter, flow, { seq: SECONDARY.isn + 1, ack: 1, flags: RST | ACK });
  }
  t.is(rewriter.counters.flows, TRANSLATIONS_CLOSED_MAX);
  t.is(rewriter.counters.closedFlows, TRANSLATIONS_CLOSED_MAX);
  const seqOf = (flow: Flow | undefined): number =>
    outbound(rewriter, flow as Flow, { seq: SECONDARY.isn, ack: 1, flags: ACK }).seq;
  t.deepEqual([seqOf(flows[0]), seqOf(flows[1])], [SECONDARY.isn, SECONDARY.isn]);
  t.deepEqual([seqOf(flows[2]), seqOf(flows.at(-1))], [PRIMARY.isn, PRIMARY.isn]);
});

test('a reset of the remote end counts if it is exactly where the guest expects it', (t) => {
  const rewriter = takenOver(FLOW_V4);
  outbound(rewriter, FLOW_V4, { seq: SECONDARY.isn + 1, ack: 500, flags: ACK });
  inbound(rewriter, FLOW_V4, { seq: 501, flags: RST });
  t.is(rewriter.counters.closedFlows, 0);
  inbound(rewriter, FLOW_V4, { seq: 500, flags: RST });
  t.is(rewriter.counters.closedFlows, 1);
});

test("a refusal of the guest's SYN counts if it acknowledges it", (t) => {
  const rewriter = takenOver(FLOW_V4);
  inbound(rewriter, FLOW_V4, { seq: 0, flags: RST });
  inbound(rewriter, FLOW_V4, { seq: 0, ack: PRIMARY.isn, flags: RST | ACK });
  t.is(rewriter.counters.closedFlows, 0);
  inbound(rewriter, FLOW_V4, { seq: 0, ack: PRIMARY.isn + 1, flags: RST | ACK });
  t.is(rewriter.counters.closedFlows, 1);
});

test('a connection of which nothing differs is forgotten when it ends', (t) => {
  const rewriter = rewriterFor(FLOW_V4);
  takeOver(rewriter, FLOW_V4);
  inbound(rewriter, FLOW_V4, stamped(1, 500));
  t.is(rewriter.counters.flows, 1);
  outbound(rewriter, FLOW_V4, { seq: 9, ack: 1, flags: RST | ACK });
  t.is(rewriter.counters.flows, 0);
});

test('timestamps that were set forward are kept for as long as the connection', (t) => {
  const rewriter = rewriterFor(FLOW_V4, 2);
  takeOver(rewriter, FLOW_V4, [stamped(1, 500)]);
  t.is(outbound(rewriter, FLOW_V4, stamped(400, 1)).value, 501 + TIMESTAMP_MARGIN);
  for (let remotePort = 0; remotePort < 10; remotePort++) {
    inbound(rewriter, { ...FLOW_V4, remotePort }, stamped(1, 500));
  }
  t.is(rewriter.counters.flows, 2);
  t.is(outbound(rewriter, FLOW_V4, stamped(401, 1)).value, 502 + TIMESTAMP_MARGIN);
});

test('at the bound the first closed goes, then the oldest of which nothing differs', (t) => {
  const [a, b, c, d, e] = [1, 2, 3, 4, 5].map((remotePort) => ({ ...FLOW_V4, remotePort })) as [
    Flow,
    Flow,
    Flow,
    Flow,
    Flow,
  ];
  const rewriter = rewriterFor(FLOW_V4, 3);
  for (const flow of [a, b]) open(rewriter, flow);
  takeOver(rewriter, c, [stamped(1, 500)]);
  outbound(rewriter, b, { seq: SECONDARY.isn, ack: 1, flags: RST | ACK });
  inbound(rewriter, d, stamped(1, 600));
  t.is(outbound(rewriter, b, { seq: 5, ack: 1, flags: ACK }).seq, 5);
  inbound(rewriter, e, stamped(1, 700));
  // c made room for e: it has its clock's own value, and the others have what was echoed.
  t.is(outbound(rewriter, c, stamped(100, 1)).value, 100);
  t.is(outbound(rewriter, d, stamped(100, 1)).value, 601);
  t.is(outbound(rewriter, e, stamped(100, 1)).value, 701);
  t.is(outbound(rewriter, a, { seq: SECONDARY.isn, ack: 1, flags: ACK }).seq, PRIMARY.isn);
  inbound(rewriter, c, stamped(1, 500));
  t.is(rewriter.counters.unwatchedSegments, 1);
  t.is(rewriter.counters.flows, 3);
});

test('only what was changed is counted as rewritten', (t) => {
  const rewriter = takenOver(FLOW_V4);
  const other = { ...FLOW_V4, guestPort: 81 };
  inbound(rewriter, other, stamped(1, 5));
  outbound(rewriter, other, stamped(6, 1));
  const { inboundRewritten, outboundRewritten, watchedFlows } = rewriter.counters;
  t.deepEqual([inboundRewritten, outboundRewritten, watchedFlows], [0, 0, 1]);
  inbound(rewriter, FLOW_V4, stamped(1, 5));
  outbound(rewriter, FLOW_V4, stamped(6, 1));
  outbound(rewriter, FLOW_V4, { seq: 1, ack: 1, flags: ACK });
  t.is(rewriter.counters.inboundRewritten, 1);
  t.is(rewriter.counters.outboundRewritten, 2);
});

test('the SVM says nothing to the LAN before it has taken over, and takes over once', (t) => {
  const rewriter = rewriterFor(FLOW_V4);
  const nothing = Buffer.alloc(0);
  t.throws(() => rewriter.outbound(nothing), { instanceOf: AssertionFailed });
  t.throws(() => rewriter.inbound(nothing), { instanceOf: AssertionFailed });
  rewriter.takeOver([]);
  t.throws(() => rewriter.takeOver([]), { instanceOf: AssertionFailed });
  t.throws(() => rewriter.dropKept(), { instanceOf: AssertionFailed });
  t.throws(() => rewriter.keep({ key: flowKey(FLOW_V4), state: undefined }), {
    instanceOf: AssertionFailed,
  });
});
