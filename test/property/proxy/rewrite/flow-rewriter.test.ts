/** What holds of every translation, whatever the segments look like. */
import test from 'ava';
import fc from 'fast-check';
import { ProtocolError, seqDistance } from '../../../../src/lib/index.js';
import {
  decodeOpenedFlow,
  decodeTranslations,
  encodeBatch,
  encodeOpenedFlow,
  encodeTranslations,
  FlowRewriter,
  forEachFrame,
  type OpenedFlow,
  type TranslationRecord,
  tcpChecksum,
} from '../../../../src/proxy/index.js';
import { PACKET_DATAGRAM, PACKET_TCP, Packet } from '../../../../src/proxy/packet.js';
import {
  ACK,
  FLOW_V4,
  FLOW_V6,
  type Flow,
  flowKey,
  icmpError,
  numbersOf,
  type Segment,
  sack,
  tcpFrame,
  timestamps,
  transportChecksumValid,
} from '../../../support/packets.js';
import { hostileBytesArbitrary } from '../arbitraries.js';

/** Any number, often one at an edge of the circle. */
const word = fc.oneof(
  fc.integer({ min: 0, max: 0xffff_ffff }),
  fc.constantFrom(0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff),
);

const flowArbitrary: fc.Arbitrary<Flow> = fc
  .record({
    base: fc.constantFrom(FLOW_V4, FLOW_V6),
    vlans: fc.array(fc.integer({ min: 0, max: 4095 }), { maxLength: 2 }),
    vnetBytes: fc.constantFrom(0, 10),
    guestPort: fc.nat({ max: 0xffff }),
    remotePort: fc.nat({ max: 0xffff }),
  })
  .map(({ base, ...rest }) => ({ ...base, ...rest }));

const openedArbitrary = fc.record({
  primaryIsn: word,
  secondaryIsn: word,
  timestamps: fc.option(fc.record({ primary: word, secondary: word }), { nil: undefined }),
});

/** Options that make sense, in any order and at any alignment, and some that make none. */
const optionsArbitrary: fc.Arbitrary<Buffer> = fc
  .array(
    fc.oneof(
      fc.constant(Buffer.from([1])),
      fc.constant(Buffer.from([0])),
      fc.constant(Buffer.from('020405b4', 'hex')),
      fc.constant(Buffer.from('030307', 'hex')),
      fc.tuple(word, word).map(([value, echo]) => timestamps(value, echo)),
      fc.tuple(word, word).map(([value, echo]) => timestamps(value, echo).subarray(2)),
      fc
        .tuple(fc.integer({ min: 1, max: 4 }), word)
        .map(([blocks, edge]) =>
          sack(...Array.from({ length: blocks * 2 }, (_, at) => (edge + at * 1000) >>> 0)),
        ),
      fc.uint8Array({ maxLength: 6 }).map((bytes) => Buffer.from(bytes)),
    ),
    { maxLength: 5 },
  )
  .map((parts) => Buffer.concat(parts).subarray(0, 40));

const segmentArbitrary: fc.Arbitrary<Segment> = fc.record({
  seq: word,
  ack: word,
  flags: fc.oneof(fc.constant(ACK), fc.nat({ max: 0xff })),
  options: optionsArbitrary,
  payload: fc.uint8Array({ maxLength: 50 }).map((bytes) => Buffer.from(bytes)),
});

function record(flow: Flow, opened: Omit<OpenedFlow, 'key'>): OpenedFlow {
  return { key: flowKey(flow), ...opened };
}

function rewriterOf(flow: Flow, opened: Omit<OpenedFlow, 'key'>): FlowRewriter {
  const rewriter = new FlowRewriter({ vnetBytes: flow.vnetBytes });
  rewriter.open(record(flow, opened));
  return rewriter;
}

test('a flow that was sent is the flow that arrives', (t) => {
  fc.assert(
    fc.property(flowArbitrary, openedArbitrary, (flow, opened) => {
      const sent = record(flow, opened);
      t.deepEqual(decodeOpenedFlow(encodeOpenedFlow(sent)), sent);
    }),
  );
});

const finArbitrary = fc.oneof(
  fc.constant([0, 0] as const),
  fc.tuple(fc.constantFrom(1 as const, 2 as const), word),
);
const recordArbitrary: fc.Arbitrary<TranslationRecord> = fc
  .record({
    flow: flowArbitrary,
    ended: fc.boolean(),
    isn: fc.option(word, { nil: undefined }),
    seqOffset: word,
    timestampOffset: word,
    guest: finArbitrary,
    remote: finArbitrary,
  })
  .map(({ flow, ended, isn, seqOffset, timestampOffset, guest, remote }) => {
    const state = {
      isn,
      seqOffset: isn === undefined ? 0 : seqOffset,
      timestampOffset: isn === undefined ? Math.max(1, timestampOffset) : timestampOffset,
      guestFin: guest[0],
      guestFinEnd: guest[1],
      remoteFin: remote[0],
      remoteFinEnd: remote[1],
    };
    return { key: flowKey(flow), state: ended ? undefined : state };
  });
const recordsArbitrary = fc.array(recordArbitrary, { minLength: 1, maxLength: 8 });

test('translations that were sent are those that arrive', (t) => {
  fc.assert(
    fc.property(recordsArbitrary, (records) => {
      t.deepEqual(decodeTranslations(encodeTranslations(records)), records);
    }),
  );
});

test('damaged translations are refused, or are legal ones that harm nothing', (t) => {
  let refused = 0;
  fc.assert(
    fc.property(
      recordsArbitrary,
      fc.array(fc.record({ at: fc.nat(), value: fc.nat({ max: 255 }) }), { maxLength: 3 }),
      fc.nat({ max: 20 }),
      segmentArbitrary,
      (records, damage, cut, segment) => {
        let bytes = encodeTranslations(records);
        for (const { at, value } of damage) bytes.writeUInt8(value, at % bytes.length);
        bytes = bytes.subarray(0, bytes.length - (cut > 10 ? 0 : cut));
        const rewriter = new FlowRewriter({ vnetBytes: 0, flowsMax: 6 });
        try {
          const decoded = decodeTranslations(bytes);
          t.deepEqual(encodeTranslations(decoded), bytes);
          for (const kept of decoded) rewriter.keep(kept);
        } catch (error) {
          if (!(error instanceof ProtocolError)) throw error;
          refused++;
        }
        rewriter.takeOver([]);
        const there = encodeBatch([tcpFrame(FLOW_V4, false, segment)]);
        const back = encodeBatch([tcpFrame(FLOW_V4, true, segment)]);
        rewriter.outbound(back);
        for (const batch of [rewriter.inbound(there), back]) {
          t.true(transportChecksumValid(FLOW_V4, batch.subarray(4)));
        }
      },
    ),
    { numRuns: 1000 },
  );
  t.true(refused > 100, `Only ${refused} were refused`);
});

test('translating back gives the segment byte for byte', (t) => {
  fc.assert(
    fc.property(flowArbitrary, openedArbitrary, segmentArbitrary, (flow, opened, segment) => {
      const batch = encodeBatch([tcpFrame(flow, false, segment)]);
      const there = rewriterOf(flow, opened);
      const back = rewriterOf(flow, {
        primaryIsn: opened.secondaryIsn,
        secondaryIsn: opened.primaryIsn,
        timestamps: opened.timestamps && {
          primary: opened.timestamps.secondary,
          secondary: opened.timestamps.primary,
        },
      });
      const between = there.mirrored(batch);
      // An echo that becomes 0 has no way back: 0 means that there is none.
      const { echo } = numbersOf(flow, batch.subarray(4), false);
      fc.pre(echo === 0 || numbersOf(flow, between.subarray(4), false).echo !== 0);
      t.deepEqual(back.mirrored(between), batch);
    }),
    { numRuns: 2000 },
  );
});

test('checksums are right after every translation, in both directions', (t) => {
  fc.assert(
    fc.property(flowArbitrary, openedArbitrary, segmentArbitrary, (flow, opened, segment) => {
      const rewriter = rewriterOf(flow, opened);
      const inward = encodeBatch([tcpFrame(flow, false, segment), icmpError(flow, segment)]);
      const check = (batch: Buffer): void =>
        forEachFrame(batch, (frame) => t.true(transportChecksumValid(flow, frame)));
      check(rewriter.mirrored(inward));
      rewriter.takeOver([inward]);
      check(rewriter.mirrored(inward));
      check(rewriter.inbound(inward));
      for (let times = 0; times < 2; times++) {
        const outward = encodeBatch([tcpFrame(flow, true, segment)]);
        rewriter.outbound(outward);
        check(outward);
      }
    }),
    { numRuns: 2000 },
  );
});

const damageArbitrary = fc.array(
  fc.record({
    at: fc.nat({ max: 120 }),
    value: fc.nat({ max: 255 }),
    cut: fc.option(fc.nat({ max: 150 })),
  }),
  { minLength: 1, maxLength: 3 },
);

test('damaged frames never throw, and nothing becomes more or less damaged', (t) => {
  const packet = new Packet();
  fc.assert(
    fc.property(
      flowArbitrary,
      openedArbitrary,
      segmentArbitrary,
      fc.boolean(),
      damageArbitrary,
      (flow, opened, segment, quotes, damage) => {
        let frame = quotes ? icmpError(flow, segment) : tcpFrame(flow, false, segment);
        for (const { at, value, cut } of damage) {
          if (at < frame.length) frame.writeUInt8(value, at);
          if (cut !== null) frame = frame.subarray(0, Math.max(14, cut));
        }
        const batch = encodeBatch([frame]);
        const rewriter = rewriterOf(flow, opened);
        for (const after of [false, true]) {
          if (after) rewriter.takeOver([batch]);
          const copy = Buffer.from(batch);
          const out = after ? rewriter.inbound(batch) : rewriter.mirrored(batch);
          t.deepEqual(batch, copy);
          t.is(out.length, batch.length);
          packet.parse(batch, 4 + flow.vnetBytes, batch.length, false);
          if (packet.kind === PACKET_TCP && (flow.vnetBytes === 0 || frame[0] === 0)) {
            t.is(checksumError(out, packet), checksumError(batch, packet));
          } else if (packet.kind !== PACKET_TCP && packet.kind !== PACKET_DATAGRAM) {
            t.is(out, batch);
          }
        }
        rewriter.outbound(Buffer.from(batch));
      },
    ),
    { numRuns: 5000 },
  );
});

test('bytes that are no batch never throw', (t) => {
  fc.assert(
    fc.property(hostileBytesArbitrary, fc.constantFrom(0, 10), (bytes, vnetBytes) => {
      const rewriter = rewriterOf(
        { ...FLOW_V4, vnetBytes },
        { primaryIsn: 1, secondaryIsn: 2, timestamps: undefined },
      );
      t.is(rewriter.mirrored(bytes), bytes);
      rewriter.takeOver([bytes]);
      t.is(rewriter.inbound(bytes), bytes);
      const outward = Buffer.from(bytes);
      rewriter.outbound(outward);
      t.deepEqual(outward, bytes);
    }),
  );
});

/** Steps of two clocks: what the remote echoes, relative to the guest's, and what the guest says. */
const historyArbitrary = fc.array(
  fc.oneof(
    fc.record({ echo: fc.integer({ min: -1_000_000, max: 2_000_000 }) }),
    fc.record({ later: fc.nat({ max: 100_000 }) }),
  ),
  { maxLength: 40 },
);

test('for a remote end the timestamps never run backwards', (t) => {
  fc.assert(
    fc.property(
      fc.option(openedArbitrary, { nil: undefined }),
      word,
      historyArbitrary,
      historyArbitrary,
      (opened, start, before, after) => {
        const flow = FLOW_V4;
        const rewriter = new FlowRewriter({ vnetBytes: 0 });
        if (opened !== undefined) rewriter.open(record(flow, opened));
        const stamps = opened?.timestamps;
        const offset = stamps === undefined ? 0 : stamps.primary - stamps.secondary;
        let clock = start;
        /** What the remote end has seen last. */
        let seen: number | undefined;
        const note = (value: number): void => {
          if (seen === undefined || seqDistance(value, seen) > 0) seen = value;
        };
        const echoOf = (echo: number): Buffer => {
          const value = (clock + offset + echo) >>> 0;
          if (value !== 0) note(value);
          const segment = { seq: 1, ack: 1, flags: ACK, options: timestamps(1, value) };
          return encodeBatch([tcpFrame(flow, false, segment)]);
        };
        rewriter.takeOver(before.flatMap((step) => ('echo' in step ? [echoOf(step.echo)] : [])));
        for (const step of after) {
          if ('echo' in step) {
            rewriter.inbound(echoOf(step.echo));
            continue;
          }
          clock = (clock + step.later) >>> 0;
          const options = timestamps(clock, 1);
          const batch = encodeBatch([
            tcpFrame(flow, true, { seq: 5, ack: 1, flags: ACK, options }),
          ]);
          rewriter.outbound(batch);
          const { value } = numbersOf(flow, batch.subarray(4), true);
          t.true(seen === undefined || seqDistance(value as number, seen) >= 0);
          note(value as number);
        }
      },
    ),
    { numRuns: 1000 },
  );
});

/** How far the checksum field is from what it should be, in ones' complement arithmetic. */
function checksumError(batch: Buffer, packet: Packet): number {
  const should = tcpChecksum(batch, packet);
  return (should - batch.readUInt16BE(packet.transportAt + 16) + 0xffff) % 0xffff;
}
