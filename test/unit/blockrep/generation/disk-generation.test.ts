/** The record and the map in files, as a host lives through its roles. */
import fs from 'node:fs';
import path from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { discardImage } from '../../../../src/blockrep/generation/discard-shell.js';
import { DiskGeneration } from '../../../../src/blockrep/generation/disk-generation-shell.js';
import { type DiskVerdict, judgeDisk } from '../../../../src/blockrep/generation/judge.js';
import { lineageOf } from '../../../../src/blockrep/generation/record.js';
import { ImageFile } from '../../../../src/blockrep/image-shell.js';
import { DIRTY_CLUSTER_BYTES as CLUSTER } from '../../../../src/blockrep/limits.js';
import { OperatorError } from '../../../../src/lib/index.js';
import { collectingLog, temporaryDirectory } from '../support.js';
import { BOOT, OTHER_BOOT } from './records.js';

const SIZE = 20 * CLUSTER;
const DATA = Buffer.alloc(4096, 7);

/** Kept, or their map files would be closed, with a warning, whenever memory is short. */
const OPENED: Opened[] = [];

/** One host's place for its files. */
class Host {
  readonly directory: string;
  readonly imagePath: string;
  readonly recordPath: string;
  readonly name: string;
  readonly log = collectingLog();
  bootId = BOOT;

  constructor(t: ExecutionContext, name: string) {
    this.name = name;
    this.directory = temporaryDirectory(t);
    this.imagePath = path.join(this.directory, 'root.img');
    this.recordPath = path.join(this.directory, 'web.root.generation');
  }

  get discardOptions() {
    const { directory: stateDir, imagePath, name: host } = this;
    return { stateDir, vm: 'web', disk: 'root', host, imagePath };
  }

  async open(): Promise<Opened> {
    const image = await ImageFile.open({ path: this.imagePath, sizeBytes: SIZE });
    try {
      const generation = await DiskGeneration.open({
        ...this.discardOptions,
        image,
        log: this.log,
        bootId: this.bootId,
      });
      return new Opened(image, generation);
    } catch (error) {
      await image.close();
      throw error;
    }
  }
}

class Opened {
  readonly image: ImageFile;
  readonly generation: DiskGeneration;

  constructor(image: ImageFile, generation: DiskGeneration) {
    this.image = image;
    this.generation = generation;
    OPENED.push(this);
  }

  async write(cluster: number): Promise<void> {
    this.generation.changes.mark(cluster * CLUSTER, DATA.length);
    await this.image.write(cluster * CLUSTER, DATA, false);
  }

  /** What a SIGKILL leaves: the lock goes, nothing is written. */
  kill(): Promise<void> {
    return this.image.close();
  }

  async close(): Promise<void> {
    await this.image.flush();
    await this.image.close();
    await this.generation.close();
  }
}

function judge(primary: Opened, secondary: Opened): DiskVerdict {
  const claim = JSON.parse(JSON.stringify(secondary.generation.claim));
  return judgeDisk(primary.generation.primary, claim);
}

/** The first synchronisation, and one committed epoch. */
async function protect(primary: Opened, secondary: Opened, epoch: number): Promise<void> {
  const lineage = lineageOf(primary.generation.primary.record);
  await secondary.generation.beginSync(lineage);
  await secondary.write(0);
  primary.generation.edge(epoch);
  await secondary.generation.standbyAt(lineage, epoch);
  primary.generation.committed(epoch);
}

async function pair(t: ExecutionContext) {
  const [anna, bert] = [new Host(t, 'anna'), new Host(t, 'bert')];
  const primary = await anna.open();
  await primary.generation.beginAlone();
  await primary.write(0);
  const secondary = await bert.open();
  t.deepEqual(judge(primary, secondary), { kind: 'all', why: 'the image is blank' });
  await protect(primary, secondary, 5);
  return { anna, bert, primary, secondary };
}

test('a secondary that was away is an ancestor, and only what changed is a candidate', async (t) => {
  const { bert, primary, secondary } = await pair(t);
  await secondary.close();
  await primary.generation.beginAlone();
  await primary.write(3);
  const back = await bert.open();
  t.deepEqual(judge(primary, back), { kind: 'changed' });
  t.deepEqual([...primary.generation.changedRanges()], [{ offset: 3 * CLUSTER, length: CLUSTER }]);
  await Promise.all([back.close(), primary.close()]);
});

test('a primary that was killed comes back as secondary with its tail', async (t) => {
  const { anna, primary, secondary } = await pair(t);
  await primary.write(4);
  primary.generation.edge(6);
  await primary.write(5);
  await primary.kill();
  await secondary.generation.beginAlone();
  await secondary.write(9);
  const back = await anna.open();
  t.deepEqual(judge(secondary, back), { kind: 'changed' });
  const changed = { offset: 4 * CLUSTER, length: 2 * CLUSTER };
  t.deepEqual([...back.generation.changedRanges()], [changed]);
  // The whole way: the former primary stands by, and is promoted in its turn.
  await protect(secondary, back, 9);
  await secondary.kill();
  await back.generation.beginAlone();
  t.is(back.generation.primary.record.history.length, 2);
  await back.close();
});

test('a primary that lost its power has no map to trust', async (t) => {
  const { anna, primary, secondary } = await pair(t);
  await primary.kill();
  await secondary.generation.beginAlone();
  anna.bootId = OTHER_BOOT;
  const back = await anna.open();
  t.is(judge(secondary, back).kind, 'all');
  await Promise.all([back.close(), secondary.close()]);
});

test('a standby that died counts the epochs that its journal replays', async (t) => {
  for (const replayed of [undefined, 8]) {
    const { anna, bert, primary, secondary } = await pair(t);
    for (const epoch of [6, 7, 8]) {
      primary.generation.edge(epoch);
      secondary.generation.applied(epoch);
      primary.generation.committed(epoch);
    }
    await Promise.all([primary.kill(), secondary.kill()]);
    const promoted = await bert.open();
    if (replayed !== undefined) promoted.generation.applied(replayed);
    await promoted.generation.beginAlone();
    const back = await anna.open();
    // Without it, the former primary knows of commits that this record does not.
    t.is(judge(promoted, back).kind, replayed === undefined ? 'all' : 'changed');
    await Promise.all([back.close(), promoted.close()]);
  }
});

test('the first commit of another session in the generation may not have been heard of', async (t) => {
  const { primary, secondary } = await pair(t);
  // The session is lost, and nobody may go alone; another one begins, and its first commit is at 9.
  await primary.generation.beginPeering();
  await secondary.generation.standbyAt(lineageOf(primary.generation.primary.record), 9);
  await primary.generation.beginAlone();
  t.like(primary.generation.primary.record.history[0], { epoch: 5, exact: false });
  t.deepEqual(judge(primary, secondary).kind, 'changed');
  await Promise.all([primary.close(), secondary.close()]);
});

test('once a commit of the session was heard of, its epoch is exact again', async (t) => {
  const { primary, secondary } = await pair(t);
  await primary.generation.beginPeering();
  primary.generation.edge(9);
  primary.generation.committed(9);
  await primary.generation.beginAlone();
  t.like(primary.generation.primary.record.history[0], { epoch: 9, exact: true });
  await Promise.all([primary.close(), secondary.close()]);
});

test('an epoch that may not be the last one does not become that by an orderly end', async (t) => {
  const { anna, bert, primary, secondary } = await pair(t);
  for (const epoch of [6, 7, 8]) {
    primary.generation.edge(epoch);
    secondary.generation.applied(epoch);
    primary.generation.committed(epoch);
  }
  await Promise.all([primary.kill(), secondary.kill()]);
  // A session that did not come about.
  await (await bert.open()).close();
  const promoted = await bert.open();
  await promoted.generation.beginAlone();
  t.like(promoted.generation.primary.record.history[0], { epoch: 5, exact: false });
  const back = await anna.open();
  t.is(judge(promoted, back).kind, 'all');
  await Promise.all([back.close(), promoted.close()]);
});

test('both went on: neither is overwritten until an operator gives one up', async (t) => {
  const { bert, primary, secondary } = await pair(t);
  await primary.generation.beginAlone();
  await secondary.generation.beginAlone();
  await t.throwsAsync(discardImage(bert.discardOptions), { code: 'COLO_E_IMAGE_LOCKED' } as never);
  await secondary.close();
  const refused = await bert.open();
  t.is(judge(primary, refused).kind, 'refuse');
  await refused.close();
  const before = fs.readFileSync(bert.recordPath);
  const { keptPath } = await discardImage(bert.discardOptions);
  t.deepEqual(fs.readFileSync(keptPath as string), before, 'the old record is still there');
  t.regex(keptPath as string, /web\.root\.generation\.discarded-[\dTZ-]+$/);
  const back = await bert.open();
  t.deepEqual(judge(primary, back), { kind: 'all', why: 'the image was discarded' });
  await t.throwsAsync(back.generation.beginAlone(), { instanceOf: OperatorError });
  await Promise.all([back.close(), primary.close()]);
});

test('a primary that is started again knows its last commit from the map', async (t) => {
  const { anna, primary, secondary } = await pair(t);
  for (const epoch of [6, 7, 8]) {
    primary.generation.edge(epoch);
    secondary.generation.applied(epoch);
    primary.generation.committed(epoch);
  }
  await primary.kill();
  const again = await anna.open();
  await again.generation.beginAlone();
  t.like(again.generation.primary.record.history[0], { epoch: 8, exact: true });
  t.deepEqual(judge(again, secondary), { kind: 'changed' });
  await again.kill();
  anna.bootId = OTHER_BOOT;
  const later = await anna.open();
  await later.generation.beginAlone();
  t.like(later.generation.primary.record.history[0], { exact: false });
  t.is(judge(later, secondary).kind, 'all');
  await Promise.all([later.close(), secondary.close()]);
});

test('an image that was written while nobody had it open is noticed on both sides', async (t) => {
  const { anna, bert, primary, secondary } = await pair(t);
  await secondary.close();
  await primary.close();
  const now = new Date();
  fs.utimesSync(bert.imagePath, now, new Date(now.getTime() + 1000));
  const primaryAgain = await anna.open();
  await primaryAgain.generation.beginAlone();
  for (let i = 0; i < 2; i++) {
    const back = await bert.open();
    const verdict = judge(primaryAgain, back);
    t.true(verdict.kind === 'refuse' && verdict.reason.includes('was written to'));
    // Refused, and asked again later: the record must still know it.
    await back.close();
  }
  await primaryAgain.close();
  fs.utimesSync(anna.imagePath, now, new Date(now.getTime() + 1000));
  const other = await anna.open();
  await other.generation.beginAlone();
  t.deepEqual(other.generation.primary.record.history, [], 'its history ends');
  t.false(other.generation.primary.map.trusted);
  t.true(anna.log.lines.some((line) => line.includes('changed outside of Colo')));
  await other.close();
});

test('an image that was replaced by an empty one is blank, by another one is not', async (t) => {
  const { bert, primary, secondary } = await pair(t);
  await secondary.close();
  fs.renameSync(bert.imagePath, `${bert.imagePath}.old`);
  const blank = await bert.open();
  t.deepEqual(blank.generation.claim, { kind: 'blank' });
  await blank.close();
  fs.writeFileSync(bert.imagePath, Buffer.alloc(SIZE, 3));
  fs.renameSync(bert.imagePath, `${bert.imagePath}.new`);
  fs.copyFileSync(`${bert.imagePath}.new`, bert.imagePath);
  const other = await bert.open();
  const verdict = judge(primary, other);
  t.true(verdict.kind === 'refuse' && verdict.reason.includes('is another file'));
  await Promise.all([other.close(), primary.close()]);
});

test('data without a record is unknown; given up, it may be overwritten', async (t) => {
  const { primary } = await pair(t);
  const carl = new Host(t, 'carl');
  fs.writeFileSync(carl.imagePath, Buffer.alloc(SIZE, 3));
  const unknown = await carl.open();
  t.deepEqual(unknown.generation.claim, { kind: 'unknown' });
  t.is(judge(primary, unknown).kind, 'refuse');
  await unknown.close();
  t.false(fs.existsSync(carl.recordPath), 'a look leaves nothing');
  t.is((await discardImage(carl.discardOptions)).keptPath, undefined);
  const given = await carl.open();
  t.is(judge(primary, given).kind, 'all');
  await Promise.all([given.close(), primary.close()]);
});

test('a synchronisation that was not finished has no state to start from', async (t) => {
  const { anna, bert, primary } = await pair(t);
  const lineage = lineageOf(primary.generation.primary.record);
  const carl = new Host(t, 'carl');
  const syncing = await carl.open();
  await syncing.generation.beginSync(lineage);
  await syncing.write(0);
  await syncing.kill();
  const back = await carl.open();
  const verdict = judge(primary, back);
  t.true(verdict.kind === 'all' && verdict.why.includes('not finished'));
  const error = await t.throwsAsync(back.generation.beginAlone(), { instanceOf: OperatorError });
  t.true(error?.message.includes(`rm ${carl.recordPath}`));
  t.true(fs.existsSync(anna.recordPath) && fs.existsSync(bert.recordPath));
  await Promise.all([back.close(), primary.close()]);
});

test('a damaged record is told with its file and both ways out', async (t) => {
  const { bert, secondary } = await pair(t);
  await secondary.close();
  t.is(fs.statSync(bert.recordPath).mode & 0o777, 0o600);
  const bytes = fs.readFileSync(bert.recordPath, 'utf8');
  fs.writeFileSync(bert.recordPath, bytes.replace('"epoch": 5', '"epoch": 6'));
  const error = await t.throwsAsync(bert.open(), { instanceOf: OperatorError });
  const command = 'colo discard-image --vm web --disk root';
  for (const part of [bert.recordPath, 'checksum', command, `rm ${bert.recordPath}`]) {
    t.true(error?.message.includes(part), part);
  }
  fs.writeFileSync(bert.recordPath, Buffer.alloc(300 * 1024, 0x20));
  await t.throwsAsync(bert.open(), { instanceOf: OperatorError });
  fs.writeFileSync(bert.recordPath, bytes);
  fs.copyFileSync(bert.recordPath, path.join(bert.directory, 'web.other.generation'));
  // The command works on a damaged one, too.
  fs.writeFileSync(bert.recordPath, 'nonsense');
  const { keptPath } = await discardImage(bert.discardOptions);
  t.is(fs.readFileSync(keptPath as string, 'utf8'), 'nonsense');
  const back = await bert.open();
  t.like(back.generation.claim, { kind: 'record', state: 'discarded' });
  await back.close();
});

test('a record of another guest or of another size is refused', async (t) => {
  const { bert, secondary } = await pair(t);
  await secondary.close();
  const record = JSON.parse(fs.readFileSync(bert.recordPath, 'utf8'));
  const image = await ImageFile.open({ path: bert.imagePath });
  t.teardown(() => image.close());
  fs.copyFileSync(bert.recordPath, path.join(bert.directory, 'mail.root.generation'));
  const options = { ...bert.discardOptions, image, log: bert.log, bootId: BOOT };
  const error = await t.throwsAsync(DiskGeneration.open({ ...options, vm: 'mail' }));
  t.true(error?.message.includes('vm "web", where vm "mail" is expected'));
  const longer = {
    path: image.path,
    sizeBytes: SIZE + 512,
    dataRanges: () => image.dataRanges(),
  };
  const resized = await t.throwsAsync(DiskGeneration.open({ ...options, image: longer }));
  t.true(resized?.message.includes(`sizeBytes ${record.record.sizeBytes}`));
});
