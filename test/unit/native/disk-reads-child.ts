/**
 * Reads as QEMU's NBD client does, or, with `greedy`, whatever there is into one buffer. Arguments:
 * socket, seed, greedy or exact. Descriptor 3 is guest RAM, 4 the control socket. Prints one line
 * of JSON: a digest of each read's data in turn, and how much of all was not received but read.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Prng } from '../../../src/lib/index.js';
import { request } from '../blockrep/support.js';
import {
  CHUNK_HEAD_BYTES,
  DiskClient,
  decodeChunkHead,
  mapRam,
  type Part,
  partOf,
} from './disk-client.js';
import { planReads, RAM_BYTES } from './disk-plan.js';

const SEND_BUFFER_BYTES = 1 << 16;

const [socketPath = '', seed = '', manner = ''] = process.argv.slice(2);
const ram = mapRam(RAM_BYTES);
const prng = new Prng(Number(seed) + 1);
const digests: string[] = [];

const client = new DiskClient(socketPath, SEND_BUFFER_BYTES);
client.attach({ structured: true });
const readBefore = bytesRead();
for (const [index, { offset, length }] of planReads(Number(seed)).entries()) {
  client.send(request('read', { cookie: BigInt(index), offset, length }));
  if (manner === 'greedy') takeGreedily({ index, offset, length });
  else takeExactly({ index, offset, length });
}
client.close();
const readInAll = bytesRead() - readBefore;
process.stdout.write(`${JSON.stringify({ digests, readInAll })}\n`, () => process.exit(0));

interface Asked {
  readonly index: number;
  readonly offset: number;
  readonly length: number;
}

function takeExactly(asked: Asked): void {
  checkHead(Buffer.concat([4, 16, 8].map((length) => client.receive(length))), asked);
  const parts = scattered(asked.length);
  client.receiveParts(parts);
  const hash = createHash('sha256');
  for (const { address, length } of parts) {
    const at = Number(address - ram.address);
    hash.update(ram.bytes.subarray(at, at + length));
  }
  digests.push(hash.digest('hex'));
}

/** Pieces of RAM that do not overlap, of any length. */
function scattered(total: number): Part[] {
  const parts: Part[] = [];
  for (let done = 0; done < total; ) {
    const length = parts.length === 900 ? total - done : prng.nextInt(1, total - done);
    parts.push({ address: ram.address + BigInt(done + parts.length * 16), length });
    done += length;
  }
  return parts;
}

function takeGreedily(asked: Asked): void {
  const whole = Buffer.alloc(CHUNK_HEAD_BYTES + asked.length);
  const target = partOf(whole);
  for (let at = 0; at < whole.length; ) {
    const length = prng.nextInt(1, whole.length - at);
    at += client.receiveSome({ address: target.address + BigInt(at), length });
  }
  checkHead(whole.subarray(0, CHUNK_HEAD_BYTES), asked);
  const data = whole.subarray(CHUNK_HEAD_BYTES);
  digests.push(createHash('sha256').update(data).digest('hex'));
}

function checkHead(head: Buffer, asked: Asked): void {
  const { cookie, offset, length } = decodeChunkHead(head);
  if (cookie !== asked.index) throw new Error('Reply to another read');
  if (length !== asked.length) throw new Error('Reply of another length');
  if (offset !== asked.offset) throw new Error('Reply of another place');
}

/** Bytes of files so far; those of sockets are not among them. */
function bytesRead(): number {
  return Number(/rchar: (\d+)/.exec(readFileSync('/proc/self/io', 'utf8'))?.[1]);
}
