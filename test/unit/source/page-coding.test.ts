import test from 'ava';
import { PAGE_SIZE_BYTES, Prng } from '../../../src/lib/index.js';
import { decodeBatch, PageDecoder } from '../../../src/migration/index.js';
import { type CodedBatch, PageCoding } from '../../../src/source/page-coding-shell.js';
import { fillHeap, fillRandom, PageRam } from '../../support/page-ram.js';

const BATCHES = 8;
const BATCH_PAGES = 128;
const PAGES = BATCHES * BATCH_PAGES;
const MIB = 1024 ** 2;
const BATCH_BYTES = BATCH_PAGES * PAGE_SIZE_BYTES;

function ramOf(fill: (page: Buffer, prng: Prng) => void): PageRam {
  const ram = new PageRam(PAGES);
  const prng = new Prng(1);
  for (let page = 0; page < PAGES; page += 1) fill(ram.page(page), prng);
  return ram;
}

function bytesOf({ checked }: CodedBatch): Buffer {
  return Buffer.concat(checked.parts);
}

/** All of RAM in batches; gives the length of each. */
async function sendAll(t: { true(value: boolean): void }, ram: PageRam, coding: PageCoding) {
  const there = new PageRam(PAGES);
  const decoder = new PageDecoder(PAGES, there);
  const lengths: number[] = [];
  for (let sequence = 0; sequence < BATCHES; sequence += 1) {
    const coded = await coding.code([{ offset: sequence * BATCH_BYTES, length: BATCH_BYTES }]);
    coding.sent(sequence, coded.bytes);
    coding.confirmed(sequence);
    decoder.apply(bytesOf(coded));
    lengths.push(coded.bytes);
  }
  t.true(there.bytes.equals(ram.bytes));
  return lengths;
}

test('on a slow link memory is compressed where it shrinks', async (t) => {
  const ram = ramOf(fillHeap);
  const coding = new PageCoding({ ram, compress: 'auto', bytesPerSecondMax: MIB });
  const lengths = await sendAll(t, ram, coding);
  for (const length of lengths) t.true(length < 0.875 * BATCH_BYTES, `${lengths}`);
});

test('what does not shrink is sent as it is', async (t) => {
  const ram = ramOf(fillRandom);
  const coding = new PageCoding({ ram, compress: 'auto', bytesPerSecondMax: MIB });
  for (const length of await sendAll(t, ram, coding)) t.true(length >= BATCH_BYTES);
});

test('without compression nothing is compressed', async (t) => {
  const ram = ramOf(fillHeap);
  const off = new PageCoding({ ram, compress: 'off', bytesPerSecondMax: MIB });
  for (const length of await sendAll(t, ram, off)) t.true(length >= BATCH_BYTES);
});

test('zero pages are sent to a destination that has an image, and only there', async (t) => {
  const ram = new PageRam(PAGES);
  const range = [{ offset: 0, length: BATCH_BYTES }];
  const coding = new PageCoding({ ram, compress: 'auto', bytesPerSecondMax: null });
  t.is(decodeBatch(bytesOf(await coding.code(range)), PAGES).pages, 0);
  coding.destinationHasImage();
  t.is(decodeBatch(bytesOf(await coding.code(range)), PAGES).pages, BATCH_PAGES);
});

test('in another session every page is sent again, zero pages, too', async (t) => {
  const ram = new PageRam(PAGES);
  fillRandom(ram.page(3), new Prng(1));
  const range = [{ offset: 0, length: BATCH_BYTES }];
  const coding = new PageCoding({ ram, compress: 'auto', bytesPerSecondMax: null });
  coding.forget();
  for (let session = 1; session <= 2; session += 1) {
    t.is(decodeBatch(bytesOf(await coding.code(range)), PAGES).pages, BATCH_PAGES);
    coding.restart();
  }
});

test('compression that makes pages no faster is given up, and tried again later', async (t) => {
  const ram = ramOf(fillHeap);
  let nowUs = 0;
  const coding = new PageCoding({
    ...{ ram, compress: 'auto', bytesPerSecondMax: null, nowUs: () => nowUs },
  });
  coding.forget();
  let sequence = 0;
  let wasCompressed = false;
  /** Sends one batch ahead of what is confirmed; gives how many of them were compressed. */
  const run = async (batches: number, confirmUs: { plain: number; compressed: number }) => {
    let count = 0;
    for (let n = 0; n < batches; n += 1) {
      const offset = (sequence % BATCHES) * BATCH_BYTES;
      const { bytes } = await coding.code([{ offset, length: BATCH_BYTES }]);
      coding.sent(sequence, bytes);
      // What is confirmed is the batch before.
      nowUs += wasCompressed ? confirmUs.compressed : confirmUs.plain;
      coding.confirmed(sequence - 1);
      wasCompressed = bytes < BATCH_BYTES;
      if (wasCompressed) count += 1;
      sequence += 1;
    }
    return count;
  };
  // The link's speed is not known before two batches are confirmed.
  t.true((await run(600, { plain: 1000, compressed: 500 })) > 500, 'it pays');
  const worse = { plain: 1000, compressed: 5000 };
  t.true((await run(100, worse)) < 95);
  t.is(await run(1000, worse), 0, 'it rests');
  t.true((await run(5000, { plain: 1000, compressed: 500 })) > 500, 'it pays again');
});
