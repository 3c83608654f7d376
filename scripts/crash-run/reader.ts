/**
 * Asks a running guest for everything that the writers stored, from the client's namespace:
 *
 *     node reader.js --target 10.77.0.10 --request FILE --answer FILE
 *
 * The request is `{ keys, directories }`, the answer the `Contents` with lists instead of maps; both
 * are JSON, in files because they may be long.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { parseArgs } from 'node:util';
import { ControlConnection } from '../clients/control-connection.js';
import { RespConnection } from '../clients/resp-connection.js';
import { type FoundFile, type FoundLoad, foundFile } from './contents.js';

const REDIS_PORT = 6379;
const CONTROL_PORT = 7001;
/** Keys per MGET: one reply then is about 100 kB. */
const KEYS_PER_READ = 200;

export interface ReadRequest {
  readonly keys: readonly string[];
  readonly directories: readonly string[];
}

export interface ReadAnswer {
  readonly sets: readonly (readonly [string, string])[];
  readonly files: readonly (readonly [string, FoundFile])[];
  readonly load: FoundLoad;
}

const { values: options } = parseArgs({
  options: {
    target: { type: 'string' },
    request: { type: 'string' },
    answer: { type: 'string' },
  },
});
const host = options.target ?? '';

async function readSets(keys: readonly string[]): Promise<ReadAnswer['sets']> {
  const connection = await RespConnection.open({ host, port: REDIS_PORT });
  const sets: [string, string][] = [];
  for (let at = 0; at < keys.length; at += KEYS_PER_READ) {
    const batch = keys.slice(at, at + KEYS_PER_READ);
    const reply = await connection.command(['MGET', ...batch]);
    if (reply.kind !== 'array' || reply.items.length !== batch.length) {
      throw new Error(`MGET is answered with ${JSON.stringify(reply).slice(0, 200)}`);
    }
    for (const [index, item] of reply.items.entries()) {
      const key = batch[index];
      if (item.kind === 'bulk' && key !== undefined)
        sets.push([key, item.bytes.toString('latin1')]);
    }
  }
  connection.close();
  return sets;
}

async function readFiles(
  control: ControlConnection,
  directory: string,
): Promise<ReadAnswer['files']> {
  const command = `cd ${directory} && for f in s*; do sha256sum $f; head -n 1 $f; done`;
  const [code, output = ''] = (await control.command(`exec ${command}`)).split(' ');
  const lines = Buffer.from(output, 'base64').toString().split('\n').filter(Boolean);
  if (code !== '0') throw new Error(`The files can't be read: ${lines.join(' ')}`);
  const files: [string, FoundFile][] = [];
  for (let at = 0; at + 1 < lines.length; at += 2) {
    const [sha256 = '', name = ''] = (lines[at] ?? '').split(/ +/);
    files.push([`${directory}/${name}`, foundFile(basename(name), lines[at + 1] ?? '', sha256)]);
  }
  return files;
}

/** The load must not run: a block could be written while it is looked at. */
async function readLoad(control: ControlConnection): Promise<FoundLoad> {
  await control.command('diskload off');
  const answer = await control.command('diskload verify').catch((error: Error) => error.message);
  const highest = Number(/highest=(\d+)/.exec(answer)?.[1] ?? Number.NaN);
  const bad = Number(/bad=(\d+)/.exec(answer)?.[1] ?? 0);
  if (Number.isNaN(highest)) throw new Error(answer);
  return { highest, bad };
}

async function main(): Promise<void> {
  const request = JSON.parse(await readFile(options.request ?? '', 'utf8')) as ReadRequest;
  const control = await ControlConnection.open({ host, port: CONTROL_PORT });
  const files: ReadAnswer['files'][number][] = [];
  for (const directory of request.directories) files.push(...(await readFiles(control, directory)));
  const answer: ReadAnswer = {
    sets: await readSets(request.keys),
    files,
    load: await readLoad(control),
  };
  control.close();
  await writeFile(options.answer ?? '', JSON.stringify(answer));
}

await main();
