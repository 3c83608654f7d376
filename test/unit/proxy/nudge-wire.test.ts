/** The frames of a nudge, byte by byte. What Linux makes of them: nudge.test.ts. */
import test from 'ava';
import {
  encodeBatch,
  encodeNudge,
  FlowRewriter,
  forEachFrame,
  type Nudge,
  RecentFlows,
  VNET_HEADER_BYTES,
} from '../../../src/proxy/index.js';
import { NUDGE_ERRORS } from '../../../src/proxy/limits.js';
import { Packet } from '../../../src/proxy/packet.js';
import { QuotedSegment } from '../../../src/proxy/rewrite/quoted-segment.js';
import {
  ACK,
  FLOW_V4,
  FLOW_V6,
  type Flow,
  flowKey,
  numbersOf,
  PSH,
  type Segment,
  tcpFrame,
  timestamps,
  transportChecksumValid,
} from '../../support/packets.js';

const V4: Flow = { ...FLOW_V4, vnetBytes: VNET_HEADER_BYTES };
const V6: Flow = { ...FLOW_V6, vnetBytes: VNET_HEADER_BYTES };
const FLOWS: readonly (readonly [string, Flow])[] = [
  ['IPv4', V4],
  ['IPv6', V6],
  ['IPv4 with a VLAN tag', { ...V4, vlans: [7] }],
  ['IPv6 with two VLAN tags', { ...V6, vlans: [4000, 12] }],
];

const SEGMENT: Segment = {
  seq: 0xffff_fffe,
  ack: 5000,
  flags: ACK | PSH,
  window: 77,
  options: timestamps(42, 43),
  payload: Buffer.from('four'),
};

function nudgeAfter(flow: Flow, segment: Segment): Nudge {
  const flows = new RecentFlows();
  flows.note(encodeBatch([tcpFrame(flow, false, segment)]));
  const [known] = flows.flows();
  if (known === undefined) throw new Error('The connection is not known');
  return encodeNudge(known);
}

function framesOf(batch: Buffer): Buffer[] {
  const frames: Buffer[] = [];
  forEachFrame(batch, (frame) => frames.push(frame));
  return frames;
}

/** The number in the segment that an error quotes, as the end that gets the error looks at it. */
function quotedBy(frame: Buffer, toGuest: boolean): { key: Int32Array; seq: number } {
  const packet = new Packet();
  packet.parse(frame, VNET_HEADER_BYTES, frame.length, !toGuest);
  const quoted = new QuotedSegment();
  if (!quoted.parse(frame, packet)) throw new Error('No segment is quoted');
  return { key: quoted.key, seq: frame.readUInt32BE(quoted.transportAt + 4) };
}

/** The same connection from its other end. */
function turned(flow: Flow): Flow {
  return {
    ...flow,
    ...{ guestIp: flow.remoteIp, remoteIp: flow.guestIp },
    ...{ guestPort: flow.remotePort, remotePort: flow.guestPort },
  };
}

for (const [name, flow] of FLOWS) {
  test(`the remote end's next segment is quoted to it: ${name}`, (t) => {
    const frames = framesOf(nudgeAfter(flow, SEGMENT).toRemote);
    t.is(frames.length, NUDGE_ERRORS);
    const [frame] = frames as [Buffer];
    t.true(frames.every((each) => each.equals(frame)));
    t.true(transportChecksumValid(flow, frame));
    // For the remote end's host it is the other way round: what it quotes is its own.
    t.deepEqual(quotedBy(frame, false), { key: flowKey(turned(flow)), seq: 2 });
    const reply = tcpFrame(flow, true, SEGMENT);
    const linkEnd = VNET_HEADER_BYTES + 14 + flow.vlans.length * 4;
    t.deepEqual(frame.subarray(0, linkEnd), reply.subarray(0, linkEnd));
    const type = flow.version === 4 ? [3, 1] : [1, 0];
    const icmpAt = linkEnd + (flow.version === 4 ? 20 : 40);
    t.deepEqual([...frame.subarray(icmpAt, icmpAt + 2)], type);
  });

  test(`the guest gets a keep-alive, then its unacknowledged segment quoted: ${name}`, (t) => {
    const [probe, ...errors] = framesOf(nudgeAfter(flow, SEGMENT).toGuest) as [Buffer, ...Buffer[]];
    t.true(transportChecksumValid(flow, probe));
    const { payload, edges, ...numbers } = numbersOf(flow, probe, false);
    t.deepEqual([payload.length, edges.length], [0, 0]);
    t.deepEqual(numbers, { seq: 1, ack: 5000, flags: ACK, value: 42, echo: 43 });
    t.is(errors.length, NUDGE_ERRORS);
    for (const error of errors) {
      t.true(transportChecksumValid(flow, error));
      t.deepEqual(quotedBy(error, true), { key: flowKey(flow), seq: 5000 });
    }
  });

  test(`what goes to the guest is translated as what was mirrored: ${name}`, (t) => {
    const rewriter = new FlowRewriter({ vnetBytes: VNET_HEADER_BYTES });
    rewriter.open({
      key: flowKey(flow),
      primaryIsn: 4000,
      secondaryIsn: 14_000,
      timestamps: { primary: 40, secondary: 140 },
    });
    rewriter.takeOver([]);
    const { toGuest } = nudgeAfter(flow, SEGMENT);
    const [probe, error] = framesOf(rewriter.mirrored(toGuest)) as [Buffer, Buffer];
    const { ack, echo } = numbersOf(flow, probe, false);
    t.deepEqual([ack, echo], [15_000, 143]);
    t.is(quotedBy(error, true).seq, 15_000);
    t.true(transportChecksumValid(flow, probe) && transportChecksumValid(flow, error));
  });
}

test('a connection without timestamps gets none', (t) => {
  const [probe] = framesOf(nudgeAfter(V4, { ...SEGMENT, options: Buffer.alloc(0) }).toGuest);
  t.is(numbersOf(V4, probe as Buffer, false).value, undefined);
});
