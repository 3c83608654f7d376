/**
 * Asks one service of the guest, in the client's namespace: `ask redis|ssh|dns|random ADDRESS`.
 * Ends with 0 when all answers have come.
 */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { connect } from 'node:net';
import { describeError } from '../../src/lib/index.js';
import { RespConnection } from '../clients/resp-connection.js';

const PORTS = { redis: 6379, ssh: 22, dns: 53, random: 7004 } as const;
const DEADLINE_MS = 10_000;
/** A lost datagram is asked for again, as every resolver does. */
const TRIES = 3;

const TYPE_A = 1;
const TYPE_MX = 15;
const TYPE_TXT = 16;
const TYPE_AAAA = 28;
const TYPE_OPT = 41;
const CLASS_IN = 1;
const RECURSION_DESIRED = 0x0100;
const EDNS_BYTES = 4096;

const QUESTIONS: readonly (readonly [string, number])[] = [
  ['guest.colo.test', TYPE_A],
  ['guest.colo.test', TYPE_AAAA],
  ['www.colo.test', TYPE_A],
  ['colo.test', TYPE_MX],
  ['missing.colo.test', TYPE_A],
  // With EDNS the answer is 3 kB, in fragments.
  ['long.colo.test', TYPE_TXT],
];

async function askRedis(host: string): Promise<void> {
  const redis = await RespConnection.open({ host, port: PORTS.redis });
  for (let i = 0; i < 5; i++) {
    await redis.command(['SET', `golden-${i}`, `value ${i}`]);
    await redis.command(['GET', `golden-${i}`]);
  }
  // Several commands in one segment.
  await Promise.all([1, 2, 3, 4, 5].map((i) => redis.command(['INCRBY', 'golden-sum', `${i}`])));
  await redis.command(['DEL', 'golden-sum']);
  redis.close();
}

/** The guest says who it is and, before it hears anything, begins a key exchange with it. */
async function askSsh(host: string): Promise<void> {
  const socket = connect({ host, port: PORTS.ssh, noDelay: true });
  socket.setTimeout(DEADLINE_MS, () => socket.destroy(new Error('No banner came')));
  let text = '';
  for await (const chunk of socket) {
    text += (chunk as Buffer).toString('latin1');
    if (text.includes('\n')) break;
  }
  if (!text.startsWith('SSH-2.0-')) throw new Error(`Found ${JSON.stringify(text)}, no banner`);
  socket.destroy();
}

async function askDns(host: string): Promise<void> {
  for (const [index, [name, type]] of QUESTIONS.entries()) {
    await askDatagram(host, PORTS.dns, encodeQuestion(0x1000 + index, name, type));
  }
}

async function askRandom(host: string): Promise<void> {
  for (let i = 0; i < 3; i++) await askDatagram(host, PORTS.random, Buffer.from('what'));
}

async function askDatagram(host: string, port: number, question: Buffer): Promise<Buffer> {
  const socket = createSocket(host.includes(':') ? 'udp6' : 'udp4');
  try {
    for (let i = 0; i < TRIES; i++) {
      socket.send(question, port, host);
      const signal = AbortSignal.timeout(Math.floor(DEADLINE_MS / TRIES));
      const answer = await once(socket, 'message', { signal }).catch((error: unknown) => {
        if (signal.aborted) return undefined;
        throw error;
      });
      if (answer !== undefined) return answer[0] as Buffer;
    }
    throw new Error(`No answer from ${host} port ${port}`);
  } finally {
    socket.close();
  }
}

/** One question, with the record that allows long answers (RFC 1035 section 4, RFC 6891). */
function encodeQuestion(id: number, name: string, type: number): Buffer {
  const head = Buffer.alloc(12);
  head.writeUInt16BE(id, 0);
  head.writeUInt16BE(RECURSION_DESIRED, 2);
  head.writeUInt16BE(1, 4);
  head.writeUInt16BE(1, 10);
  const labels = name.split('.').map((label) => Buffer.from(`\0${label}`, 'latin1'));
  for (const label of labels) label.writeUInt8(label.length - 1);
  const tail = Buffer.alloc(16);
  tail.writeUInt16BE(type, 1);
  tail.writeUInt16BE(CLASS_IN, 3);
  tail.writeUInt16BE(TYPE_OPT, 6);
  tail.writeUInt16BE(EDNS_BYTES, 8);
  return Buffer.concat([head, ...labels, tail]);
}

const ASK: Readonly<Record<string, (host: string) => Promise<void>>> = {
  redis: askRedis,
  ssh: askSsh,
  dns: askDns,
  random: askRandom,
};

const [service = '', host = ''] = process.argv.slice(2);
const ask = ASK[service];
if (ask === undefined) {
  process.stderr.write(`ask: found "${service}", expected one of ${Object.keys(ASK).join(', ')}\n`);
  process.exitCode = 64;
} else {
  await ask(host).catch((error: unknown) => {
    process.stderr.write(`ask: ${service}: ${describeError(error)}\n`);
    process.exitCode = 1;
  });
}
