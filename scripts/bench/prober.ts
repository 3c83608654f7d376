/**
 * Asks the guest's UDP echo once a millisecond: `node prober.js <host>`, inside the client's
 * namespace. Prints `started` with the first answer; ends with its stdin, and prints the longest
 * time between two successive answers, in microseconds, as one line of JSON.
 */
import { createSocket } from 'node:dgram';
import { nowUs } from '../clients/clock.js';

const ECHO_PORT = 7003;
const EVERY_MS = 1;

const [host = ''] = process.argv.slice(2);
const socket = createSocket('udp4');
let lastUs: number | undefined;
let longestUs = 0;
let answers = 0;

socket.on('message', () => {
  const atUs = nowUs();
  if (lastUs === undefined) process.stdout.write(`${JSON.stringify({ type: 'started' })}\n`);
  else longestUs = Math.max(longestUs, atUs - lastUs);
  lastUs = atUs;
  answers += 1;
});
// While nobody has the guest its address may be refused: that is a part of the outage.
socket.on('error', () => {});
socket.connect(ECHO_PORT, host, () => {
  const timer = setInterval(() => socket.send('?', () => {}), EVERY_MS);
  process.stdin.resume();
  process.stdin.on('end', () => {
    clearInterval(timer);
    socket.close();
    // A guest that never answers again is away until now.
    if (lastUs !== undefined) longestUs = Math.max(longestUs, nowUs() - lastUs);
    process.stdout.write(`${JSON.stringify({ type: 'report', longestUs, answers })}\n`);
  });
});
