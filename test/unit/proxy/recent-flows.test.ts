/** Which connections are remembered for a failover, and with what. */
import test from 'ava';
import { encodeBatch, type RecentFlow, RecentFlows } from '../../../src/proxy/index.js';
import { RECENT_FLOWS_MAX, VNET_HEADER_BYTES } from '../../../src/proxy/limits.js';
import {
  ACK,
  FIN,
  FLOW_V4,
  FLOW_V6,
  type Flow,
  flowKey,
  PSH,
  RST,
  type Segment,
  SYN,
  tcpFrame,
  timestamps,
} from '../../support/packets.js';

const V4: Flow = { ...FLOW_V4, vnetBytes: VNET_HEADER_BYTES };
const PAYLOAD = Buffer.from('four');

function knownAfter(...segments: readonly (readonly [Flow, Segment])[]): RecentFlow[] {
  const flows = new RecentFlows();
  for (const [flow, segment] of segments) flows.note(encodeBatch([tcpFrame(flow, false, segment)]));
  return flows.flows();
}

for (const [name, flow] of [
  ['IPv4', V4],
  ['IPv6 with two VLAN tags', { ...FLOW_V6, vlans: [7, 9], vnetBytes: VNET_HEADER_BYTES }],
] as const) {
  test(`what a remote end said last: ${name}`, (t) => {
    const options = timestamps(5, 6);
    const segment = { seq: 100, ack: 200, flags: ACK | PSH, payload: PAYLOAD, window: 9, options };
    const [found, ...others] = knownAfter([flow, segment]);
    t.deepEqual(others, []);
    t.deepEqual(found?.key, flowKey(flow));
    t.is(found?.link.length, 14 + flow.vlans.length * 4);
    const { next, acknowledged, window, timestamps: has, timestamp, echo } = found ?? {};
    t.deepEqual([next, acknowledged, window, has, timestamp, echo], [104, 200, 9, true, 5, 6]);
  });
}

test('what comes late or again takes nothing back, across the end of the numbers', (t) => {
  const end = 0xffff_fffe;
  const [found] = knownAfter(
    [V4, { seq: end, ack: end, flags: ACK, payload: PAYLOAD }],
    [V4, { seq: 2, ack: 3, flags: ACK, payload: PAYLOAD }],
    [V4, { seq: end, ack: end, flags: ACK, payload: PAYLOAD }],
  );
  t.deepEqual([found?.next, found?.acknowledged], [6, 3]);
});

for (const [name, flags] of [
  ['is opened', SYN],
  ['was closed', FIN | ACK],
  ['was reset', RST | ACK],
] as const) {
  test(`a connection that ${name} is not remembered`, (t) => {
    const established = { seq: 1, ack: 1, flags: ACK };
    t.is(knownAfter([V4, established]).length, 1);
    t.deepEqual(knownAfter([V4, established], [V4, { seq: 1, ack: 1, flags }]), []);
    t.deepEqual(knownAfter([V4, { seq: 1, flags }]), []);
  });
}

test('a last acknowledgement brings no closed connection back, another one of its ports does', (t) => {
  const established: Segment = { seq: 1, ack: 1, flags: ACK };
  const closed: (readonly [Flow, Segment])[] = [
    [V4, established],
    [V4, { seq: 1, ack: 1, flags: FIN | ACK }],
    [V4, { seq: 2, ack: 2, flags: ACK }],
  ];
  t.deepEqual(knownAfter(...closed), []);
  t.is(knownAfter(...closed, [V4, { seq: 90, flags: SYN }], [V4, established]).length, 1);
});

test('a group of stations is no remote end', (t) => {
  const frame = tcpFrame(V4, false, { seq: 1, ack: 1, flags: ACK });
  frame.writeUInt8(0x33, VNET_HEADER_BYTES + 6);
  const flows = new RecentFlows();
  flows.note(encodeBatch([frame]));
  t.deepEqual(flows.flows(), []);
});

test('the number of connections is bounded, and the newest are there', (t) => {
  const flows = new RecentFlows();
  const ports = Array.from({ length: RECENT_FLOWS_MAX * 4 }, (_, port) => port + 1);
  for (const remotePort of ports) {
    const frame = tcpFrame({ ...V4, remotePort }, false, { seq: 1, ack: 1, flags: ACK });
    flows.note(encodeBatch([frame]));
  }
  const found = new Set(flows.flows().map(({ key }) => (key[2] ?? 0) & 0xffff));
  t.true(found.size <= RECENT_FLOWS_MAX);
  t.true(found.has(ports.at(-1) ?? 0));
  t.true(found.size > RECENT_FLOWS_MAX / 2);
});
