/**
 * QEMU's NBD client as the preload library sees it: calls the library's `mmap`, `connect` and
 * `sendmsg` with a header alone and then the data, again with the same data where there was no
 * room. Arguments: socket, seed. Descriptor 3 is guest RAM, 4 the control socket. Prints one line
 * of JSON: how often there was no room.
 */
import { fileURLToPath } from 'node:url';
import koffi from 'koffi';
import { clientFlags, option, request } from '../blockrep/support.js';
import { fill, fillRam, planWrites, RAM_BYTES } from './disk-plan.js';

const PRELOAD = fileURLToPath(new URL('../../../native/ram-preload.so', import.meta.url));
const EAGAIN = 11;
const MSG_NOSIGNAL = 0x4000;
/** Little room, so that even references do not fit at once. */
const SEND_BUFFER_BYTES = 4608;

const [socketPath = '', seed = ''] = process.argv.slice(2);
const library = koffi.load(PRELOAD);
const libc = koffi.load('libc.so.6');
const number = 'uintptr_t';
const mmap = library.func('mmap', number, [number, number, 'int', 'int', 'int', 'int64']);
const connect = library.func('connect', 'int', ['int', 'void *', 'uint']);
const sendmsg = library.func('sendmsg', 'long', ['int', 'void *', 'int']);
const socket = libc.func('socket', 'int', ['int', 'int', 'int']);
const recv = libc.func('recv', 'long', ['int', 'void *', 'size_t', 'int']);
const poll = libc.func('poll', 'int', ['void *', 'ulong', 'int']);
const setsockopt = libc.func('setsockopt', 'int', ['int', 'int', 'int', 'void *', 'uint']);

const NONBLOCKING_STREAM = 1 | 0o4000;
const fd = socket(1, NONBLOCKING_STREAM, 0) as number;
let waits = 0;

function waitFor(events: number): void {
  const entry = Buffer.alloc(8);
  entry.writeInt32LE(fd, 0);
  entry.writeInt16LE(events, 4);
  if ((poll(entry, 1, 30_000) as number) !== 1) throw new Error('Nothing happens');
}

function receive(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; ) {
    const count = Number(recv(fd, bytes.subarray(at), length - at, 0));
    if (count === 0) throw new Error('The server has closed the connection');
    if (count > 0) at += count;
    else if (koffi.errno() === EAGAIN) waitFor(1);
    else throw new Error(`recv failed: ${koffi.errno()}`);
  }
  return bytes;
}

interface Part {
  readonly address: bigint;
  readonly length: number;
}

/** As QEMU's qio_channel_writev_all: what was not taken is offered again. */
function sendAll(parts: readonly Part[]): void {
  let rest = [...parts];
  while (rest.length > 0) {
    const vector = new BigUint64Array(rest.flatMap((each) => [each.address, BigInt(each.length)]));
    const message = new BigUint64Array(7);
    message[2] = BigInt(koffi.address(vector));
    message[3] = BigInt(rest.length);
    let count = Number(sendmsg(fd, message, MSG_NOSIGNAL));
    if (count < 0) {
      if (koffi.errno() !== EAGAIN) throw new Error(`sendmsg failed: ${koffi.errno()}`);
      waits += 1;
      waitFor(4);
      continue;
    }
    while (rest[0] !== undefined && count >= rest[0].length) {
      count -= rest[0].length;
      rest = rest.slice(1);
    }
    if (rest[0] === undefined || count === 0) continue;
    rest = [
      { address: rest[0].address + BigInt(count), length: rest[0].length - count },
      ...rest.slice(1),
    ];
  }
}

function sendBytes(bytes: Buffer): void {
  sendAll([{ address: BigInt(koffi.address(bytes)), length: bytes.length }]);
}

const address = Buffer.alloc(110);
address.writeUInt16LE(1, 0);
address.write(socketPath, 2);
const room = Buffer.alloc(4);
room.writeInt32LE(SEND_BUFFER_BYTES, 0);

const ram = BigInt(mmap(0, RAM_BYTES, 3, 1, 3, 0) as number);
const own = Buffer.allocUnsafeSlow(RAM_BYTES);
fill(own, Number(seed) + 1);
const ownAt = BigInt(koffi.address(own));
const view = Buffer.from(koffi.view(ram, RAM_BYTES));
fillRam(view, Number(seed));

if ((connect(fd, address, 3 + socketPath.length) as number) !== 0) throw new Error('No server');
setsockopt(fd, 1, 7, room, room.length);
receive(18);
sendBytes(Buffer.concat([clientFlags(3), option(1, Buffer.from('disk0'))]));
receive(10);
for (const [index, { offset, pieces }] of planWrites(Number(seed)).entries()) {
  const length = pieces.reduce((sum, each) => sum + each.length, 0);
  sendBytes(request('write', { cookie: BigInt(index), offset, length }));
  sendAll(
    pieces.map((each) => ({
      address: (each.inRam ? ram : ownAt) + BigInt(each.at),
      length: each.length,
    })),
  );
  const reply = receive(16);
  if (reply.readUInt32BE(4) !== 0) throw new Error(`Write ${index}: ${reply.readUInt32BE(4)}`);
}
process.stdout.write(`${JSON.stringify({ waits })}\n`, () => process.exit(0));
