/**
 * Pairs over loopback, without a lab: how much of an image travels, whose image is refused, and
 * what `colo discard-image` and `colo verify` do about it.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import net, { type AddressInfo } from 'node:net';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { callAgent, isProtected } from '../../scripts/harness/agent-control.js';
import type { NodeStatus } from '../../src/config/index.js';
import { bootSectorImage } from '../support/boot-sector-guest.js';
import { temporaryDirectory } from '../unit/blockrep/support.js';

const CLI = fileURLToPath(new URL('../../src/cli/', import.meta.url));
const DEADLINE_MS = 60_000;
const POLL_MS = 20;
const MIB = 1024 * 1024;
const CLUSTER = 64 * 1024;
/** A disk beside the one that the guest boots from, which it does not look at. */
const DATA_BYTES = 64 * MIB;
/** What a synchronisation may send beyond what differs: RAM, device state and messages. */
const OVERHEAD_BYTES = 12 * MIB;

test('a secondary that comes back is sent what has changed, not the image', async (t) => {
  const pair = await Pair.make(t, DATA_BYTES);
  await pair.startSecondary();
  await pair.startPrimary();
  const first = await pair.untilProtected();
  t.true(first.bytesSent > DATA_BYTES, 'the whole image at first');
  await pair.stop('secondary', 'SIGTERM');
  await pair.until('primary', 'the loss', ({ state }) => state !== 'protected');
  const before = (await pair.status('primary')).bytesSent;
  await pair.startSecondary();
  const { bytesSent } = await pair.untilProtected();
  t.true(bytesSent - before < OVERHEAD_BYTES, `${bytesSent - before} bytes were sent`);
  t.log(`${first.bytesSent} bytes at first, ${bytesSent - before} when it came back`);
  // As well after its agent was killed.
  await pair.stop('secondary', 'SIGKILL');
  await pair.until('primary', 'the loss', ({ state }) => state !== 'protected');
  await pair.startSecondary();
  const again = await pair.untilProtected();
  t.true(again.bytesSent - bytesSent < OVERHEAD_BYTES, `${again.bytesSent - bytesSent} bytes`);
});

test("another guest's image is refused until the operator gives it up", async (t) => {
  const pair = await Pair.make(t, 4 * MIB);
  fs.writeFileSync(pair.file('data-b'), randomBytes(4 * MIB));
  await pair.startSecondary();
  await pair.startPrimary();
  const command = /colo discard-image --vm resync --disk data/;
  const { lastFailure } = await pair.until('primary', 'the refusal', (status) => {
    return command.test(status.lastFailure ?? '');
  });
  t.regex(lastFailure ?? '', /holds data that Colo has no record of/);
  const words = ['discard-image', '--vm', 'resync', '--disk', 'data', '--image'];
  const place = [pair.file('data-b'), '--state-dir', pair.file('secondary')];
  t.is((await pair.colo([...words, ...place])).code, 1, 'not without a yes');
  const done = await pair.colo([...words, ...place, '--yes']);
  t.is(done.code, 0, done.stderr);
  t.regex(done.stdout, /disk data: .*data-b may be overwritten/);
  await pair.untilProtected();
  t.is(pair.log('primary').match(/No secondary/g)?.length, 1, 'the refusal is told once');
  await pair.stopAll();
  t.true(fs.readFileSync(pair.file('data-b')).equals(fs.readFileSync(pair.file('data-a'))));
});

test('a verification finds planted differences and repairs them', async (t) => {
  const pair = await Pair.make(t, 16 * MIB);
  await pair.startSecondary();
  await pair.startPrimary();
  await pair.untilProtected();
  const clean = await pair.colo(['verify', '--socket', pair.socket('primary')]);
  t.is(clean.code, 0, clean.stderr);
  t.regex(clean.stdout, /disk data: 256 clusters of 64 KiB, no differences/);

  const file = fs.openSync(pair.file('data-b'), 'r+');
  for (const cluster of [7, 8, 100]) fs.writeSync(file, 'planted', cluster * CLUSTER + 4096);
  fs.closeSync(file);
  const words = ['verify', '--socket', pair.socket('primary'), '--disk', 'data'];
  const found = await pair.colo([...words, '--json']);
  t.is(found.code, 1, found.stderr);
  t.like(JSON.parse(found.stdout).disks[0], {
    differing: 3,
    remaining: 3,
    ranges: [
      { offset: 7 * CLUSTER, length: 2 * CLUSTER },
      { offset: 100 * CLUSTER, length: CLUSTER },
    ],
  });
  const repaired = await pair.colo([...words, '--repair']);
  t.is(repaired.code, 0, repaired.stderr);
  t.regex(repaired.stdout, /3 differ, 192\.0 KiB repaired, 0 differ now/);
  t.is((await pair.colo([...words, '--json'])).code, 0);
  const elsewhere = await pair.colo(['verify', '--socket', pair.socket('secondary')]);
  t.regex(elsewhere.stderr, /run "colo verify" there/);
  await pair.stopAll();
  t.true(fs.readFileSync(pair.file('data-b')).equals(fs.readFileSync(pair.file('data-a'))));
});

test('a first synchronisation that broke goes on with what is left', async (t) => {
  const sizeBytes = 256 * MIB;
  const pair = await Pair.make(t, sizeBytes);
  await pair.startSecondary();
  await pair.startPrimary('--resync-rate', '64MiB');
  const half = (status: NodeStatus) => {
    const disk = status.sync?.disks.find(({ name }) => name === 'data');
    return disk !== undefined && disk.sentBytes > sizeBytes / 2;
  };
  const { sync } = await pair.until('primary', 'half of it', half);
  t.true((sync?.disks[0]?.remainingS ?? -1) >= 0, 'there is an estimate');
  await pair.stop('secondary', 'SIGKILL');
  await pair.until('primary', 'the loss', (status) => status.sync === null);
  const missing = differingBytes(pair.file('data-a'), pair.file('data-b'));
  t.true(missing < sizeBytes / 2 + OVERHEAD_BYTES, `${missing} bytes are missing`);
  const before = (await pair.status('primary')).bytesSent;
  await pair.startSecondary();
  const { bytesSent } = await pair.untilProtected();
  const sent = bytesSent - before;
  t.log(`${sent} bytes were sent for ${missing}`);
  t.true(sent < missing + OVERHEAD_BYTES, `${sent} bytes were sent for ${missing}`);
  await pair.stopAll();
  t.is(differingBytes(pair.file('data-a'), pair.file('data-b')), 0);
});

type Name = 'primary' | 'secondary';

/** Two agents whose guest boots and then does nothing, with a data disk of random bytes. */
class Pair {
  readonly #directory: string;
  readonly #port: string;
  readonly #agents = new Map<Name, ChildProcess>();
  readonly #logs: Record<Name, string> = { primary: '', secondary: '' };

  private constructor(directory: string, port: string) {
    this.#directory = directory;
    this.#port = port;
    for (const name of ['primary', 'secondary'] as const) fs.mkdirSync(this.file(name));
  }

  static async make(t: ExecutionContext, dataBytes: number): Promise<Pair> {
    const pair = new Pair(temporaryDirectory(t), String(await freePort()));
    fs.writeFileSync(pair.file('boot-a'), bootSectorImage());
    for (let at = 0; at < dataBytes; at += 16 * MIB) {
      fs.appendFileSync(pair.file('data-a'), randomBytes(Math.min(16 * MIB, dataBytes - at)));
    }
    t.teardown(async () => {
      for (const name of ['primary', 'secondary'] as const) await pair.stop(name, 'SIGKILL');
    });
    return pair;
  }

  file(name: string): string {
    return path.join(this.#directory, name);
  }

  socket(name: Name): string {
    return path.join(this.file(name), 'resync.sock');
  }

  log(name: Name): string {
    return this.#logs[name];
  }

  async status(name: Name): Promise<NodeStatus> {
    const status = await callAgent(this.socket(name), { command: 'status', arguments: {} });
    return status as NodeStatus;
  }

  async startSecondary(): Promise<void> {
    const flags = ['--listen', `127.0.0.1:${this.#port}`];
    for (const disk of ['boot', 'data']) flags.push('--disk', `${disk}=${this.file(`${disk}-b`)}`);
    this.#start('secondary', flags);
    await this.until('secondary', 'it to wait', () => true);
  }

  async startPrimary(...more: readonly string[]): Promise<void> {
    const flags = ['--peer', `127.0.0.1:${this.#port}`, '--memory', '64MiB', '--accel', 'tcg'];
    for (const disk of ['boot', 'data']) flags.push('--disk', `${disk}=${this.file(`${disk}-a`)}`);
    this.#start('primary', [...flags, '--listen', `127.0.0.1:${await freePort()}`, ...more]);
  }

  async untilProtected(): Promise<NodeStatus> {
    await this.until('secondary', 'a standby', ({ state }) => state === 'standby');
    return this.until('primary', 'protection', isProtected);
  }

  /** The primary last: its guest ends with it instead of living on. */
  async stopAll(): Promise<void> {
    await this.stop('secondary', 'SIGTERM');
    await this.stop('primary', 'SIGTERM');
  }

  async stop(name: Name, signal: NodeJS.Signals): Promise<void> {
    const agent = this.#agents.get(name);
    this.#agents.delete(name);
    if (agent === undefined || agent.exitCode !== null || agent.signalCode !== null) return;
    const exited = once(agent, 'exit');
    agent.kill(signal);
    await exited;
  }

  /** Runs the operator's command to its end. */
  colo(words: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
    return new Promise((resolve) => {
      const argv = [path.join(CLI, 'colo.js'), ...words];
      const options = { timeout: DEADLINE_MS };
      const child = execFile(process.execPath, argv, options, (_error, stdout, stderr) => {
        resolve({ code: child.exitCode ?? -1, stdout, stderr });
      });
    });
  }

  /** An agent that does not answer yet is asked again. */
  async until(
    name: Name,
    what: string,
    holds: (status: NodeStatus) => boolean,
  ): Promise<NodeStatus> {
    const deadline = Date.now() + DEADLINE_MS;
    for (;;) {
      const status = await this.status(name).catch(() => undefined);
      if (status !== undefined && holds(status)) return status;
      const ended = [...this.#agents.values()].some(({ exitCode }) => exitCode !== null);
      if (ended || Date.now() > deadline) {
        const logs = `${this.#logs.primary}\n${this.#logs.secondary}`;
        throw new Error(`Waited too long for ${what} of the ${name}:\n${logs}`);
      }
      await delay(POLL_MS);
    }
  }

  #start(name: Name, flags: readonly string[]): void {
    const place = this.file(name);
    const common = ['--vm', 'resync', '--host', name, '--run-dir', place, '--state-dir', place];
    const words = [path.join(CLI, `colo-${name}.js`), ...common, '--peer-timeout', '3s', ...flags];
    const agent = spawn(process.execPath, words, { stdio: ['ignore', 'ignore', 'pipe'] });
    agent.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#logs[name] += text;
    });
    this.#agents.set(name, agent);
  }
}

/** In whole clusters. */
function differingBytes(one: string, other: string): number {
  const [a, b] = [fs.readFileSync(one), fs.readFileSync(other)];
  let bytes = 0;
  for (let at = 0; at < a.length; at += CLUSTER) {
    const end = at + CLUSTER;
    if (!a.subarray(at, end).equals(b.subarray(at, end))) bytes += CLUSTER;
  }
  return bytes;
}

async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}
