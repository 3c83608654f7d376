/**
 * Writes as QEMU's NBD client does: a header alone and then the data. Arguments: socket, seed.
 * Descriptor 3 is guest RAM, 4 the control socket. Prints one line of JSON: how often there was no
 * room.
 */
import { request } from '../blockrep/support.js';
import { DiskClient, mapRam, partOf } from './disk-client.js';
import { fillRam, planWrites, RAM_BYTES } from './disk-plan.js';

/** Little room, so that even references do not fit at once. */
const SEND_BUFFER_BYTES = 4608;

const [socketPath = '', seed = ''] = process.argv.slice(2);
const ram = mapRam(RAM_BYTES);
fillRam(ram.bytes, Number(seed));
const own = Buffer.allocUnsafeSlow(RAM_BYTES);
fillRam(own, Number(seed) + 1);

const client = new DiskClient(socketPath, SEND_BUFFER_BYTES);
client.attach({ structured: false });
for (const [index, { offset, pieces }] of planWrites(Number(seed)).entries()) {
  const length = pieces.reduce((sum, each) => sum + each.length, 0);
  client.send(request('write', { cookie: BigInt(index), offset, length }));
  client.sendParts(
    pieces.map((each) => ({
      address: (each.inRam ? ram.address : partOf(own).address) + BigInt(each.at),
      length: each.length,
    })),
  );
  const reply = client.receive(16);
  if (reply.readUInt32BE(4) !== 0) throw new Error(`Write ${index}: ${reply.readUInt32BE(4)}`);
}
process.stdout.write(`${JSON.stringify({ waits: client.waits })}\n`, () => process.exit(0));
