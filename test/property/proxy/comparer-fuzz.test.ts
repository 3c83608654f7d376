/**
 * Malformed and mutated frames of every kind. The comparer must not crash, must lose no frame and
 * let none go twice, must let nothing go that an oracle (compare-oracle.ts) knows to be
 * unconfirmed, and must stay within its bounds.
 *
 * COLO_FUZZ_FRAMES sets how many frames there are (default 100,000), COLO_FUZZ_SEED which.
 */
import test, { type ExecutionContext } from 'ava';
import { Prng, ProtocolError } from '../../../src/lib/index.js';
import { Comparer, type OpenedFlow } from '../../../src/proxy/index.js';
import { Oracle } from '../../support/compare-oracle.js';
import {
  arpFrame,
  echoFrame,
  fragmentFrames,
  UDP,
  udpBody,
  udpFrame,
} from '../../support/frames.js';
import {
  ACK,
  FIN,
  FLOW_V4,
  FLOW_V6,
  type Flow,
  PSH,
  RST,
  SYN,
  sack,
  tcpFrame,
  timestamps,
} from '../../support/packets.js';

const FRAMES = Number(process.env['COLO_FUZZ_FRAMES'] ?? 100_000);
const SEED = Number(process.env['COLO_FUZZ_SEED'] ?? 1);
const LIMITS = {
  flowsMax: 24,
  heldFramesSoft: 200,
  heldBytesSoft: 64 * 1024,
  aheadFramesMax: 200,
  aheadBytesMax: 64 * 1024,
  historyBytes: 256 * 1024,
};
/** Comparer and oracle begin anew: the oracle never forgets what left. */
const EPOCHS_PER_LIFE = 50;

const FLAGS = [ACK, ACK | PSH, ACK | FIN, SYN, SYN | ACK, RST, RST | ACK, 0, 0xff, SYN | FIN];

class Dice extends Prng {
  /** From 0 to `limit` - 1. */
  below(limit: number): number {
    return this.nextUint32() % limit;
  }
}

/** Small numbers, so that frames meet each other; near the places where numbers wrap. */
function makeFrame(prng: Dice, vnetBytes: number): Buffer {
  const base: Flow = prng.below(3) === 0 ? FLOW_V6 : FLOW_V4;
  const vlans = prng.below(8) === 0 ? [1, 2].slice(prng.below(2)) : [];
  const flow = { ...base, vlans, vnetBytes, remotePort: 40_000 + prng.below(3) };
  const body = streamOf(prng.below(4));
  switch (prng.below(10)) {
    case 0:
      return udpFrame(flow, body.subarray(0, prng.below(4)));
    case 1:
      return echoFrame(flow, prng.below(2), body.subarray(0, prng.below(4)));
    case 2: {
      const ip = { protocol: prng.below(4) === 0 ? 6 : UDP, body: udpBody(flow, body) };
      const fragments = fragmentFrames(flow, { ...ip, id: prng.below(3) }, 24);
      return fragments[prng.below(fragments.length)] as Buffer;
    }
    case 3:
      return Buffer.concat([Buffer.alloc(vnetBytes), arpFrame(prng.below(3))]);
    default:
      return tcpFrame(flow, true, segmentOf(prng));
  }
}

function segmentOf(prng: Dice) {
  const at = prng.below(80);
  const isn = prng.below(4) === 0 ? 0xffff_ffe0 : 5000;
  const usual = prng.below(3) > 0;
  const flags = usual ? ACK : (FLAGS[prng.below(FLAGS.length)] as number);
  const hasOptions = prng.below(4) === 0;
  return {
    seq: (isn + ((flags & SYN) !== 0 ? -1 - prng.below(2) : at)) >>> 0,
    ack: (0xffff_fff0 + prng.below(32)) >>> 0,
    flags,
    window: prng.below(600),
    // The stream's bytes are a matter of their place.
    payload: streamOf(0).subarray(at, at + prng.below(30)),
    ...(hasOptions && { options: prng.below(2) === 0 ? timestamps(1, 2) : sack(1, 2) }),
  };
}

function streamOf(salt: number): Buffer {
  return Buffer.from(Array.from({ length: 120 }, (_, index) => (index * 7 + salt) & 0xff));
}

/** Changes bytes, cuts, adds, or sets what may be a length to a value that it should not have. */
function mutate(prng: Dice, frame: Buffer): Buffer {
  const bytes = Buffer.from(frame);
  if (bytes.length === 0) return bytes;
  switch (prng.below(6)) {
    case 0:
      return bytes.subarray(0, prng.below(bytes.length + 1));
    case 1:
      return Buffer.concat([bytes, Buffer.alloc(prng.below(40), prng.below(256))]);
    case 2: {
      const value = [0, 1, 0xff, 0x80, 5, 0x45][prng.below(6)] as number;
      bytes.writeUInt8(value, prng.below(bytes.length));
      return bytes;
    }
    case 3: {
      const random = Buffer.alloc(prng.below(100));
      for (let at = 0; at < random.length; at++) random.writeUInt8(prng.below(256), at);
      return random;
    }
    default:
      for (let changes = 1 + prng.below(3); changes > 0; changes--) {
        bytes.writeUInt8(prng.below(256), prng.below(Math.min(bytes.length, 90)));
      }
      return bytes;
  }
}

/** Drives one comparer and knows where each frame of the PVM is. */
class Fuzz {
  readonly #t: ExecutionContext;
  readonly #prng: Dice;
  readonly #vnetBytes: number;
  readonly #oracle: Oracle;
  #comparer: Comparer;
  /** The frames of each batch that have not left, by their place in it. */
  readonly #waiting = new Map<ArrayBufferLike, Map<number, Buffer>>();
  #nowUs = 0;
  #epochs = 0;
  #running = false;
  #updates = 0;
  /** All of the epoch; the first ones are known. */
  #opened: OpenedFlow[] = [];
  #known = 0;
  #faults = 0;
  frames = 0;
  released = 0;

  constructor(t: ExecutionContext, prng: Dice, vnetBytes: number) {
    this.#t = t;
    this.#prng = prng;
    this.#vnetBytes = vnetBytes;
    this.#oracle = new Oracle(vnetBytes);
    this.#comparer = this.#makeComparer();
  }

  #makeComparer(): Comparer {
    return new Comparer(
      {
        vnetBytes: this.#vnetBytes,
        compareTimeoutUs: 1000,
        awaitsFlowsKnown: true,
        limits: LIMITS,
      },
      {
        release: (batch, start, end) => this.#release(batch, start, end),
        opened: (flow) => this.#opened.push(flow),
        checkpoint: (_reason, explain) => {
          explain();
        },
      },
    );
  }

  step(): void {
    const prng = this.#prng;
    this.#nowUs += prng.below(100);
    this.#comparer.tick(this.#nowUs);
    if (prng.below(100) === 0) this.#checkpoint();
    if (!this.#running && prng.below(4) === 0) {
      this.#running = true;
      this.#comparer.start(this.#nowUs);
    }
    const plain = Array.from({ length: 1 + prng.below(4) }, () => makeFrame(prng, this.#vnetBytes));
    const ours = plain.map((frame) => (prng.below(3) === 0 ? mutate(prng, frame) : frame));
    // The SVM says the same, nearly the same, or nothing.
    const theirs = ours
      .filter(() => prng.below(8) > 0)
      .map((frame) => (prng.below(8) === 0 ? mutate(prng, frame) : frame));
    if (prng.below(2) === 0) this.#secondary(theirs.splice(0));
    this.#primary(ours);
    this.#secondary(theirs);
    if (prng.below(8) === 0) this.#comparer.inbound(batchOf(ours));
    if (prng.below(2) === 0) this.#learn();
    this.frames += ours.length;
    this.#checkCounters();
  }

  finish(): void {
    this.#checkpoint();
    this.#t.is(this.#waiting.size, 0, 'frames were lost');
    this.#t.is(this.#faults, 0);
    this.#checkUpdates();
  }

  #primary(frames: readonly Buffer[]): void {
    const batch = batchOf(frames);
    if (frames.length === 0) return;
    const places = new Map<number, Buffer>();
    let at = 0;
    for (const frame of frames) {
      places.set(at, frame);
      at += 4 + frame.length;
    }
    this.#waiting.set(batch.buffer, places);
    this.#comparer.primary(batch, this.#nowUs);
  }

  #secondary(frames: readonly Buffer[]): void {
    for (const frame of frames) this.#oracle.secondary(frame);
    this.#comparer.secondary(batchOf(frames), this.#nowUs);
  }

  /** The SVM's host is told of some new connections, or says that it was told of too many. */
  #learn(): void {
    const count = this.#known + this.#prng.below(this.#opened.length - this.#known + 1);
    this.#t.throws(() => this.#comparer.flowsKnown(this.#opened.length + 1), {
      instanceOf: ProtocolError,
    });
    for (const { key, primaryIsn, secondaryIsn } of this.#opened.slice(this.#known, count)) {
      this.#oracle.opened(key, (primaryIsn - secondaryIsn) >>> 0);
    }
    this.#known = count;
    this.#comparer.flowsKnown(count);
  }

  #release(batch: Buffer, start: number, end: number): void {
    if (!this.#running) this.#fail('a frame left while the SVM does not run', batch);
    if (!this.#waiting.has(batch.buffer)) {
      this.#updates++;
      return;
    }
    for (const [original, frame] of this.#take(batch, start, end)) {
      this.released++;
      const fault = this.#oracle.released(original);
      if (fault !== '') this.#fail(fault, frame);
      if (!differsInWindowOnly(original, frame)) this.#fail('a frame was changed', frame);
    }
  }

  #checkpoint(): void {
    const left: Buffer[] = [];
    for (const batch of this.#comparer.closeEpoch()) {
      for (const [original, frame] of this.#take(batch, 0, batch.length)) {
        left.push(original);
        if (!original.equals(frame)) this.#fail('a frame was changed', frame);
      }
    }
    this.#oracle.checkpoint(left);
    this.#running = false;
    this.#opened = [];
    this.#known = 0;
    if (++this.#epochs % EPOCHS_PER_LIFE > 0) return;
    this.#checkUpdates();
    this.#updates = 0;
    this.#comparer = this.#makeComparer();
    this.#oracle.forget();
  }

  /** The frames from `start` to `end`, as they were said and as they are; they have left now. */
  #take(batch: Buffer, start: number, end: number): [Buffer, Buffer][] {
    const places = this.#waiting.get(batch.buffer);
    const frames: [Buffer, Buffer][] = [];
    for (let at = start; at < end; ) {
      const next = at + 4 + batch.readUInt32BE(at);
      const place = batch.byteOffset + at;
      const original = places?.get(place);
      if (original === undefined) {
        this.#fail('a frame left twice', batch.subarray(at, next));
        break;
      }
      places?.delete(place);
      frames.push([original, batch.subarray(at + 4, next)]);
      at = next;
    }
    if (places?.size === 0) this.#waiting.delete(batch.buffer);
    return frames;
  }

  #checkUpdates(): void {
    this.#t.is(this.#comparer.counters.windowUpdates, this.#updates);
  }

  #checkCounters(): void {
    const { heldFrames, aheadFrames, flows } = this.#comparer.counters;
    let waiting = 0;
    for (const places of this.#waiting.values()) waiting += places.size;
    if (heldFrames !== waiting) this.#fail(`${heldFrames} held, ${waiting} wait`, Buffer.alloc(0));
    if (flows > LIMITS.flowsMax || aheadFrames > LIMITS.aheadFramesMax + 100) {
      this.#fail('a bound was passed', Buffer.alloc(0));
    }
  }

  #fail(why: string, frame: Buffer): void {
    if (this.#faults++ === 0)
      this.#t.fail(`frame ${this.frames}: ${why}: ${frame.toString('hex')}`);
  }
}

/** In memory of its own, by which it is known. */
function batchOf(frames: readonly Buffer[]): Buffer {
  const batch = Buffer.alloc(frames.reduce((bytes, frame) => bytes + 4 + frame.length, 0));
  let at = 0;
  for (const frame of frames) {
    batch.writeUInt32BE(frame.length, at);
    frame.copy(batch, at + 4);
    at += 4 + frame.length;
  }
  return batch;
}

/** Window and checksum are four bytes together. */
function differsInWindowOnly(original: Buffer, frame: Buffer): boolean {
  const differing: number[] = [];
  for (const [index, value] of original.entries()) {
    if (frame[index] !== value) differing.push(index);
  }
  const [first = 0, last = 0] = [differing[0], differing.at(-1)];
  return original.length === frame.length && last - first < 4;
}

for (const vnetBytes of [0, 10]) {
  test(`mutated frames, ${vnetBytes} bytes of virtio header`, (t) => {
    const fuzz = new Fuzz(t, new Dice(SEED + vnetBytes), vnetBytes);
    while (fuzz.frames < FRAMES / 2) fuzz.step();
    fuzz.finish();
    // Or the test would test nothing.
    t.true(fuzz.released > FRAMES / 20, `Only ${fuzz.released} frames were confirmed`);
    t.true(process.memoryUsage().rss < 1024 ** 3);
  });
}
