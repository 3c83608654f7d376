/**
 * Reads of an image that the server lends as a whole, several at a time and not always answered in
 * turn. Arguments: socket, and seed or, negative, how many to read one after the other. Prints one
 * line of JSON: a digest of each read's data in turn.
 */
import { createHash } from 'node:crypto';
import { clientFlags, option, request } from '../blockrep/support.js';
import { DiskClient, mapRam, partOf } from './disk-client.js';
import { planBurst, planLent, RAM_BYTES } from './disk-plan.js';

const CHUNK_HEADER = '668e33ef00010001';
const CHUNK_HEADER_BYTES = 20;
const OFFSET_BYTES = 8;

const [socketPath = '', seed = ''] = process.argv.slice(2);
mapRam(RAM_BYTES);
const digests: string[] = [];

const client = new DiskClient(socketPath, 1 << 16);
client.receive(18);
client.send(Buffer.concat([clientFlags(3), option(8)]));
client.receive(20);
client.send(option(1, Buffer.from('disk0')));
client.receive(10);
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
  const head = client.receive(CHUNK_HEADER_BYTES + OFFSET_BYTES);
  const cookie = Number(head.readBigUInt64BE(8));
  const read = reads[cookie - first];
  if (head.toString('hex', 0, 8) !== CHUNK_HEADER) throw new Error(`Reply ${head.toString('hex')}`);
  if (read === undefined || digests[cookie] !== undefined) throw new Error(`Reply to ${cookie}`);
  if (head.readUInt32BE(16) !== OFFSET_BYTES + read.length) throw new Error('Of another length');
  if (Number(head.readBigUInt64BE(20)) !== read.offset) throw new Error('Of another place');
  const data = Buffer.alloc(read.length);
  client.receiveParts([partOf(data)]);
  digests[cookie] = createHash('sha256').update(data).digest('hex');
}
