/**
 * Two cores and a network that cuts where it likes: at any byte, in either direction, also while
 * they agree on how to go on. Every frame arrives once and in order.
 */
import test from 'ava';
import { AssertionFailed, Prng, ProtocolError } from '../../../src/lib/index.js';
import { FRAME_TYPES } from '../../../src/transport/attach-wire.js';
import { encodeFrame, type Frame, FrameDecoder } from '../../../src/transport/index.js';
import { ResumeCore } from '../../../src/transport/resume-core.js';
import { decodeResume, encodeReceived } from '../../../src/transport/resume-wire.js';

const SEEDS = Number(process.env['COLO_RESUME_SEEDS'] ?? 3000);
const IDENTITY = { sessionId: Buffer.alloc(16, 5), channel: 'ram', resumes: true } as const;
const LIMITS = { maxPayloadBytes: 1 << 16 };

/** One end: a core, and what its connection has under way to it. */
class End {
  readonly core = new ResumeCore(IDENTITY);
  readonly #random: Prng;
  #decoder = new FrameDecoder(LIMITS);
  /** On the wire to the other end. */
  out: Buffer = Buffer.alloc(0);
  sent = 0;
  taken = 0;

  constructor(random: Prng) {
    this.#random = random;
  }

  write(buffers: readonly Buffer[]): void {
    this.out = Buffer.concat([this.out, ...buffers]);
  }

  send(): void {
    const payload = Buffer.alloc(4 + this.#random.nextInt(0, 60), this.sent & 0xff);
    payload.writeUInt32BE(this.sent, 0);
    this.sent += 1;
    const buffers = encodeFrame(0x100 + (this.sent % 7), [payload]);
    this.core.sent(buffers, 16 + payload.length);
    if (this.core.live) this.write(buffers);
  }

  replay(): void {
    for (const { buffers } of this.core.held) this.write(buffers);
  }

  /** Returns what came for the user. */
  read(bytes: Buffer): Frame[] {
    const delivered: Frame[] = [];
    for (const frame of this.#decoder.write(bytes)) {
      const { kind } = this.core.came(frame);
      if (kind === 'deliver') delivered.push(frame);
      if (kind === 'resumed') this.replay();
    }
    if (this.core.live && this.#random.chance(0.3) && this.core.owesAck) {
      this.write(this.core.ack());
    }
    return delivered;
  }

  fresh(): void {
    this.#decoder = new FrameDecoder(LIMITS);
    this.out = Buffer.alloc(0);
  }

  lose(): void {
    this.fresh();
    this.core.lost();
  }
}

/** One run; throws at the first thing that is not as promised. */
class Run {
  readonly #random: Prng;
  readonly dials: End;
  readonly listens: End;
  /** The listening end has not read the resume of the present connection. */
  #unasked = false;
  #asked: Buffer = Buffer.alloc(0);
  #attempt = 0;
  cuts = 0;

  constructor(seed: number) {
    this.#random = new Prng(seed);
    this.dials = new End(this.#random);
    this.listens = new End(this.#random);
  }

  step(): void {
    const random = this.#random;
    if (random.chance(0.05)) this.#cut();
    else if (random.chance(0.4)) (random.chance(0.5) ? this.dials : this.listens).send();
    else if (!this.dials.core.live && !this.dials.core.asking) this.#dial();
    else if (random.chance(0.5)) this.#carry(this.dials, this.listens);
    else this.#carry(this.listens, this.dials);
  }

  finish(): void {
    if (!this.dials.core.live && !this.dials.core.asking) this.#dial();
    while (this.dials.out.length + this.listens.out.length > 0) {
      this.#carry(this.dials, this.listens);
      this.#carry(this.listens, this.dials);
    }
  }

  /** The listening end may notice only when it is asked again. */
  #cut(): void {
    this.cuts += 1;
    this.dials.lose();
    this.listens.fresh();
    this.#unasked = false;
    if (this.#random.chance(0.5)) this.listens.core.lost();
  }

  #dial(): void {
    this.#attempt += 1;
    this.#unasked = true;
    this.#asked = Buffer.alloc(0);
    this.listens.fresh();
    this.dials.fresh();
    this.dials.write(this.dials.core.ask(this.#attempt));
  }

  #carry(from: End, to: End): void {
    // A half-open connection swallows what is written to it.
    if (from === this.listens && this.#isSevered) from.fresh();
    const bytes = from.out.subarray(0, this.#random.nextInt(0, from.out.length));
    from.out = from.out.subarray(bytes.length);
    if (bytes.length === 0) return;
    if (to === this.listens && this.#unasked) this.#ask(bytes);
    else this.#deliver(to, from, bytes);
  }

  get #isSevered(): boolean {
    return this.#unasked || (!this.dials.core.live && !this.dials.core.asking);
  }

  #ask(bytes: Buffer): void {
    this.#asked = Buffer.concat([this.#asked, bytes]);
    const [frame] = new FrameDecoder(LIMITS).write(this.#asked);
    if (frame === undefined) return;
    this.#unasked = false;
    const answer = this.listens.core.answer(decodeResume(frame.payload));
    this.listens.fresh();
    this.listens.write(answer);
    this.listens.replay();
  }

  #deliver(to: End, from: End, bytes: Buffer): void {
    for (const { payload } of to.read(bytes)) {
      const number = payload.readUInt32BE(0);
      if (number !== to.taken) throw new Error(`Frame ${number} came instead of ${to.taken}`);
      if (number >= from.sent) throw new Error(`Frame ${number} was never sent`);
      to.taken += 1;
    }
  }
}

test(`${SEEDS} runs with cuts at any byte: every frame arrives once and in order`, (t) => {
  let cuts = 0;
  let frames = 0;
  for (let seed = 1; seed <= SEEDS; seed += 1) {
    const run = new Run(seed);
    try {
      for (let step = 0; step < 300; step += 1) run.step();
      run.finish();
      for (const [from, to] of [
        [run.dials, run.listens],
        [run.listens, run.dials],
      ] as const) {
        if (to.taken !== from.sent) throw new Error(`${to.taken} of ${from.sent} frames came`);
        frames += to.taken;
        from.core.came({
          type: FRAME_TYPES.ack,
          payload: encodeReceived(to.taken),
        });
        if (from.core.heldBytes !== 0 || from.core.held.length > 0) {
          throw new Error(`${from.core.heldBytes} bytes are held after all is acknowledged`);
        }
      }
      cuts += run.cuts;
    } catch (error) {
      t.fail(`COLO_RESUME_SEED ${seed}: ${String(error)}`);
      return;
    }
  }
  t.log(`${cuts} cuts, ${frames} frames`);
  t.true(cuts > 5 * SEEDS);
});

function resumeOf(fields: { sessionId?: Buffer; attempt?: number; received?: number }) {
  return {
    sessionId: IDENTITY.sessionId,
    channel: 'ram',
    attempt: 1,
    received: 0,
    ...fields,
  } as const;
}

/** A core that has sent `sent` frames, of which `acked` are acknowledged. */
function coreWith(sent: number, acked: number): ResumeCore {
  const core = new ResumeCore(IDENTITY);
  for (let n = 0; n < sent; n += 1) core.sent(encodeFrame(0x100, [Buffer.from([n])]), 17);
  core.came({ type: FRAME_TYPES.ack, payload: encodeReceived(acked) });
  return core;
}

test('a resume that can not be is refused and changes nothing', (t) => {
  const core = coreWith(10, 4);
  const refused = [
    resumeOf({ sessionId: Buffer.alloc(16, 6) }),
    { ...resumeOf({}), channel: 'disk', received: 5 } as const,
    resumeOf({ received: 3 }),
    resumeOf({ received: 11 }),
    resumeOf({ attempt: 0, received: 5 }),
  ];
  for (const resume of refused) {
    t.throws(() => core.answer(resume), { instanceOf: ProtocolError });
    t.is(core.held.length, 6);
    t.true(core.live);
  }
  core.answer(resumeOf({ received: 5 }));
  t.is(core.held.length, 5);
  t.throws(() => core.answer(resumeOf({ received: 6 })), { message: /older than the last/ });
  core.answer(resumeOf({ attempt: 2, received: 10 }));
  t.is(core.heldBytes, 0);
});

test('acknowledgements may be late or doubled, but not of what was never sent', (t) => {
  const core = coreWith(10, 4);
  core.came({ type: FRAME_TYPES.ack, payload: encodeReceived(2) });
  core.came({ type: FRAME_TYPES.ack, payload: encodeReceived(4) });
  t.is(core.held.length, 6);
  const ack = { type: FRAME_TYPES.ack, payload: encodeReceived(11) };
  t.throws(() => core.came(ack), { instanceOf: ProtocolError });
});

test('before it knows where to go on a link takes nothing but the answer', (t) => {
  const core = coreWith(3, 0);
  t.throws(() => core.ask(1), { instanceOf: AssertionFailed });
  core.lost();
  core.ask(1);
  t.throws(() => core.came({ type: 0x100, payload: Buffer.alloc(0) }), {
    instanceOf: ProtocolError,
  });
  for (const received of [4, 2 ** 40]) {
    const answer = { type: FRAME_TYPES.resumeOk, payload: encodeReceived(received) };
    t.throws(() => core.came(answer), { instanceOf: ProtocolError });
  }
  const answer = { type: FRAME_TYPES.resumeOk, payload: encodeReceived(1) };
  t.is(core.came(answer).kind, 'resumed');
  t.is(core.held.length, 2);
  t.is(core.came({ type: FRAME_TYPES.bye, payload: Buffer.alloc(0) }).kind, 'bye');
});

test('a core goes on elsewhere with what it holds', (t) => {
  const core = coreWith(10, 4);
  for (let n = 0; n < 5; n += 1) core.came({ type: 0x100, payload: Buffer.alloc(3) });
  const next = new ResumeCore(structuredClone(core.state(2)));
  t.is(next.heldBytes, core.heldBytes);
  t.deepEqual(
    next.held.map(({ buffers }) => Buffer.concat(buffers)),
    core.held.map(({ buffers }) => Buffer.concat(buffers)),
  );
  const [, payload] = next.ack();
  t.deepEqual(payload, encodeReceived(3));
});

test('a link that is not to be resumed keeps nothing', (t) => {
  const core = new ResumeCore({ ...IDENTITY, resumes: false });
  for (let n = 0; n < 10; n += 1) core.sent(encodeFrame(0x100, []), 16);
  core.came({ type: FRAME_TYPES.ack, payload: encodeReceived(10) });
  t.is(core.heldBytes, 0);
});
