/**
 * For tests: sets of disks, each in its thread and with a folder of its own, and the session and
 * the checkpoints that join two of them.
 */
import fs from 'node:fs';
import path from 'node:path';
import type { ExecutionContext } from 'ava';
import {
  type AcceptedImage,
  type ImageClaim,
  judgeDisks,
  lineageOf,
} from '../../../../src/blockrep/index.js';
import type { DiskPlace, GuestDisksOptions } from '../../../../src/guest/index.js';
import { GuestDisks } from '../../../../src/guest/index.js';
import type { Session } from '../../../../src/transport/index.js';
import { RawClient, request, temporaryDirectory } from '../../blockrep/support.js';
import { LogCollector, startListener, startSession } from '../../transport/support.js';

export const MIB = 1024 * 1024;
export const SIZE = 8 * MIB;
export const EPOCH = 7;

export type Staged = Parameters<NonNullable<GuestDisksOptions['onStaged']>>[0];

/** Hands out what happens in the order of its happening. */
export class Events<T> {
  readonly all: T[] = [];
  #wake: (() => void) | undefined;

  readonly add = (event: T): void => {
    this.all.push(event);
    this.#wake?.();
  };

  async reached(count: number): Promise<T[]> {
    while (this.all.length < count) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.all;
  }
}

export interface Host {
  readonly disks: GuestDisks;
  /** Where all its files are. */
  readonly directory: string;
  readonly claims: readonly ImageClaim[];
  readonly log: LogCollector;
  readonly imagePath: string;
  readonly socketPath: string;
  readonly staged: Events<Staged>;
  readonly unfit: Events<string>;
  readonly overBound: Events<number>;
}

export async function startHost(
  t: ExecutionContext,
  role: 'live' | 'standby',
  { contents, directory = temporaryDirectory(t) }: { contents?: Buffer; directory?: string } = {},
): Promise<Host> {
  const imagePath = path.join(directory, 'image');
  if (contents !== undefined) fs.writeFileSync(imagePath, contents);
  const staged = new Events<Staged>();
  const unfit = new Events<string>();
  const overBound = new Events<number>();
  const log = new LogCollector();
  const disks = new GuestDisks({
    log,
    onStaged: staged.add,
    onUnfit: unfit.add,
    onOverBound: overBound.add,
    onFailure: (error) => t.fail(error.message),
  });
  t.teardown(() => disks.stop());
  const place: DiskPlace = { name: 'root', path: imagePath, sizeBytes: contents?.length ?? SIZE };
  const started = await disks.start({
    role,
    host: role,
    disks: [place],
    socketDirectory: directory,
    vm: 'guest',
    stateDirectory: directory,
  });
  if (role === 'live') await disks.beginAlone();
  const socketPath = started.sockets[0] as string;
  const { claims } = started;
  return { disks, directory, claims, log, imagePath, socketPath, staged, unfit, overBound };
}

export interface Pair {
  readonly primary: Host;
  readonly secondary: Host;
  readonly near: Session;
  readonly far: Session;
  readonly guest: RawClient;
  readonly verdicts: readonly AcceptedImage[];
}

/** A session, as hello and reply begin it. Rejects with the reason of a refusal. */
export async function attach(
  t: ExecutionContext,
  primary: Host,
  secondary: Host,
  epoch = EPOCH,
  resyncBytesPerSecond?: number,
): Promise<Pick<Pair, 'near' | 'far' | 'verdicts'>> {
  const images = await primary.disks.images();
  const verdict = judgeDisks(images, secondary.claims);
  if (verdict.kind === 'refuse') throw new Error(verdict.reason);
  const lineages = images.map(({ record }) => lineageOf(record));
  const { near, far } = await startSession(t, await startListener(t));
  const verdicts = verdict.disks;
  await Promise.all([
    primary.disks.attachSource(near, { epoch, verdicts, resyncBytesPerSecond }),
    secondary.disks.attachTarget(far, lineages),
  ]);
  return { near, far, verdicts };
}

/** A primary whose image has `contents`, with a secondary attached that has nothing yet. */
export async function startPair(t: ExecutionContext, contents: Buffer): Promise<Pair> {
  const primary = await startHost(t, 'live', { contents });
  const secondary = await startHost(t, 'standby');
  const session = await attach(t, primary, secondary);
  const guest = await RawClient.attach(t, primary.socketPath, 'root');
  return { primary, secondary, guest, ...session };
}

export async function write(client: RawClient, offset: number, data: Buffer): Promise<number> {
  client.send(request('write', { offset, data }));
  return (await client.reply()).error;
}

export async function read(client: RawClient, offset: number, length: number): Promise<Buffer> {
  client.send(request('read', { offset, length }));
  await client.reply();
  return client.take(length);
}

/** A whole synchronisation and the first edge; the secondary then has all up to it. */
export async function protect(pair: Pair): Promise<void> {
  await pair.primary.disks.syncRound();
  await edge(pair, EPOCH);
}

/** The pause of a checkpoint as the replicator makes it, then commit and apply. */
export async function edge(
  { primary, secondary }: Pick<Pair, 'primary' | 'secondary'>,
  epoch: number,
): Promise<Staged> {
  const count = secondary.staged.all.length;
  primary.disks.beginPause();
  const [totals] = await primary.disks.edge(epoch);
  await primary.disks.endPause();
  const staged = (await secondary.staged.reached(count + 1))[count] as Staged;
  const { operations, bytes } = staged;
  if (totals?.operations !== operations || totals.bytes !== bytes || staged.epoch !== epoch) {
    throw new Error(`${JSON.stringify(staged)} is not ${JSON.stringify(totals)} of ${epoch}`);
  }
  await secondary.disks.commit(epoch);
  primary.disks.committed(epoch);
  await secondary.disks.apply(epoch);
  return staged;
}

export function pattern(length: number, seed: number): Buffer {
  const data = Buffer.alloc(length);
  for (let at = 0; at < length; at += 1) data[at] = (at * 31 + seed * 17 + (at >> 8)) & 255;
  return data;
}
