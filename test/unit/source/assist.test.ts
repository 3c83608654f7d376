import test from 'ava';
import type { GuestPast } from '../../../src/guest/index.js';
import { PAGE_SIZE_BYTES, type PageRange, Prng, ProtocolError } from '../../../src/lib/index.js';
import { digestPages, encodeDigests } from '../../../src/migration/index.js';
import { Assist } from '../../../src/source/assist-shell.js';
import { fillRandom, PageRam } from '../../support/page-ram.js';

const IMAGE = '5a'.repeat(16);
const PAGES = 5000;
const SILENT = { debug() {}, info() {}, warn() {}, error() {} };

function page(index: number, count = 1): PageRange {
  return { offset: index * PAGE_SIZE_BYTES, length: count * PAGE_SIZE_BYTES };
}

/** Every third page is zero; `read` has those that were asked for. */
class CountingRam extends PageRam {
  readonly read = new Set<number>();

  constructor(seed: number) {
    super(PAGES);
    const prng = new Prng(seed);
    for (let n = 0; n < PAGES; n += 1) if (n % 3 !== 0) fillRandom(this.page(n), prng);
  }

  override copyOut(offset: number, target: Buffer): void {
    for (let at = 0; at < target.length; at += PAGE_SIZE_BYTES) {
      this.read.add((offset + at) / PAGE_SIZE_BYTES);
    }
    super.copyOut(offset, target);
  }
}

function assistOf(ram: PageRam, past: GuestPast = {}, written: PageRange[] = []): Assist {
  return new Assist({ emulator: { ram, scanPrivate: () => written }, past }, SILENT);
}

function digestsOf(ram: PageRam): Buffer[] {
  const digests = Buffer.alloc(PAGES * 16);
  digestPages(Buffer.from(IMAGE, 'hex'), ram.bytes, digests);
  return [...encodeDigests(digests)];
}

/** Pages that are not the same, by the answer to the last digests. */
function sentPages(assist: Assist, batches: readonly Buffer[]): number[] {
  const sent = new Set(Array.from({ length: PAGES }, (_, index) => index));
  for (const [index, bytes] of batches.entries()) {
    const last = index === batches.length - 1;
    const answer = assist.compare(bytes, last);
    if (answer === undefined) continue;
    if (answer.kind !== 'imageCompared') throw new Error(`It answers ${answer.kind}`);
    for (const { offset, length } of answer.same) {
      for (let at = offset; at < offset + length; at += PAGE_SIZE_BYTES) {
        sent.delete(at / PAGE_SIZE_BYTES);
      }
    }
  }
  return [...sent];
}

test('by digests exactly the pages that differ are sent, and what was never touched is not read', (t) => {
  const [ours, theirs] = [new CountingRam(1), new CountingRam(1)];
  ours.page(0).fill(7);
  ours.page(4096).fill(0);
  ours.page(4999).fill(9);
  ours.page(4998).fill(0);
  theirs.page(4998).fill(3);
  const assist = assistOf(ours);
  assist.offered(IMAGE);
  const present = [page(0, 4998), page(4999)];
  assist.tracking(present);
  t.deepEqual(sentPages(assist, digestsOf(theirs)), [0, 4096, 4998, 4999]);
  t.false(ours.read.has(4998));
});

test('of a known image only what has a copy of its own is sent', (t) => {
  const ram = new CountingRam(1);
  const assist = assistOf(ram, { arrivedBy: IMAGE }, [page(2, 3), page(4999)]);
  t.deepEqual(assist.knownImages, [IMAGE]);
  assist.offered(IMAGE);
  assist.tracking([page(0, PAGES)]);
  t.deepEqual(assist.compareKnown(), { kind: 'imageCompared', same: [page(0, 2), page(5, 4994)] });
  t.is(ram.read.size, 0);
});

test('a guest that came in another way knows no image', (t) => {
  t.deepEqual(assistOf(new CountingRam(1)).knownImages, []);
});

test('digests that nobody offered, that end too early or are of another RAM are refused', (t) => {
  const ram = new CountingRam(1);
  const [first, second] = digestsOf(ram) as [Buffer, Buffer];
  const attempts: ((assist: Assist) => unknown)[] = [
    (assist) => assist.compare(first, true),
    (assist) => assist.compare(second, false),
    (assist) => assist.compare([...encodeDigests(Buffer.alloc(16 * 10))][0] as Buffer, true),
  ];
  for (const attempt of attempts) {
    const assist = assistOf(ram);
    t.throws(() => assist.compare(first, false), { instanceOf: ProtocolError });
    assist.offered(IMAGE);
    t.throws(() => attempt(assist), { instanceOf: ProtocolError });
  }
});
