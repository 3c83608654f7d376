/**
 * Reads of an image that the server lends as a whole, several at a time and not always answered in
 * turn. Arguments: socket, and seed or, negative, how many to read one after the other. Prints one
 * line of JSON: a digest of each read's data in turn.
 */
import { createHash } from 'node:crypto';
import { request } from '../blockrep/support.js';
import { CHUNK_HEAD_BYTES, DiskClient, decodeChunkHead, mapRam, partOf } from './disk-client.js';
import { planBurst, planLent, RAM_BYTES } from './disk-plan.js';

const [socketPath = '', seed = ''] = process.argv.slice(2);
mapRam(RAM_BYTES);
const digests: string[] = [];

const client = new DiskClient(socketPath, 1 << 16);
client.attach({ structured: true });
let first = 0;
const plan = Number(seed) < 0 ? planBurst(-Number(seed)) : planLent(Number(seed));
for (const { looks, reads } of plan) {
  if (looks && client.hasSome()) throw new Error('A reply to nothing');
  for (const [index, { offset, length }] of reads.entries()) {
    client.send(request('read', { cookie: BigInt(first + index), offset, length }));
  }
  for (const _ of reads) take(reads);
  first += reads.length;
}
client.close();
process.stdout.write(`${JSON.stringify({ digests })}\n`, () => process.exit(0));

function take(reads: readonly { readonly offset: number; readonly length: number }[]): void {
  const { cookie, offset, length } = decodeChunkHead(client.receive(CHUNK_HEAD_BYTES));
  const read = reads[cookie - first];
  if (read === undefined || digests[cookie] !== undefined) throw new Error(`Reply to ${cookie}`);
  if (length !== read.length) throw new Error('Of another length');
  if (offset !== read.offset) throw new Error('Of another place');
  const data = Buffer.alloc(read.length);
  client.receiveParts([partOf(data)]);
  digests[cookie] = createHash('sha256').update(data).digest('hex');
}
