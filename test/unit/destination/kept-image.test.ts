/** What a source keeps of a guest's RAM, and what a destination gets of it. */
import { open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { discardKept, KeptImage } from '../../../src/destination/kept-image-shell.js';
import { PAGE_SIZE_BYTES, type PageRange, Prng } from '../../../src/lib/index.js';
import { digestPages, encodeDigests } from '../../../src/migration/index.js';
import { keepRam } from '../../../src/source/keep-ram-shell.js';
import { fillRandom, PageRam } from '../../support/page-ram.js';
import { temporaryFolder } from '../../support/temporary.js';

const PAGES = 5000;
const MIGRATION = 'c3'.repeat(16);
const MIB = 1024 ** 2;
const SILENT = { debug() {}, info() {}, warn() {}, error() {} };

class WholeRam extends PageRam {
  dataRanges(): PageRange[] {
    return [{ offset: 0, length: this.sizeBytes }];
  }
}

function filled(): WholeRam {
  const ram = new WholeRam(PAGES);
  const prng = new Prng(3);
  for (let page = 0; page < PAGES; page += 1) if (page % 4 !== 0) fillRandom(ram.page(page), prng);
  return ram;
}

function placeOf(t: ExecutionContext, keepRamBytes = 100 * MIB) {
  const stateDir = temporaryFolder(t);
  const place = { stateDir, vm: 'web', keepRamBytes, keepRamAgeUs: 3_600_000_000 };
  return { place, path: join(stateDir, 'web.kept-ram/web.ram') };
}

async function keep(
  place: ReturnType<typeof placeOf>['place'],
  ram: WholeRam,
  signal = new AbortController().signal,
): Promise<void> {
  const options = { log: SILENT, migration: MIGRATION, epoch: 5, ram, signal };
  await keepRam({ ...options, configuration: place });
}

test('the RAM of a guest that left is what the destination begins with when it comes back', async (t) => {
  const { place, path } = placeOf(t);
  const ram = filled();
  await keep(place, ram);
  t.is((await stat(path)).mode & 0o777, 0o600);
  const there = new WholeRam(PAGES);
  const image = await KeptImage.load(place, { ram: there, log: SILENT });
  if (image === undefined) return t.fail('It was not kept');
  t.is(image.id, MIGRATION);
  t.true(there.bytes.equals(ram.bytes));

  const digests = Buffer.alloc(PAGES * 16);
  digestPages(Buffer.from(MIGRATION, 'hex'), ram.bytes, digests);
  const sent: { bytes: Buffer; last: boolean }[] = [];
  await image.sendDigests(async (section) => void sent.push(section));
  t.deepEqual(
    sent.map(({ bytes }) => bytes),
    [...encodeDigests(digests)],
  );
  t.deepEqual(
    sent.map(({ last }) => last),
    [false, true],
  );
  await discardKept(place, SILENT);
  t.is(await KeptImage.load(place, { ram: there, log: SILENT }), undefined);
});

test('of a broken image nothing is used, and the RAM is all zeroes again', async (t) => {
  const { place, path } = placeOf(t);
  await keep(place, filled());
  const file = await open(path, 'r+');
  const { size } = await file.stat();
  await file.write(Buffer.from('x'), 0, 1, size - PAGE_SIZE_BYTES - 1);
  await file.close();
  const there = new WholeRam(PAGES);
  t.is(await KeptImage.load(place, { ram: there, log: SILENT }), undefined);
  t.true(there.writes > 0);
  t.true(there.bytes.equals(Buffer.alloc(there.sizeBytes)));
  await t.throwsAsync(stat(path), { code: 'ENOENT' });
});

test('an image of another size of RAM is not used', async (t) => {
  const { place } = placeOf(t);
  await keep(place, filled());
  const there = new WholeRam(PAGES + 1);
  t.is(await KeptImage.load(place, { ram: there, log: SILENT }), undefined);
  t.true(there.bytes.equals(Buffer.alloc(there.sizeBytes)));
});

test('a source that is told to stop keeps nothing of what it has written so far', async (t) => {
  const { place } = placeOf(t);
  const stopping = new AbortController();
  const ram = filled();
  const copyOut = ram.copyOut.bind(ram);
  let chunks = 0;
  ram.copyOut = (offset, target) => {
    chunks += 1;
    if (chunks === 3) stopping.abort('The agent is to stop');
    copyOut(offset, target);
  };
  await keep(place, ram, stopping.signal);
  t.is(chunks, 3);
  t.deepEqual(await readdir(join(place.stateDir, 'web.kept-ram')), []);
});

test('what does not fit, is switched off or given up is not kept, and nothing is left of it', async (t) => {
  const stopped = new AbortController();
  stopped.abort('The agent is to stop');
  for (const [bytes, signal] of [
    [MIB, undefined],
    [0, undefined],
    [100 * MIB, stopped.signal],
  ] as const) {
    const { place } = placeOf(t);
    await keep(place, filled());
    await keep({ ...place, keepRamBytes: bytes }, filled(), signal);
    t.deepEqual(await readdir(join(place.stateDir, 'web.kept-ram')), [], `${bytes}`);
  }
});
