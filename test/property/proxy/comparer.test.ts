/**
 * Streams said in any way: cut, repeated, in any order, by two guests that take turns in any way.
 * If they say the same, everything leaves and nobody is asked for a checkpoint; if one byte is
 * another, there always is a mismatch and the byte does not leave.
 */
import test from 'ava';
import fc from 'fast-check';
import { ComparerPair } from '../../support/comparer-pair.js';
import { arpFrame, udpFrame } from '../../support/frames.js';
import { ACK, FIN, FLOW_V4, FLOW_V6, type Segment, SYN, tcpFrame } from '../../support/packets.js';

const RUNS = { numRuns: 300 };
const LIMITS = { historyBytes: 1024 * 1024 };
const CLIENT = 0xffff_ff00;

/** How one guest says a stream of a given length: pieces with positions, in order of sending. */
interface Telling {
  readonly isn: number;
  readonly pieces: readonly { readonly from: number; readonly to: number; readonly ack: number }[];
}

interface Story {
  readonly bytes: Buffer;
  readonly opens: boolean;
  readonly ends: boolean;
  readonly version: 4 | 6;
  readonly primary: Telling;
  readonly secondary: Telling;
  /** Whose turn it is; when one has said all, the other goes on. */
  readonly turns: readonly boolean[];
}

const MAX_ACK = 1000;
/** As many as there can be pieces: 8 cuts make 9, and 4 are said again. */
const PER_PIECE = { minLength: 13, maxLength: 13 };

/** Every byte at least once, in pieces; then some ranges again; all of it in any order. */
function tellingArbitrary(length: number): fc.Arbitrary<Telling> {
  const positions = fc.nat({ max: length });
  return fc
    .record({
      isn: fc.oneof(fc.nat(0xffff_ffff), fc.constantFrom(0xffff_ff80, 0xffff_ffff, 0, 0x7fff_ffff)),
      cuts: fc.array(positions, { maxLength: 8 }),
      again: fc.array(fc.tuple(positions, positions), { maxLength: 4 }),
      order: fc.array(fc.nat(1000), PER_PIECE),
      acks: fc.array(fc.nat(MAX_ACK), PER_PIECE),
      isShuffled: fc.boolean(),
    })
    .map(({ isn, cuts, again, order, acks, isShuffled }) => {
      const edges = [0, ...cuts, length].sort((a, b) => a - b);
      const ranges = edges.slice(1).map((to, index) => [edges[index] as number, to] as const);
      ranges.push(...again.map(([a, b]) => [Math.min(a, b), Math.max(a, b)] as const));
      const ranked = ranges.map(([from, to], index) => ({
        from,
        to,
        ack: acks[index] as number,
        rank: isShuffled ? (order[index] as number) : 0,
      }));
      return { isn, pieces: ranked.sort((a, b) => a.rank - b.rank) };
    });
}

const storyArbitrary: fc.Arbitrary<Story> = fc.nat({ max: 400 }).chain((length) =>
  fc.record({
    bytes: fc
      .uint8Array({ minLength: length, maxLength: length })
      .map((bytes) => Buffer.from(bytes)),
    opens: fc.boolean(),
    ends: fc.boolean(),
    version: fc.constantFrom(4, 6),
    primary: tellingArbitrary(length),
    secondary: tellingArbitrary(length),
    turns: fc.array(fc.boolean(), { maxLength: 40 }),
  }),
);

/** The segments of one guest. Both have the PVM's numbers unless the connection opens here. */
function segmentsOf(story: Story, telling: Telling, bytes: Buffer): Segment[] {
  const isn = story.opens ? telling.isn : story.primary.isn;
  const segments: Segment[] = telling.pieces.map(({ from, to, ack }) => {
    const isLast = to === bytes.length && story.ends;
    return {
      seq: (isn + 1 + from) >>> 0,
      ack: (CLIENT + ack) >>> 0,
      flags: isLast ? ACK | FIN : ACK,
      payload: bytes.subarray(from, to),
    };
  });
  if (story.opens) segments.unshift({ seq: isn, ack: CLIENT, flags: ACK | SYN });
  // In the end both have acknowledged the same.
  const next = (isn + 1 + bytes.length + (story.ends ? 1 : 0)) >>> 0;
  segments.push({ seq: next, ack: (CLIENT + MAX_ACK) >>> 0, flags: ACK });
  return segments;
}

function tell(pair: ComparerPair, story: Story, sides: { pvm: Buffer[]; svm: Buffer[] }): void {
  const [pvm, svm] = [sides.pvm.values(), sides.svm.values()];
  for (const turn of story.turns) {
    const { value } = (turn ? pvm : svm).next();
    if (value !== undefined) pair[turn ? 'pvm' : 'svm'](value);
  }
  for (const frame of pvm) pair.pvm(frame);
  for (const frame of svm) pair.svm(frame);
}

function pairOf(story: Story): { pair: ComparerPair; pvm: Buffer[]; svm: Buffer[] } {
  const flow = story.version === 4 ? FLOW_V4 : FLOW_V6;
  const pair = new ComparerPair({ flow, limits: LIMITS });
  const frames = (telling: Telling): Buffer[] =>
    segmentsOf(story, telling, story.bytes).map((segment) => tcpFrame(flow, true, segment));
  return { pair, pvm: frames(story.primary), svm: frames(story.secondary) };
}

const texts = (frames: readonly Buffer[]): string[] => frames.map((frame) => frame.toString('hex'));

test('the same stream said in two ways never differs, and all of it leaves in order', (t) => {
  fc.assert(
    fc.property(storyArbitrary, (story) => {
      const { pair, pvm, svm } = pairOf(story);
      tell(pair, story, { pvm, svm });
      t.deepEqual(pair.asked, [], pair.describe());
      t.deepEqual(texts(pair.left()), texts(pvm));
      t.is(pair.opened.length, story.opens ? 1 : 0);
      t.deepEqual(pair.checkpoint(), []);
    }),
    RUNS,
  );
});

test('the same stream said over a checkpoint differs neither', (t) => {
  fc.assert(
    fc.property(storyArbitrary, fc.nat({ max: 12 }), (story, edge) => {
      const { pair, pvm, svm } = pairOf({ ...story, opens: false });
      const ours = pvm.slice(0, edge);
      tell(pair, story, { pvm: ours, svm: svm.slice(0, edge) });
      const left = [...pair.left(), ...pair.checkpoint()];
      t.deepEqual(texts(left).sort(), texts(ours).sort());
      // After the checkpoint the SVM may say all of it again, or nothing that it has said.
      tell(pair, story, { pvm: pvm.slice(edge), svm });
      t.deepEqual(pair.asked, [], pair.describe());
      t.deepEqual(texts(pair.left()), texts(pvm.slice(edge)));
    }),
    RUNS,
  );
});

test('one byte that is another always is a mismatch, and does not leave', (t) => {
  fc.assert(
    fc.property(
      storyArbitrary.filter(({ bytes }) => bytes.length > 0),
      fc.nat(),
      fc.integer({ min: 1, max: 255 }),
      fc.boolean(),
      (story, position, change, isOurs) => {
        const at = position % story.bytes.length;
        const changed = Buffer.from(story.bytes);
        changed.writeUInt8((changed[at] as number) ^ change, at);
        const { pair, pvm, svm } = pairOf(story);
        const telling = isOurs ? story.primary : story.secondary;
        const flow = pair.flow;
        const odd = segmentsOf(story, telling, changed).map((s) => tcpFrame(flow, true, s));
        const sides = isOurs ? { pvm: odd, svm } : { pvm, svm: odd };
        tell(pair, story, sides);
        t.true(pair.asked.includes('divergence'), pair.describe());
        t.is(pair.mismatches[0]?.offset, story.opens ? at : pair.mismatches[0]?.offset);
        // No piece with the byte left, whichever side it is that changed it.
        const shift = story.opens ? 1 : 0;
        const withByte = story.primary.pieces.flatMap(({ from, to }, index) =>
          from <= at && at < to ? [(sides.pvm[index + shift] as Buffer).toString('hex')] : [],
        );
        const left = texts(pair.left());
        t.deepEqual(
          left.filter((text) => withByte.includes(text)),
          [],
        );
        t.deepEqual(left, texts(sides.pvm).slice(0, left.length));
        t.deepEqual([...left, ...texts(pair.checkpoint())], texts(sides.pvm));
      },
    ),
    RUNS,
  );
});

test('one byte that is another in one repetition of many is a mismatch', (t) => {
  fc.assert(
    fc.property(
      storyArbitrary,
      fc.nat(),
      fc.nat(),
      fc.boolean(),
      (story, which, position, isOurs) => {
        const { pair, pvm, svm } = pairOf(story);
        const frames = isOurs ? pvm : svm;
        const { pieces } = isOurs ? story.primary : story.secondary;
        const index = which % pieces.length;
        const piece = pieces[index];
        fc.pre(piece !== undefined && piece.to > piece.from);
        const frame = frames[index + (story.opens ? 1 : 0)] as Buffer;
        const payloadAt = frame.length - (piece.to - piece.from);
        const at = payloadAt + (position % (piece.to - piece.from));
        frame.writeUInt8((frame[at] as number) ^ 0x10, at);
        tell(pair, story, { pvm, svm });
        t.true(pair.asked.includes('divergence'), pair.describe());
        const left = texts(pair.left());
        if (isOurs) t.false(left.includes(frame.toString('hex')));
        t.deepEqual([...left, ...texts(pair.checkpoint())], texts(pvm));
      },
    ),
    RUNS,
  );
});

/** Frames of a few flows of every kind, some of which only one side says, or says otherwise. */
const chatterArbitrary = fc.array(
  fc.record({
    flow: fc.nat({ max: 5 }),
    text: fc.constantFrom('a', 'b', 'cc'),
    says: fc.constantFrom('pvm', 'svm', 'both', 'checkpoint', 'tick'),
  }),
  { maxLength: 60 },
);

test('nothing is lost, nothing leaves twice, and each flow keeps its order', (t) => {
  fc.assert(
    fc.property(chatterArbitrary, (chatter) => {
      const pair = new ComparerPair({ limits: { ...LIMITS, flowsMax: 4 } });
      const said: string[] = [];
      const left: string[] = [];
      const collect = () => left.push(...texts(pair.left()));
      for (const { flow, text, says } of chatter) {
        const to = { ...FLOW_V4, remotePort: flow };
        const frame = flow === 0 ? arpFrame(text.length) : udpFrame(to, text);
        if (says === 'tick') {
          pair.nowUs += 150_000;
          pair.comparer.tick(pair.nowUs);
        }
        if (says === 'checkpoint') left.push(...texts(pair.checkpoint()));
        if (says === 'svm' || says === 'both') pair.svm(frame);
        collect();
        if (says === 'pvm' || says === 'both') {
          said.push(frame.toString('hex'));
          pair.pvm(frame);
        }
        collect();
        t.is(pair.comparer.counters.heldFrames, said.length - left.length);
      }
      left.push(...texts(pair.checkpoint()));
      const portOf = (frame: string) => frame.slice(72, 76);
      for (let port = 0; port <= 5; port++) {
        const ofFlow = (frame: string) => portOf(frame) === port.toString(16).padStart(4, '0');
        t.deepEqual(left.filter(ofFlow), said.filter(ofFlow));
      }
      t.is(left.length, said.length);
    }),
    RUNS,
  );
});

const SCALE = 4;
const UNIT = 1 << SCALE;

/** A guest's acknowledgements and windows: neither ever goes back. */
const roomsArbitrary = fc.array(
  fc.record({ isOurs: fc.boolean(), acked: fc.nat({ max: 3000 }), units: fc.nat({ max: 400 }) }),
  { minLength: 1, maxLength: 40 },
);

test('the client is never told more room than both have, and none is taken back', (t) => {
  fc.assert(
    fc.property(roomsArbitrary, (rooms) => {
      const pair = new ComparerPair({ limits: LIMITS });
      const options = Buffer.from([3, 3, SCALE, 1]);
      const open = { seq: 0, ack: 0, flags: SYN | ACK, window: 0, options };
      pair.pvm(pair.frame(open));
      pair.svm(pair.frame({ ...open, seq: 77 }));
      pair.left();
      const guests = { pvm: { acked: 0, edge: 0 }, svm: { acked: 0, edge: 0 } };
      let told = 0;
      const say = (side: 'pvm' | 'svm', acked: number, units: number): void => {
        const guest = guests[side];
        guest.acked += acked;
        const window = Math.max(Math.ceil((guest.edge - guest.acked) / UNIT), 0) + units;
        guest.edge = guest.acked + window * UNIT;
        const seq = side === 'pvm' ? 1 : 78;
        pair[side](pair.frame({ seq, ack: guest.acked, flags: ACK, window }));
        for (const frame of pair.left()) {
          const edge = frame.readUInt32BE(42) + frame.readUInt16BE(48) * UNIT;
          t.true(edge <= guests.svm.edge && edge <= guests.pvm.edge);
          // Windows are rounded down, for each acknowledgement anew.
          t.true(edge > told - UNIT, `${edge} after ${told}`);
          told = Math.max(told, edge);
        }
      };
      for (const { isOurs, acked, units } of rooms) say(isOurs ? 'pvm' : 'svm', acked, units);
      // Once the SVM has caught up, the client knows all but what is worth no packet.
      const { pvm, svm } = guests;
      const behind = Math.max(pvm.acked - svm.acked, 0);
      say('svm', behind, Math.max(Math.ceil((pvm.edge - svm.edge) / UNIT), 0));
      t.true(told > pvm.edge - 2920 - UNIT, `${told} of ${pvm.edge}`);
      t.deepEqual(pair.asked, []);
    }),
    RUNS,
  );
});
