/**
 * A hostile client, to be run inside a namespace: sends broken bytes over many connections, one after
 * the other, and waits for each to be closed by the other side.
 *
 *   node garbage.js transport|nbd|control COUNT HOST PORT
 *   node garbage.js transport|nbd|control COUNT PATH
 *
 * Prints how many connections the other side closed; exit code 1 unless it closed all.
 */
import { connect, type NetConnectOpts } from 'node:net';
import { Prng } from '../../src/lib/index.js';
import { encodeFrame } from '../../src/transport/index.js';

const CLOSE_DEADLINE_MS = 15_000;
/** NBD_FLAG_C_FIXED_NEWSTYLE, then an option: "IHAVEOPT", number, length. */
const NBD_OPTION = Buffer.from('00000001494841564545505400000006ffffffff', 'hex');

function randomBytes(prng: Prng, length: number): Buffer {
  return Buffer.from(Array.from({ length }, () => prng.nextUint32() & 0xff));
}

/** Frames that are wrong in one way each. */
function brokenFrame(prng: Prng): Buffer {
  const frame = Buffer.concat(encodeFrame(1, [randomBytes(prng, 40)]));
  switch (prng.nextInt(0, 4)) {
    case 0:
      frame.writeUInt8(frame.readUInt8(4) + 1, 4);
      return frame;
    case 1:
      frame.writeUInt32BE(0xffff_fff0, 8);
      return frame;
    case 2:
      frame.writeUInt32BE(prng.nextUint32(), 12);
      return frame;
    case 3:
      return frame.subarray(0, prng.nextInt(1, frame.length - 1));
    default:
      return randomBytes(prng, 64);
  }
}

function brokenBytes(kind: string, prng: Prng): Buffer {
  switch (kind) {
    case 'transport':
      return brokenFrame(prng);
    case 'nbd':
      return prng.chance(0.5) ? NBD_OPTION : randomBytes(prng, 64);
    case 'control':
      return prng.chance(0.5)
        ? Buffer.alloc(1 << 20, 'x')
        : Buffer.concat([randomBytes(prng, 64), Buffer.from('\n')]);
    default:
      throw new Error(`Unknown kind ${kind}`);
  }
}

/** True if the other side ended the connection, however it did. */
function attack(address: NetConnectOpts, bytes: Buffer): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ ...address, allowHalfOpen: true });
    const timer = setTimeout(() => {
      socket.destroy();
      resolve(false);
    }, CLOSE_DEADLINE_MS);
    const closed = (): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(true);
    };
    socket.on('end', closed);
    socket.on('error', closed);
    socket.on('close', closed);
    socket.resume();
    socket.write(bytes, () => undefined);
  });
}

const [kind = '', count = '', where = '', port] = process.argv.slice(2);
const address = port === undefined ? { path: where } : { host: where, port: Number(port) };
const prng = new Prng(Number(count));
let closed = 0;
for (let i = 0; i < Number(count); i++) {
  if (await attack(address, brokenBytes(kind, prng))) closed += 1;
}
console.log(closed);
process.exitCode = closed === Number(count) ? 0 : 1;
