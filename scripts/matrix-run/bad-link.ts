/**
 * Bad weather on the way from one host to the other: a relay between two TAPs that loses frames or
 * delivers them late, as a process in a namespace of the lab. The kernel's own tool for that, netem,
 * is not in every kernel.
 *
 * Stdout: `ready` once both TAPs are there (they are then moved to the hosts; their wires are this
 * process's descriptors wherever they are). Stdin: one JSON object a line, the weather from then on:
 * `{"loss": 0.3, "delayMs": 0}`. It ends when stdin does.
 */
import { createInterface } from 'node:readline';
import { Prng } from '../../src/lib/index.js';
import { openTap, type Tap } from '../../src/linux/index.js';

export interface Weather {
  /** Part of the frames that are lost, at the end of the way: with 1 also what was under way. */
  readonly loss: number;
  readonly delayMs: number;
}

const LENGTH_BYTES = 4;

let weather: Weather = { loss: 0, delayMs: 0 };
const prng = new Prng(Number(process.argv[4] ?? 0));
const [one, other] = process.argv.slice(2, 4).map((name) => openTap({ name })) as [Tap, Tap];

function relay(from: Tap, to: Tap): void {
  from.onReadable(() => {
    const batch = from.readBatch();
    if (batch === undefined) return;
    // What finds no room is lost, as on any wire.
    const deliver = (): void => void to.writeBatch(keepSome(batch), 0);
    if (weather.delayMs === 0) deliver();
    else setTimeout(deliver, weather.delayMs);
  });
}

function keepSome(batch: Buffer): Buffer {
  const kept: Buffer[] = [];
  for (let at = 0; at < batch.length; ) {
    const end = at + LENGTH_BYTES + batch.readUInt32BE(at);
    if (!prng.chance(weather.loss)) kept.push(batch.subarray(at, end));
    at = end;
  }
  return Buffer.concat(kept);
}

relay(one, other);
relay(other, one);
createInterface({ input: process.stdin })
  .on('line', (line) => {
    weather = JSON.parse(line) as Weather;
  })
  .on('close', () => process.exit(0));
process.stdout.write('ready\n');
