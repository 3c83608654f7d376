/** What the SVM sees of connections that both guests opened, before a failover. */
import test from 'ava';
import { ProtocolError } from '../../../../src/lib/index.js';
import { encodeBatch, FlowRewriter, forEachFrame } from '../../../../src/proxy/index.js';
import {
  ACK,
  FIN,
  FLOW_V4,
  FLOW_V6,
  type Flow,
  flowKey,
  icmpError,
  numbersOf,
  PSH,
  RST,
  type Segment,
  SYN,
  sack,
  tcpFrame,
  timestamps,
  transportChecksumValid,
} from '../../../support/packets.js';

const PRIMARY = { isn: 0x1000_0000, timestamp: 700_000 };
const SECONDARY = { isn: 0xffff_fff0, timestamp: 500_123 };

const FLOWS: readonly (readonly [string, Flow])[] = [
  ['IPv4', FLOW_V4],
  ['IPv6', FLOW_V6],
  ['IPv4 with a VLAN tag', { ...FLOW_V4, vlans: [7] }],
  ['IPv6 with two VLAN tags and a virtio header', { ...FLOW_V6, vlans: [4000, 12], vnetBytes: 10 }],
];

function rewriterFor(flow: Flow): FlowRewriter {
  const rewriter = new FlowRewriter({ vnetBytes: flow.vnetBytes });
  rewriter.open({
    key: flowKey(flow),
    primaryIsn: PRIMARY.isn,
    secondaryIsn: SECONDARY.isn,
    timestamps: { primary: PRIMARY.timestamp, secondary: SECONDARY.timestamp },
  });
  return rewriter;
}

/** One inbound frame through `rewriter`; fails if the argument was modified. */
function inbound(rewriter: FlowRewriter, frame: Buffer): Buffer {
  const batch = encodeBatch([frame]);
  const out = rewriter.mirrored(batch);
  if (!batch.equals(encodeBatch([frame]))) throw new Error('The batch was modified');
  return out.subarray(4);
}

/** What of a segment to PRIMARY's numbers arrives, with a valid checksum. */
function translated(flow: Flow, segment: Segment) {
  const out = inbound(rewriterFor(flow), tcpFrame(flow, false, segment));
  if (!transportChecksumValid(flow, out)) throw new Error('The checksum is wrong');
  return numbersOf(flow, out, false);
}

function passes(segment: Segment, flow = FLOW_V4): boolean {
  const batch = encodeBatch([tcpFrame(flow, false, segment)]);
  return rewriterFor(FLOW_V4).mirrored(batch) === batch;
}

for (const [name, flow] of FLOWS) {
  test(`a client acknowledges the SYN-ACK: ${name}`, (t) => {
    const seen = translated(flow, {
      seq: 77,
      ack: PRIMARY.isn + 1,
      flags: ACK,
      options: timestamps(42, PRIMARY.timestamp),
    });
    t.is(seen.ack, SECONDARY.isn + 1);
    t.is(seen.echo, SECONDARY.timestamp);
    t.deepEqual([seen.seq, seen.value, seen.flags], [77, 42, ACK]);
  });

  test(`a server answers the guest's SYN: ${name}`, (t) => {
    const mss = Buffer.from('020405b4', 'hex');
    const seen = translated(
      { ...flow, guestPort: 50_000, remotePort: 443 },
      {
        seq: 0xffff_ffff,
        ack: PRIMARY.isn + 1,
        flags: SYN | ACK,
        options: Buffer.concat([mss, timestamps(9, PRIMARY.timestamp)]),
      },
    );
    t.is(seen.ack, SECONDARY.isn + 1);
    t.is(seen.echo, SECONDARY.timestamp);
    t.is(seen.seq, 0xffff_ffff);
  });

  test(`acknowledgement, SACK and TSecr of later segments, also over the wrap: ${name}`, (t) => {
    for (const bytes of [1, 15, 16, 17, 0x7000_0000]) {
      const seen = translated(flow, {
        seq: 5,
        ack: PRIMARY.isn + bytes,
        flags: ACK | PSH,
        options: Buffer.concat([
          timestamps(43, PRIMARY.timestamp + bytes),
          sack(PRIMARY.isn + bytes + 10, PRIMARY.isn + bytes + 20),
        ]),
        payload: Buffer.from('odd'),
      });
      const base = (SECONDARY.isn + bytes) >>> 0;
      t.is(seen.ack, base);
      t.deepEqual(seen.edges, [(base + 10) >>> 0, (base + 20) >>> 0]);
      t.is(seen.echo, SECONDARY.timestamp + bytes);
      t.is(seen.payload.toString(), 'odd');
    }
  });
}

test('one to four SACK blocks', (t) => {
  const offset = PRIMARY.isn - SECONDARY.isn;
  for (const blocks of [1, 2, 3, 4]) {
    const edges = Array.from({ length: blocks * 2 }, (_, edge) => PRIMARY.isn + 100 * edge);
    const segment = { seq: 1, ack: PRIMARY.isn + 1, flags: ACK, options: sack(...edges) };
    const expected = edges.map((edge) => (edge - offset) >>> 0);
    t.deepEqual(translated(FLOW_V4, segment).edges, expected);
  }
});

test('options in unusual places and at odd offsets', (t) => {
  const stamp = timestamps(1, PRIMARY.timestamp + 5).subarray(2);
  const blocks = sack(PRIMARY.isn + 9, PRIMARY.isn + 30).subarray(2);
  const nop = Buffer.from([1]);
  const unknown = Buffer.from('fd0500aabb', 'hex');
  const layouts = [
    [stamp],
    [nop, stamp],
    [nop, nop, nop, stamp],
    [blocks, stamp],
    [nop, blocks, stamp],
    [stamp, blocks],
    [stamp, nop, blocks],
    [unknown, stamp, blocks],
    [nop, unknown, blocks, stamp],
    // Everything behind the end of the list is no option.
    [stamp, Buffer.from([0]), blocks],
    [blocks, Buffer.from('fe01', 'hex'), stamp],
  ];
  for (const [index, layout] of layouts.entries()) {
    const options = Buffer.concat(layout);
    const before = numbersOf(
      FLOW_V4,
      tcpFrame(FLOW_V4, false, { seq: 1, ack: PRIMARY.isn + 8, flags: ACK, options }),
      false,
    );
    const seen = translated(FLOW_V4, { seq: 1, ack: PRIMARY.isn + 8, flags: ACK, options });
    t.is(seen.ack, SECONDARY.isn + 8, `layout ${index}`);
    t.is(seen.echo, before.echo && SECONDARY.timestamp + 5, `layout ${index}`);
    const edges = [SECONDARY.isn + 9, SECONDARY.isn + 30].map((edge) => edge >>> 0);
    t.deepEqual(seen.edges, before.edges.length === 0 ? [] : edges, `layout ${index}`);
  }
});

test('without the ACK flag acknowledgement, SACK and TSecr are nothing, and stay', (t) => {
  const options = Buffer.concat([timestamps(1, 2), sack(3, 4)]);
  for (const flags of [SYN, RST, FIN, 0]) {
    t.true(passes({ seq: 9, ack: 0, flags, options }));
    t.true(passes({ seq: 9, ack: PRIMARY.isn + 1, flags, options }));
  }
});

test('a reset and a FIN that acknowledge are translated', (t) => {
  for (const flags of [RST | ACK, FIN | ACK, FIN | PSH | ACK]) {
    const seen = translated(FLOW_V4, { seq: 3, ack: PRIMARY.isn + 1, flags });
    t.deepEqual([seen.seq, seen.ack, seen.flags], [3, SECONDARY.isn + 1, flags]);
  }
});

test('TSecr 0 means none and stays', (t) => {
  const options = timestamps(1, 0);
  t.is(translated(FLOW_V4, { seq: 3, ack: PRIMARY.isn + 1, flags: ACK, options }).echo, 0);
});

test('timestamps that wrap around between the two guests', (t) => {
  const rewriter = new FlowRewriter({ vnetBytes: 0 });
  rewriter.open({
    key: flowKey(FLOW_V4),
    primaryIsn: 5,
    secondaryIsn: 5,
    timestamps: { primary: 3, secondary: 0xffff_fffe },
  });
  const segment = { seq: 1, ack: 6, flags: ACK, options: timestamps(1, 4) };
  const seen = numbersOf(FLOW_V4, inbound(rewriter, tcpFrame(FLOW_V4, false, segment)), false);
  t.deepEqual([seen.ack, seen.echo], [6, 0xffff_ffff]);
});

test('a connection without timestamps', (t) => {
  const rewriter = new FlowRewriter({ vnetBytes: 0 });
  rewriter.open({
    key: flowKey(FLOW_V4),
    primaryIsn: 100,
    secondaryIsn: 50,
    timestamps: undefined,
  });
  const segment = { seq: 1, ack: 150, flags: ACK, options: timestamps(1, 4) };
  const seen = numbersOf(FLOW_V4, inbound(rewriter, tcpFrame(FLOW_V4, false, segment)), false);
  t.deepEqual([seen.ack, seen.echo], [100, 4]);
});

test('a checksum that is left to the receiver is not touched', (t) => {
  const flow = { ...FLOW_V4, vnetBytes: 10 };
  const segment = { seq: 1, ack: PRIMARY.isn + 1, flags: ACK, payload: Buffer.alloc(3000, 1) };
  const frame = tcpFrame(flow, false, { ...segment, needsCsum: true });
  const out = inbound(rewriterFor(flow), frame);
  t.is(numbersOf(flow, out, false).ack, SECONDARY.isn + 1);
  const checksumAt = 10 + 14 + 20 + 16;
  t.is(out.readUInt16BE(checksumAt), frame.readUInt16BE(checksumAt));
});

test('the largest super-frame', (t) => {
  const payload = Buffer.alloc(65_535 - 20 - 20, 0x5a);
  const seen = translated(FLOW_V4, { seq: 1, ack: PRIMARY.isn + 1, flags: ACK, payload });
  t.is(seen.ack, SECONDARY.isn + 1);
  t.true(seen.payload.equals(payload));
});

test('Ethernet padding behind the packet counts for nothing', (t) => {
  const frame = tcpFrame(FLOW_V4, false, { seq: 1, ack: PRIMARY.isn + 1, flags: ACK });
  const padded = Buffer.concat([frame, Buffer.alloc(6, 0xff)]);
  const out = inbound(rewriterFor(FLOW_V4), padded);
  t.true(transportChecksumValid(FLOW_V4, out));
  t.is(out.subarray(-6).toString('hex'), 'ffffffffffff');
});

test('what needs no change is the same buffer', (t) => {
  const ack = { seq: 1, ack: PRIMARY.isn + 1, flags: ACK };
  const batch = encodeBatch([tcpFrame(FLOW_V4, false, ack)]);
  t.is(new FlowRewriter({ vnetBytes: 0 }).mirrored(batch), batch);
  t.true(passes(ack, { ...FLOW_V4, remotePort: 40_001 }));
  t.true(passes(ack, { ...FLOW_V4, guestPort: 81 }));
  t.true(passes(ack, { ...FLOW_V4, remoteIp: '0a00000a' }));
  t.true(passes(ack, { ...FLOW_V4, vlans: [1] }));
  t.true(passes(ack, FLOW_V6));
  const empty = Buffer.alloc(0);
  t.is(rewriterFor(FLOW_V4).mirrored(empty), empty);
});

test('of a batch only the frames concerned change, and they keep their places', (t) => {
  const ack = { seq: 1, ack: PRIMARY.isn + 1, flags: ACK };
  const other = tcpFrame({ ...FLOW_V4, guestPort: 22 }, false, ack);
  const ours = tcpFrame(FLOW_V4, false, ack);
  const short = Buffer.alloc(14, 1);
  const out = rewriterFor(FLOW_V4).mirrored(encodeBatch([other, ours, short, ours, other]));
  const frames: Buffer[] = [];
  forEachFrame(out, (frame) => frames.push(frame));
  t.deepEqual([frames[0], frames[2], frames[4]], [other, short, other]);
  for (const index of [1, 3]) {
    t.is(numbersOf(FLOW_V4, frames[index] as Buffer, false).ack, SECONDARY.isn + 1);
  }
});

test('fragments, cut frames and impossible headers pass unchanged', (t) => {
  const whole = tcpFrame(FLOW_V4, false, {
    seq: 1,
    ack: PRIMARY.isn + 1,
    flags: ACK,
    options: timestamps(1, 2),
  });
  const edited = (at: number, value: number): Buffer => {
    const frame = Buffer.from(whole);
    frame.writeUInt8(value, at);
    return frame;
  };
  const odd = [
    edited(20, 0x20),
    edited(21, 8),
    edited(14, 0x44),
    edited(46, 0x40),
    edited(46, 0xf0),
    edited(17, 200),
  ];
  for (let length = 14; length < whole.length; length++) odd.push(whole.subarray(0, length));
  const batch = encodeBatch(odd);
  t.is(rewriterFor(FLOW_V4).mirrored(batch), batch);
});

test('a batch that is no batch is left alone', (t) => {
  const frame = tcpFrame(FLOW_V4, false, { seq: 1, ack: PRIMARY.isn + 1, flags: ACK });
  const batch = encodeBatch([frame]).subarray(0, -1);
  const rewriter = rewriterFor(FLOW_V4);
  t.is(rewriter.mirrored(batch), batch);
  const runt = encodeBatch([Buffer.alloc(3)]);
  t.is(new FlowRewriter({ vnetBytes: 10 }).mirrored(runt), runt);
});

test('a connection that is opened again is translated by its new numbers', (t) => {
  const rewriter = rewriterFor(FLOW_V4);
  rewriter.open({
    key: flowKey(FLOW_V4),
    primaryIsn: 1000,
    secondaryIsn: 2000,
    timestamps: undefined,
  });
  t.is(rewriter.counters.mirroredFlows, 1);
  const frame = tcpFrame(FLOW_V4, false, { seq: 1, ack: 1001, flags: ACK });
  t.is(numbersOf(FLOW_V4, inbound(rewriter, frame), false).ack, 2001);
});

test('a checkpoint ends all translations', (t) => {
  const rewriter = rewriterFor(FLOW_V4);
  rewriter.forget();
  const batch = encodeBatch([tcpFrame(FLOW_V4, false, { seq: 1, ack: 5, flags: ACK })]);
  t.is(rewriter.mirrored(batch), batch);
  t.is(rewriter.counters.mirroredFlows, 0);
});

test('more flows than the bound are an error of the peer, and lose none before', (t) => {
  const rewriter = new FlowRewriter({ vnetBytes: 0, flowsMax: 3 });
  const open = (guestPort: number): void =>
    rewriter.open({
      key: flowKey({ ...FLOW_V4, guestPort }),
      primaryIsn: 500,
      secondaryIsn: 100,
      timestamps: undefined,
    });
  for (const port of [1, 2, 3, 2]) open(port);
  t.throws(() => open(4), { instanceOf: ProtocolError });
  t.is(rewriter.counters.mirroredFlows, 3);
  for (const guestPort of [1, 2, 3]) {
    const flow = { ...FLOW_V4, guestPort };
    const frame = tcpFrame(flow, false, { seq: 1, ack: 501, flags: ACK });
    t.is(numbersOf(flow, inbound(rewriter, frame), false).ack, 101);
  }
});

test('flows of one bucket are told apart, whichever is replaced', (t) => {
  const rewriter = new FlowRewriter({ vnetBytes: 0 });
  const flows = Array.from({ length: 40_000 }, (_, port) => ({ ...FLOW_V4, remotePort: port }));
  const open = (flow: Flow, secondaryIsn: number): void =>
    rewriter.open({ key: flowKey(flow), primaryIsn: 0, secondaryIsn, timestamps: undefined });
  for (const flow of flows) open(flow, flow.remotePort + 1);
  for (const flow of flows.filter(({ remotePort }) => remotePort % 3 === 0)) open(flow, 7);
  t.is(rewriter.counters.mirroredFlows, flows.length);
  for (const flow of flows.filter(({ remotePort }) => remotePort % 101 === 0)) {
    const out = inbound(rewriter, tcpFrame(flow, false, { seq: 1, ack: 10, flags: ACK }));
    const isn = flow.remotePort % 3 === 0 ? 7 : flow.remotePort + 1;
    t.is(numbersOf(flow, out, false).ack, 10 + isn);
  }
});

test('an ICMP error quotes the number that the SVM has sent', (t) => {
  const sent = {
    seq: PRIMARY.isn + 1000,
    ack: 12,
    flags: ACK,
    options: timestamps(1, 2),
    payload: Buffer.alloc(600, 3),
  };
  for (const [name, flow] of FLOWS) {
    // 8 bytes are the least that a host quotes.
    for (const quotedBytes of [8, 16, 18, 20, 500, 1000]) {
      const out = inbound(rewriterFor(flow), icmpError(flow, sent, quotedBytes));
      const expected = { ...sent, seq: (SECONDARY.isn + 1000) >>> 0 };
      t.true(transportChecksumValid(flow, out), `${name}, ${quotedBytes} bytes`);
      t.deepEqual(out, icmpError(flow, expected, quotedBytes), `${name}, ${quotedBytes} bytes`);
    }
    // Half a quoted checksum says nothing; the error's own counts.
    const halved = inbound(rewriterFor(flow), icmpError(flow, sent, 17));
    t.true(transportChecksumValid(flow, halved), name);
    t.is(halved.readUInt32BE(halved.length - 13), (SECONDARY.isn + 1000) >>> 0, name);
  }
});

test('ICMP that quotes no segment of a translated connection passes', (t) => {
  const sent = { seq: PRIMARY.isn + 1000, ack: 12, flags: ACK };
  const edited = (flow: Flow, at: number, value: number): Buffer => {
    const frame = icmpError(flow, sent);
    frame.writeUInt8(value, at);
    return frame;
  };
  const icmpAt = { v4: 14 + 20, v6: 14 + 40 };
  for (const [flow, frames] of [
    [
      FLOW_V4,
      [
        icmpError({ ...FLOW_V4, remotePort: 1 }, sent),
        icmpError(FLOW_V4, sent, 7),
        edited(FLOW_V4, icmpAt.v4, 0),
        edited(FLOW_V4, icmpAt.v4, 8),
        edited(FLOW_V4, icmpAt.v4 + 8, 0x65),
        edited(FLOW_V4, icmpAt.v4 + 8, 0x44),
        edited(FLOW_V4, icmpAt.v4 + 8 + 7, 1),
        edited(FLOW_V4, icmpAt.v4 + 8 + 9, 17),
      ],
    ],
    [
      FLOW_V6,
      [
        icmpError({ ...FLOW_V6, remotePort: 1 }, sent),
        icmpError(FLOW_V6, sent, 7),
        edited(FLOW_V6, icmpAt.v6, 128),
        edited(FLOW_V6, icmpAt.v6, 5),
        edited(FLOW_V6, icmpAt.v6 + 8, 0x45),
        edited(FLOW_V6, icmpAt.v6 + 8 + 6, 17),
      ],
    ],
  ] as const) {
    const batch = encodeBatch(frames);
    t.is(rewriterFor(flow).mirrored(batch), batch);
  }
});
