/** What the tests of the disk path share: temporary places, real tools, a raw NBD client. */
import { execFile, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import type { ExecutionContext } from 'ava';
import { type BlockLayer, ImageFile, NbdServer } from '../../../src/blockrep/index.js';
import type { NbdInstruction, NbdSession } from '../../../src/blockrep/nbd-session.js';
import {
  encodeOptionReply,
  NBD_COMMAND,
  NBD_OPTION_MAGIC,
  NBD_REQUEST_MAGIC,
} from '../../../src/blockrep/nbd-wire.js';
import type { Logger } from '../../../src/lib/index.js';

/** A directory that is gone after the test, also when it fails. */
export function temporaryDirectory(t: ExecutionContext): string {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'colo-blockrep-'));
  t.teardown(() => fs.rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** A log that keeps its lines. */
export function collectingLog(): Logger & { readonly lines: string[] } {
  const lines: string[] = [];
  const add = (level: string) => (message: string, fields?: Record<string, unknown>) => {
    lines.push(`${level} ${message} ${JSON.stringify(fields ?? {})}`);
  };
  return { lines, debug: add('debug'), info: add('info'), warn: add('warn'), error: add('error') };
}

/** True when the program exists; else says why the test can not run. */
export function hasTool(t: ExecutionContext, tool: string): boolean {
  if (spawnSync(tool, ['--version']).error === undefined) return true;
  t.log(`${tool} is not installed: this check did not run`);
  return false;
}

/** True when qcow2 images work here; else says why not, and the test has passed. */
export function hasQcow2(t: ExecutionContext): boolean {
  const help = spawnSync('qemu-storage-daemon', ['--help'], { encoding: 'utf8' });
  let problem: string | undefined;
  if (help.error !== undefined) problem = 'qemu-storage-daemon is not installed';
  else if (!help.stdout.includes('fuse')) problem = 'qemu-storage-daemon has no FUSE export';
  else if (!fs.existsSync('/dev/fuse')) problem = 'there is no /dev/fuse';
  else if (process.getuid?.() !== 0) problem = 'mounting needs root';
  if (problem === undefined) return true;
  t.log(`${problem}: this check did not run`);
  t.pass();
  return false;
}

/** Runs a program and returns what it wrote; rejects with its error output when it fails. */
export function run(program: string, ...args: string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(program, args, { timeout: 60_000 }, (error, stdout, stderr) => {
      if (error) reject(new Error(`${program} ${args.join(' ')}: ${stderr}${stdout}`));
      else resolve(stdout);
    });
  });
}

/** An NBD server on a socket of its own, stopped after the test. */
export async function serveDisks(t: ExecutionContext, disks: Record<string, BlockLayer>) {
  const directory = temporaryDirectory(t);
  const socketPath = path.join(directory, 'nbd.sock');
  const log = collectingLog();
  const server = new NbdServer({ socketPath, exports: new Map(Object.entries(disks)), log });
  await server.start();
  t.teardown(() => server.stop());
  const uri = (name: string) => `nbd+unix:///${name}?socket=${socketPath}`;
  return { directory, socketPath, server, log, uri };
}

/** The same for one new image, exported as `disk0`. */
export async function serveImage(t: ExecutionContext, sizeBytes: number) {
  const file = path.join(temporaryDirectory(t), 'disk.img');
  const image = await ImageFile.open({ path: file, sizeBytes });
  t.teardown(() => image.close());
  return { ...(await serveDisks(t, { disk0: image })), file, image };
}

/** Everything the session wants done now. */
export function drain(session: NbdSession): NbdInstruction[] {
  const all: NbdInstruction[] = [];
  for (let each = session.next(); each !== undefined; each = session.next()) all.push(each);
  return all;
}

/** The bytes of all `send` instructions. */
export function sent(instructions: readonly NbdInstruction[]): Buffer {
  return Buffer.concat(instructions.flatMap((each) => (each.kind === 'send' ? [each.bytes] : [])));
}

export function clientFlags(flags = 3): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(flags);
  return bytes;
}

export function option(number: number, data: Buffer = Buffer.alloc(0)): Buffer {
  const bytes = Buffer.alloc(16);
  bytes.writeBigUInt64BE(NBD_OPTION_MAGIC, 0);
  bytes.writeUInt32BE(number, 8);
  bytes.writeUInt32BE(data.length, 12);
  return Buffer.concat([bytes, data]);
}

/** Data of GO and INFO. */
export function infoData(name: string, wanted: number[] = []): Buffer {
  const text = Buffer.from(name);
  const bytes = Buffer.alloc(6 + text.length + wanted.length * 2);
  bytes.writeUInt32BE(text.length, 0);
  text.copy(bytes, 4);
  bytes.writeUInt16BE(wanted.length, 4 + text.length);
  wanted.forEach((type, i) => {
    bytes.writeUInt16BE(type, 6 + text.length + i * 2);
  });
  return bytes;
}

/** Data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export function metaData(name: string, queries: readonly string[]): Buffer {
  const count = Buffer.alloc(4);
  count.writeUInt32BE(queries.length);
  const text = (value: string) => {
    const bytes = Buffer.alloc(4 + Buffer.byteLength(value));
    bytes.writeUInt32BE(bytes.length - 4);
    bytes.write(value, 4);
    return bytes;
  };
  return Buffer.concat([text(name), count, ...queries.map(text)]);
}

export interface RequestFields {
  readonly flags?: number;
  readonly cookie?: bigint;
  readonly offset?: number | bigint;
  readonly length?: number;
  readonly data?: Buffer;
}

export function request(command: keyof typeof NBD_COMMAND | number, fields: RequestFields): Buffer {
  const bytes = Buffer.alloc(28);
  bytes.writeUInt32BE(NBD_REQUEST_MAGIC, 0);
  bytes.writeUInt16BE(fields.flags ?? 0, 4);
  bytes.writeUInt16BE(typeof command === 'number' ? command : NBD_COMMAND[command], 6);
  bytes.writeBigUInt64BE(fields.cookie ?? 7n, 8);
  bytes.writeBigUInt64BE(BigInt(fields.offset ?? 0), 16);
  bytes.writeUInt32BE(fields.length ?? fields.data?.length ?? 0, 24);
  return Buffer.concat([bytes, fields.data ?? Buffer.alloc(0)]);
}

/** What a write with the flag `reference` has in place of its data. */
export function references(
  pieces: readonly { readonly offset: number | bigint; readonly length: number }[],
): Buffer {
  const bytes = Buffer.alloc(4 + 12 * pieces.length);
  bytes.writeUInt32BE(pieces.length, 0);
  for (const [index, { offset, length }] of pieces.entries()) {
    bytes.writeBigUInt64BE(BigInt(offset), 4 + 12 * index);
    bytes.writeUInt32BE(length, 12 + 12 * index);
  }
  return bytes;
}

/** A client that sends raw bytes and waits for raw bytes. */
export class RawClient {
  readonly socket: net.Socket;
  readonly closed: Promise<void>;
  #received = Buffer.alloc(0);
  #wake: (() => void) | undefined;
  #ended = false;

  private constructor(socket: net.Socket) {
    this.socket = socket;
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        this.#ended = true;
        this.#wake?.();
        resolve();
      });
    });
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => {
      this.#received = Buffer.concat([this.#received, chunk]);
      this.#wake?.();
    });
  }

  static connect(t: ExecutionContext, socketPath: string): Promise<RawClient> {
    return new Promise((resolve, reject) => {
      const socket = net.connect(socketPath);
      socket.once('error', reject);
      socket.once('connect', () => resolve(new RawClient(socket)));
      t.teardown(() => socket.destroy());
    });
  }

  /** Connected, greeted, and attached to the export. */
  static async attach(t: ExecutionContext, socketPath: string, name: string): Promise<RawClient> {
    const client = await RawClient.connect(t, socketPath);
    await client.take(18);
    client.send(clientFlags(), option(7, infoData(name)));
    await client.take(encodeOptionReply(7, 3, Buffer.alloc(12)).length);
    await client.take(encodeOptionReply(7, 1).length);
    return client;
  }

  send(...parts: Buffer[]): void {
    this.socket.write(Buffer.concat(parts));
  }

  /** The next `length` bytes; rejects when the server hangs up before. */
  async take(length: number): Promise<Buffer> {
    while (this.#received.length < length) {
      if (this.#ended) throw new Error(`Closed after ${this.#received.length} of ${length} bytes`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const bytes = this.#received.subarray(0, length);
    this.#received = this.#received.subarray(length);
    return bytes;
  }

  /** Error and cookie of the next reply, which has no data. */
  async reply(): Promise<{ error: number; cookie: bigint }> {
    const bytes = await this.take(16);
    return { error: bytes.readUInt32BE(4), cookie: bytes.readBigUInt64BE(8) };
  }
}

/** A disk in memory; `gate`, if set, is awaited before each write. */
export class MemoryDisk implements BlockLayer {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly bytes: Buffer;
  gate: ((offset: number) => Promise<void>) | undefined;
  flushes = 0;
  reads = 0;

  constructor(sizeBytes: number, options: { readOnly?: boolean } = {}) {
    this.sizeBytes = sizeBytes;
    this.readOnly = options.readOnly === true;
    this.bytes = Buffer.alloc(sizeBytes);
  }

  async read(offset: number, length: number): Promise<Buffer> {
    this.reads += 1;
    return Buffer.from(this.bytes.subarray(offset, offset + length));
  }

  async write(offset: number, data: Buffer): Promise<void> {
    await this.gate?.(offset);
    data.copy(this.bytes, offset);
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    await this.gate?.(offset);
    this.bytes.fill(0, offset, offset + length);
  }

  trim(offset: number, length: number): Promise<void> {
    return this.writeZeroes(offset, length);
  }

  async flush(): Promise<void> {
    this.flushes += 1;
  }

  async close(): Promise<void> {}
}
