/**
 * The compare core alone, on one core: `node build/scripts/bench/compare-core.js [--seconds N]
 * [--flows N]`. Both guests say the same; the SVM lags or leads by a few batches, as it does in
 * life. Counted are the PVM's packets only; the time is the processor time of both sides' packets
 * together, garbage collection and compiler included, but not the time to make the packets. Needs
 * no root and no guest.
 */
import { parseArgs } from 'node:util';
import { Comparer, encodeBatch } from '../../src/proxy/index.js';

const ETHERNET_BYTES = 14;
const HEADER_BYTES = ETHERNET_BYTES + 20 + 32;
const FRAMES_PER_BATCH = 32;
const BATCHES = 64;

interface Load {
  readonly name: string;
  readonly protocol: 6 | 17;
  readonly payloadBytes: number;
  /** Batches that one side is behind the other. */
  readonly lag: number;
  readonly first: 'primary' | 'secondary';
}

const LOADS: readonly Load[] = [
  { name: 'tcp acks', protocol: 6, payloadBytes: 0, lag: 4, first: 'primary' },
  { name: 'tcp 64', protocol: 6, payloadBytes: 64, lag: 4, first: 'primary' },
  { name: 'tcp 64, SVM leads', protocol: 6, payloadBytes: 64, lag: 4, first: 'secondary' },
  { name: 'tcp 1448', protocol: 6, payloadBytes: 1448, lag: 4, first: 'primary' },
  { name: 'tcp 1448, SVM leads', protocol: 6, payloadBytes: 1448, lag: 4, first: 'secondary' },
  { name: 'udp 64', protocol: 17, payloadBytes: 64, lag: 4, first: 'primary' },
];

/** One guest's packets: the same batches again and again, each time further in the streams. */
class Talker {
  readonly batches: Buffer[] = [];
  readonly #load: Load;
  readonly #perFlow: number;
  #round = 0;

  constructor(load: Load, flows: number) {
    this.#load = load;
    this.#perFlow = Math.ceil((BATCHES * FRAMES_PER_BATCH) / flows);
    for (let batch = 0; batch < BATCHES; batch++) {
      const frames = Array.from({ length: FRAMES_PER_BATCH }, (_, index) =>
        makeFrame(load, (batch * FRAMES_PER_BATCH + index) % flows),
      );
      this.batches.push(encodeBatch(frames));
    }
    this.#perFlow *= load.payloadBytes;
  }

  /** Moves all streams on; what was said before is released by now. */
  advance(flows: number): void {
    const { protocol, payloadBytes } = this.#load;
    if (protocol === 17) return;
    let frame = 0;
    for (const batch of this.batches) {
      for (let at = 0; at < batch.length; at += 4 + batch.readUInt32BE(at), frame++) {
        const tcpAt = at + 4 + ETHERNET_BYTES + 20;
        const inRound = Math.floor(frame / flows) * payloadBytes;
        batch.writeUInt32BE((this.#round * this.#perFlow + inRound) >>> 0, tcpAt + 4);
        batch.writeUInt32BE((this.#round * 100 + Math.floor(frame / flows)) >>> 0, tcpAt + 8);
      }
    }
    this.#round++;
  }
}

function makeFrame(load: Load, flow: number): Buffer {
  const headerBytes = load.protocol === 6 ? HEADER_BYTES : ETHERNET_BYTES + 28;
  const frame = Buffer.alloc(headerBytes + load.payloadBytes, flow & 0xff);
  frame.write('525400000002525400000001080045000000', 0, 'hex');
  frame.writeUInt16BE(frame.length - ETHERNET_BYTES, 16);
  frame.writeUInt32BE(0x0001_4000, 18);
  frame.writeUInt32BE((64 << 24) | (load.protocol << 16), 22);
  frame.writeUInt32BE(0x0a00_0002, 26);
  frame.writeUInt32BE(0x0a01_0000 + (flow >> 8), 30);
  frame.writeUInt16BE(80, 34);
  frame.writeUInt16BE(10_000 + (flow & 0xff), 36);
  if (load.protocol === 17) {
    frame.writeUInt16BE(8 + load.payloadBytes, 38);
    return frame;
  }
  frame.writeUInt16BE(0x8018, 46);
  frame.writeUInt16BE(502, 48);
  frame.write('0101080a0000000100000002', 54, 'hex');
  return frame;
}

/** Packets of the PVM per second. */
function measure(load: Load, flows: number, seconds: number): number {
  let released = 0;
  const comparer = new Comparer(
    { vnetBytes: 0, compareTimeoutUs: 200_000 },
    {
      release: (_batch, start, end) => {
        released += end - start;
      },
      opened: () => {},
      checkpoint: (reason, explain) => {
        throw new Error(`A checkpoint is asked for: ${reason}, ${JSON.stringify(explain())}`);
      },
    },
  );
  comparer.start(0);
  const primary = new Talker(load, flows);
  const secondary = new Talker(load, flows);
  const [first, second] = load.first === 'primary' ? [primary, secondary] : [secondary, primary];
  const say = (talker: Talker, batch: Buffer): void => {
    if (talker === primary) comparer.primary(batch, 0);
    else comparer.secondary(batch, 0);
  };
  let spentUs = 0;
  let packets = 0;
  // The first second is for the compiler.
  let isWarm = false;
  while (spentUs < seconds * 1e6) {
    primary.advance(flows);
    secondary.advance(flows);
    const began = process.cpuUsage();
    for (let batch = 0; batch < BATCHES + load.lag; batch++) {
      const [ahead, behind] = [first.batches[batch], second.batches[batch - load.lag]];
      if (ahead !== undefined) say(first, ahead);
      if (behind !== undefined) say(second, behind);
    }
    const { user, system } = process.cpuUsage(began);
    spentUs += user + system;
    packets += BATCHES * FRAMES_PER_BATCH;
    if (!isWarm && spentUs > 1_000_000) {
      isWarm = true;
      spentUs = 0;
      packets = 0;
    }
  }
  const { heldFrames, primaryFrames, releasedFrames } = comparer.counters;
  if (heldFrames !== 0 || releasedFrames !== primaryFrames || released === 0) {
    throw new Error(`Of ${primaryFrames} packets ${releasedFrames} were released`);
  }
  return packets / (spentUs / 1e6);
}

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '3' },
    flows: { type: 'string', default: '1000' },
  },
});
const flows = Number(values.flows);
process.stdout.write(`${flows} flows, ${FRAMES_PER_BATCH} packets a batch\n`);
for (const load of LOADS) {
  const rate = measure(load, flows, Number(values.seconds));
  const value = Math.round(rate);
  process.stdout.write(`${load.name.padEnd(22)} ${value.toLocaleString('en')} packets/s\n`);
  // For `npm run bench`: see compare.ts.
  const name = `compare-${load.name.toLowerCase().replace(/[^a-z0-9]+/g, '-')}`;
  process.stdout.write(`${JSON.stringify({ name, unit: 'packets/s', value })}\n`);
}
