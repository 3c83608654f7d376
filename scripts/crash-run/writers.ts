/**
 * The clients of a crash round, as one process in the client's namespace:
 *
 *     node writers.js --target 10.77.0.10 --run NAME
 *
 * Several redis connections store ever new keys, two shells replace files (write, fsync, rename,
 * fsync of the directory), and the guest's `diskload` writes numbered blocks and tells how far it
 * has synced. Each write is kept with the time when it was sent and when it was acknowledged.
 *
 * Stdout is JSON lines: `started` once each writer has had its first answer, and `report` at the
 * end. Stdin: `stop` waits for the answers that are due, for a while; `abandon` doesn't:
 * nobody will answer.
 */
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { describeError } from '../../src/lib/index.js';
import { ControlConnection } from '../clients/control-connection.js';
import { RespConnection } from '../clients/resp-connection.js';
import { fileCommand, storedValue } from './contents.js';
import type { FileRecord, LoadSample, SetRecord, WriterReport } from './ledger.js';

const REDIS_PORT = 6379;
const CONTROL_PORT = 7001;
const REDIS_CONNECTIONS = 12;
/** Between two writes of a connection: the guest shall have some time for the others. */
const REDIS_PAUSE_MS = 10;
/** Every so many writes, one that redis must refuse. */
const REFUSED_EVERY = 8;
const SHELLS = 2;
const SLOTS_PER_SHELL = 6;
const LOAD_MIB_PER_SECOND = 4;
/** In mode colo each answer may force a checkpoint: the guests are not equally far. */
const LOAD_POLL_MS = { min: 50, max: 800 };

/** What is not answered by then, long after a failover, counts as unanswered. */
const ANSWERS_DEADLINE_MS = 15_000;

type Writable<T> = { -readonly [K in keyof T]: T[K] };

const { values: options } = parseArgs({
  options: { target: { type: 'string' }, run: { type: 'string' } },
});
const host = options.target ?? '';
const run = options.run ?? '';
const directory = `/var/lib/crash-${run}`;

const sets: Writable<SetRecord>[] = [];
const files: Writable<FileRecord>[] = [];
const load: LoadSample[] = [];
const problems: string[] = [];
let refused = 0;
let stopping = false;

async function writeKeys(connection: RespConnection, name: string): Promise<void> {
  for (let number = 0; !stopping; number++) {
    const record = { key: `${name}:${number}`, sentMs: Date.now(), ackedMs: null };
    sets.push(record);
    await set(connection, record);
    if (number % REFUSED_EVERY === 0) await mustBeRefused(connection, record.key);
    await delay(REDIS_PAUSE_MS);
  }
}

async function set(connection: RespConnection, record: Writable<SetRecord>): Promise<void> {
  const reply = await connection.command(['SET', record.key, storedValue(record.key)]);
  if (reply.kind === 'status' && reply.text === 'OK') record.ackedMs = Date.now();
  else problems.push(`redis answers SET ${record.key} with ${JSON.stringify(reply)}`);
}

/** The client sees this write fail, so its value must never be seen. */
async function mustBeRefused(connection: RespConnection, key: string): Promise<void> {
  const reply = await connection.command(['SET', key, `${key} refused`, 'NX']);
  if (reply.kind === 'null') refused += 1;
  else problems.push(`redis answers SET ${key} NX with ${JSON.stringify(reply)}`);
}

async function writeFiles(control: ControlConnection, shell: number): Promise<void> {
  for (let number = 0; !stopping; number++) {
    const name = `s${shell}-${number % SLOTS_PER_SHELL}`;
    const version = 1 + Math.floor(number / SLOTS_PER_SHELL);
    const slot = `${directory}/${name}`;
    const record: Writable<FileRecord> = { slot, version, sentMs: Date.now(), ackedMs: null };
    files.push(record);
    const answer = await control.command(`exec ${fileCommand(directory, name, version)}`);
    if (answer.startsWith('0 ')) record.ackedMs = Date.now();
    else problems.push(`The shell answers ${answer} to ${slot}`);
  }
}

async function watchLoad(control: ControlConnection): Promise<void> {
  while (!stopping) {
    const sentMs = Date.now();
    const synced = Number((await control.command('diskload status')).replace('synced=', ''));
    load.push({ sentMs, answeredMs: Date.now(), synced });
    await delay(LOAD_POLL_MS.min + Math.random() * (LOAD_POLL_MS.max - LOAD_POLL_MS.min));
  }
  await control.command('diskload off');
}

/** A writer ends at the stop, or with its connection: then nobody knows of its last write. */
async function keepOn(work: Promise<void>): Promise<void> {
  await work.catch((error) => process.stderr.write(`${describeError(error)}\n`));
}

async function main(): Promise<void> {
  const control = await ControlConnection.open({ host, port: CONTROL_PORT });
  await control.command(`exec mkdir ${directory} && sync /var/lib`);
  await control.command(`diskload ${LOAD_MIB_PER_SECOND}`);
  const shells = await Promise.all(
    Array.from({ length: SHELLS }, () => ControlConnection.open({ host, port: CONTROL_PORT })),
  );
  const connections = await Promise.all(
    Array.from({ length: REDIS_CONNECTIONS }, () => {
      return RespConnection.open({ host, port: REDIS_PORT });
    }),
  );
  const work = Promise.all([
    keepOn(watchLoad(control)),
    ...shells.map((shell, index) => keepOn(writeFiles(shell, index))),
    ...connections.map((connection, index) => keepOn(writeKeys(connection, `${run}:${index}`))),
  ]);
  process.stdout.write(`${JSON.stringify({ type: 'started' })}\n`);
  for await (const line of createInterface({ input: process.stdin })) {
    stopping = true;
    if (line === 'stop') await Promise.race([work, delay(ANSWERS_DEADLINE_MS)]);
    break;
  }
  const report: WriterReport = {
    sets,
    files,
    load,
    directories: [directory],
    refused,
    problems,
  };
  process.stdout.write(`${JSON.stringify({ type: 'report', ...report })}\n`, () => process.exit(0));
}

await main();
