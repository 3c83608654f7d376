/**
 * One connection that outlives host after host, driven at random: each guest is made equal to the
 * one before by checkpoints, hears what that one hears in that one's numbers, and takes over when
 * it dies. The remote end must see one connection without a gap, a wrong acknowledgement or a
 * timestamp that runs backwards; each guest must see acknowledgements and echoes in its own
 * numbers.
 *
 * What the running guest says leaves when the next one has said and acknowledged as much, or by a
 * checkpoint. What the primary tells of its translations goes through its bytes.
 */
import test from 'ava';
import fc from 'fast-check';
import { seqAdd, seqDistance } from '../../../../src/lib/index.js';
import {
  decodeTranslations,
  encodeBatch,
  encodeTranslations,
  FlowRewriter,
  type TranslationRecord,
} from '../../../../src/proxy/index.js';
import {
  FLOW_V4,
  FLOW_V6,
  type Flow,
  flowKey,
  type Numbers,
  numbersOf,
  RST,
  type Segment,
  tcpFrame,
  transportChecksumValid,
} from '../../../support/packets.js';
import { Stack } from './stack.js';

interface Birth {
  readonly isn: number;
  /** TSval at time 0, before any checkpoint. */
  readonly clock: number;
}

interface Setup {
  readonly flow: Flow;
  /** The guest opened the connection. */
  readonly guestActive: boolean;
  readonly remote: Birth;
  readonly guests: readonly [Birth, Birth];
  /** By how much each guest's clock is behind the one's that it was made from. */
  readonly lag: number;
}

type Step =
  | { kind: 'write'; bytes: Uint8Array }
  | { kind: 'pass'; time: number }
  | { kind: 'remote' | 'source' | 'target' | 'toSource' | 'toTarget' | 'toRemote' }
  | { kind: 'checkpoint' }
  | { kind: 'failover'; mirrored: number };

/** The guest of one host, and what is translated there. */
interface Host {
  readonly stack: Stack;
  readonly rewriter: FlowRewriter;
  /** Added to the time for the guest's TSval. */
  clock: number;
  /** It has taken over, and is heard through its rewriter. */
  live: boolean;
}

const PASS_MAX = 300;
/** Units that one guest's SYN may come later than the other's; with `lag`, less than the margin. */
const COMPARE_TIMEOUT = 200;
const LAG_MAX = 100;
/** Of an echo: the time of a whole run, and a margin for each of some failovers. */
const ECHO_AGE_MAX = 100_000;

class Model {
  readonly remote: Stack;
  readonly #setup: Setup;
  readonly #flow: Flow;
  #now = 0;
  #source: Host;
  #target: Host;
  /** The target executes, from the state of a checkpoint. */
  #synced = true;
  #opened = false;
  #toSource: Segment[] = [];
  /** In the source's numbers, since the last checkpoint: on its way, and delivered. */
  #toTarget: Buffer[] = [];
  #mirrored: Buffer[] = [];
  #held: { segment: Segment; sent: number; received: number }[] = [];
  #toRemote: Buffer[] = [];
  /** Nothing mirrored since the last checkpoint echoes what the running guest said last. */
  #unseen = false;
  #patience = COMPARE_TIMEOUT;
  staleAllowed = false;
  failovers = 0;
  translatedFailovers = 0;

  constructor(setup: Setup) {
    this.#setup = setup;
    this.#flow = setup.flow;
    const { remote, guests, guestActive } = setup;
    this.remote = new Stack({
      isn: remote.isn,
      clock: () => seqAdd(remote.clock, this.#now),
      active: !guestActive,
    });
    this.#source = this.#makeHost(guests[0]);
    this.#target = this.#makeHost(guests[1]);
  }

  get guest(): Stack {
    return this.#source.stack;
  }

  get counters() {
    return this.#source.rewriter.counters;
  }

  step(step: Step): void {
    switch (step.kind) {
      case 'write':
        this.remote.send(step.bytes);
        return;
      case 'pass':
        this.#pass(step.time);
        return;
      case 'remote':
        this.#toSource.push(...this.remote.poll(false));
        return;
      case 'source':
        this.#sourceSpeaks(false);
        return;
      case 'target':
        this.#targetSpeaks();
        return;
      case 'toSource':
        this.#deliverToSource();
        return;
      case 'toTarget':
        this.#deliverToTarget();
        return;
      case 'toRemote':
        this.#deliverToRemote();
        return;
      case 'checkpoint':
        this.#checkpoint();
        return;
      case 'failover':
        this.#failOver(step.mirrored);
        return;
    }
  }

  /** Everybody says everything, with a checkpoint now and then, until nobody has more to say. */
  finish(): boolean {
    this.remote.close();
    for (let round = 0; round < 60; round++) {
      this.#now += 250;
      this.#toSource.push(...this.remote.poll(true));
      while (this.#toSource.length > 0) this.#deliverToSource();
      this.#sourceSpeaks(true);
      this.#checkpoint();
      while (this.#toRemote.length > 0) this.#deliverToRemote();
      if (this.remote.finished && this.guest.finished) return true;
    }
    return false;
  }

  /** A comparer waits only so long for the other guest's SYN, and then asks for a checkpoint. */
  #pass(time: number): void {
    const one = this.#source.stack.synTimestamp === undefined;
    const other = this.#target.stack.synTimestamp === undefined;
    const passed = one === other || !this.#synced ? time : Math.min(time, this.#patience);
    if (one !== other && this.#synced) this.#patience -= passed;
    this.#now += passed;
  }

  #makeHost({ isn, clock }: Birth): Host {
    const host: Host = {
      stack: new Stack({
        isn,
        clock: () => seqAdd(host.clock, this.#now),
        active: this.#setup.guestActive,
      }),
      rewriter: new FlowRewriter({ vnetBytes: this.#flow.vnetBytes }),
      clock,
      live: false,
    };
    return host;
  }

  #sourceSpeaks(again: boolean): void {
    const { stack } = this.#source;
    for (const segment of stack.poll(again)) {
      const { sentPosition: sent, receivedPosition: received } = stack;
      this.#held.push({ segment, sent, received });
    }
    this.#release();
  }

  #targetSpeaks(): void {
    if (!this.#synced) return;
    this.#target.stack.poll(false);
    this.#release();
  }

  /** What the target implies leaves, in order. */
  #release(): void {
    if (!this.#synced) return;
    const { stack } = this.#target;
    this.#reportOpened();
    for (let [first] = this.#held; first !== undefined; [first] = this.#held) {
      if (first.sent > stack.sentPosition || first.received > stack.receivedPosition) return;
      if (!this.#opened && this.#source.stack.isn !== stack.isn) return;
      this.#held.shift();
      this.#leave(first.segment);
    }
  }

  #reportOpened(): void {
    const [primary, secondary] = [this.#source.stack, this.#target.stack];
    if (this.#opened || primary.isn === secondary.isn) return;
    if (primary.synTimestamp === undefined || secondary.synTimestamp === undefined) return;
    this.#opened = true;
    this.#target.rewriter.open({
      key: flowKey(this.#flow),
      primaryIsn: primary.isn,
      secondaryIsn: secondary.isn,
      timestamps: { primary: primary.synTimestamp, secondary: secondary.synTimestamp },
    });
  }

  /** The only place where what is said is translated. */
  #leave(segment: Segment): void {
    const batch = encodeBatch([tcpFrame(this.#flow, true, segment)]);
    if (this.#source.live) this.#source.rewriter.outbound(batch);
    this.#toRemote.push(batch.subarray(4));
    this.#unseen = true;
  }

  #deliverToSource(): void {
    const segment = this.#toSource.shift();
    if (segment === undefined) return;
    const batch = encodeBatch([tcpFrame(this.#flow, false, segment)]);
    const { live, rewriter } = this.#source;
    const given = live ? rewriter.inbound(batch) : batch;
    this.#hear(this.#source, given);
    this.#toTarget.push(given);
  }

  #deliverToTarget(): void {
    const batch = this.#toTarget.shift();
    if (batch === undefined) return;
    this.#note(batch);
    if (!this.#synced) return;
    this.#hear(this.#target, this.#target.rewriter.mirrored(batch));
    this.#release();
  }

  #hear(host: Host, batch: Buffer): void {
    const seen = this.#checked(batch.subarray(4), false);
    const { echo = 0 } = seen;
    const age = seqDistance(seqAdd(host.clock, this.#now), echo);
    if (echo !== 0 && Math.abs(age) > ECHO_AGE_MAX) {
      throw new Error(`A guest hears an echo that is ${age} units old`);
    }
    host.stack.receive(seen);
    serve(host.stack);
  }

  #note(batch: Buffer): void {
    this.#mirrored.push(batch);
    const { echo } = numbersOf(this.#flow, batch.subarray(4), false);
    if (echo !== 0) this.#unseen = false;
  }

  #deliverToRemote(): void {
    const frame = this.#toRemote.shift();
    if (frame !== undefined) this.remote.receive(this.#checked(frame, true));
  }

  /** The target becomes what the source is; what was held leaves. */
  #checkpoint(): void {
    const [source, target] = [this.#source, this.#target];
    const { isn } = target.stack;
    target.stack.become(source.stack);
    // A connection that is not there yet will be opened by each guest in its own way.
    if (source.stack.synTimestamp === undefined) target.stack.isn = isn;
    answeredBytes.set(target.stack, answeredBytes.get(source.stack) ?? 0);
    target.clock = seqAdd(source.clock, -this.#setup.lag);
    target.rewriter.forget();
    this.#synced = true;
    this.#opened = false;
    this.#toTarget = [];
    this.#mirrored = [];
    this.#unseen = true;
    for (const { segment } of this.#held.splice(0)) this.#leave(segment);
  }

  /** Of what is on its way to the target, only the first `mirrored` batches arrive. */
  #failOver(mirrored: number): void {
    if (!this.#synced) return;
    const target = this.#target;
    const rest = this.#toTarget.slice(0, mirrored);
    for (const batch of rest) this.#note(batch);
    const isTranslated = target.rewriter.counters.flows + target.rewriter.counters.mirroredFlows;
    // Nobody can know what was seen of a guest whose numbers are nowhere translated.
    if (this.#unseen && isTranslated === 0) this.staleAllowed = true;
    target.rewriter.takeOver(this.#mirrored);
    target.live = true;
    for (const batch of rest) this.#hear(target, target.rewriter.mirrored(batch));
    target.rewriter.forget();
    this.#held = [];
    this.#toTarget = [];
    // What had reached the dead host's TAP is lost; what is on the LAN goes to the other.
    this.#source = target;
    this.failovers++;
    if (isTranslated > 0) this.translatedFailovers++;
    this.#rejoin();
  }

  #rejoin(): void {
    const { rewriter } = this.#source;
    this.#target = this.#makeHost(this.#setup.guests[this.failovers % 2 === 0 ? 1 : 0]);
    const next = this.#target.rewriter;
    const send = (records: readonly TranslationRecord[]): void => {
      if (records.length === 0) return;
      for (const record of decodeTranslations(encodeTranslations(records))) next.keep(record);
    };
    send(rewriter.records());
    rewriter.onChange = (record) => send([record]);
    this.#synced = false;
    this.#mirrored = [];
  }

  #checked(frame: Buffer, fromGuest: boolean): Numbers {
    if (!transportChecksumValid(this.#flow, frame)) throw new Error('A checksum is wrong');
    const numbers = numbersOf(this.#flow, frame, fromGuest);
    if ((numbers.flags & RST) !== 0) throw new Error('A reset');
    return numbers;
  }
}

/** The guests' program: each byte comes back changed; who closes is answered so. */
function serve(end: Stack): void {
  const { received } = end;
  const answered = answeredBytes.get(end) ?? 0;
  end.send(received.subarray(answered).map((byte) => byte ^ 0x5a));
  answeredBytes.set(end, received.length);
  if (end.finReceived) end.close();
}

const answeredBytes = new WeakMap<Stack, number>();

const word = fc.oneof(
  fc.integer({ min: 1, max: 0xffff_ffff }),
  fc.constantFrom(0xffff_ffff, 0xffff_ff80, 0x7fff_ffff, 0x8000_0000),
);
const birth = fc.record({ isn: word, clock: word });

const setupArbitrary: fc.Arbitrary<Setup> = fc.record({
  flow: fc.constantFrom(FLOW_V4, FLOW_V6, { ...FLOW_V4, vlans: [5], vnetBytes: 10 }),
  guestActive: fc.boolean(),
  remote: birth,
  guests: fc.tuple(birth, birth).filter(([one, other]) => one.isn !== other.isn),
  lag: fc.nat({ max: LAG_MAX }),
});

const stepArbitrary: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('write' as const),
      bytes: fc.uint8Array({ minLength: 1, maxLength: 100 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('pass' as const), time: fc.nat({ max: PASS_MAX }) }),
  },
  {
    weight: 24,
    arbitrary: fc.record({
      kind: fc.constantFrom(
        ...(['remote', 'source', 'target', 'toSource', 'toTarget', 'toRemote'] as const),
      ),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('checkpoint' as const) }) },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant('failover' as const), mirrored: fc.nat({ max: 4 }) }),
  },
);

test('a remote end sees one connection, however many hosts die', (t) => {
  let resumed = 0;
  fc.assert(
    fc.property(
      setupArbitrary,
      fc.array(stepArbitrary, { maxLength: 250, size: 'max' }),
      (setup, steps) => {
        const model = new Model(setup);
        let written = Buffer.alloc(0);
        for (const step of steps) {
          model.step(step);
          if (step.kind === 'write') written = Buffer.concat([written, step.bytes]);
        }
        if (model.translatedFailovers > 1 && model.remote.received.length > 0) resumed++;
        t.true(model.finish(), 'The connection does not come to its end');
        t.true(model.guest.received.equals(written));
        t.true(model.remote.received.equals(written.map((byte) => byte ^ 0x5a)));
        if (!model.staleAllowed) t.is(model.remote.staleSegments, 0);
        // Nothing is translated any more but what may still be repeated.
        const { flows, closedFlows, watchedFlows } = model.counters;
        t.is(flows, closedFlows + watchedFlows);
      },
    ),
    { numRuns: 1500, includeErrorInReport: true },
  );
  t.true(resumed > 100, `Only ${resumed} connections were translated over two failovers`);
});
