/**
 * Asks the guest's UDP echo once a millisecond: `node prober.js <host>`, inside the client's
 * namespace. Prints `started` with the first answer; ends with its stdin, and prints as one line of
 * JSON the longest time between two successive answers, and each that was long (`silences`), all in
 * microseconds of CLOCK_MONOTONIC. `lateUs` is by how much this process itself was late around one.
 */
import { createSocket } from 'node:dgram';
import { nowUs } from '../clients/clock.js';

const ECHO_PORT = 7003;
const EVERY_MS = 1;
/** What is later than that is remembered. */
const LATE_US = 1000;
/** Before and after a silence, as answers were on their way. */
const AROUND_US = 50_000;
/** From here on a silence is told. */
const SILENCE_US = 10_000;

interface Silence {
  readonly fromUs: number;
  readonly toUs: number;
}

const [host = ''] = process.argv.slice(2);
const socket = createSocket('udp4');
const late: { readonly atUs: number; readonly byUs: number }[] = [];
const silences: Silence[] = [];
let askedUs = nowUs();
let lastUs: number | undefined;
let longestUs = 0;
let answers = 0;

function heard(fromUs: number, toUs: number): void {
  longestUs = Math.max(longestUs, toUs - fromUs);
  if (toUs - fromUs >= SILENCE_US) silences.push({ fromUs, toUs });
}

function lateAround({ fromUs, toUs }: Silence): number {
  const near = late.filter(({ atUs, byUs }) => {
    return atUs > fromUs - AROUND_US && atUs - byUs < toUs + AROUND_US;
  });
  return Math.max(0, ...near.map(({ byUs }) => byUs));
}

function ask(): void {
  const atUs = nowUs();
  const byUs = atUs - askedUs - EVERY_MS * 1000;
  if (byUs > LATE_US) late.push({ atUs, byUs });
  askedUs = atUs;
  socket.send('?', () => {});
}

socket.on('message', () => {
  const atUs = nowUs();
  if (lastUs === undefined) process.stdout.write(`${JSON.stringify({ type: 'started' })}\n`);
  else heard(lastUs, atUs);
  lastUs = atUs;
  answers += 1;
});
// While nobody has the guest its address may be refused: that is a part of the outage.
socket.on('error', () => {});
socket.connect(ECHO_PORT, host, () => {
  askedUs = nowUs();
  const timer = setInterval(ask, EVERY_MS);
  process.stdin.resume();
  process.stdin.on('end', () => {
    clearInterval(timer);
    socket.close();
    // A guest that never answers again is away until now.
    if (lastUs !== undefined) heard(lastUs, nowUs());
    const told = silences.map((silence) => ({ ...silence, lateUs: lateAround(silence) }));
    const report = { type: 'report', longestUs, silences: told, answers };
    process.stdout.write(`${JSON.stringify(report)}\n`);
  });
});
