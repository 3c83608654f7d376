import test from 'ava';
import { ArrivedDigest } from '../../../src/destination/arrived-digest.js';
import { PAGE_SIZE_BYTES, Prng } from '../../../src/lib/index.js';
import { digestRam } from '../../../src/replication/index.js';
import { fillRandom, PageRam } from '../../support/page-ram.js';

const PAGES = 300;

function filled(): PageRam {
  const ram = new PageRam(PAGES);
  const prng = new Prng(11);
  for (let page = 0; page < PAGES; page += 1) if (page % 3 !== 0) fillRandom(ram.page(page), prng);
  return ram;
}

test('pages in any order come to the digest of the RAM that they are of', async (t) => {
  const ram = filled();
  const digest = new ArrivedDigest(PAGES);
  const prng = new Prng(5);
  const left = Array.from({ length: PAGES }, (_, page) => page);
  while (left.length > 0) {
    t.is(digest.value, undefined);
    const [page = 0] = left.splice(prng.nextInt(0, left.length - 1), 1);
    digest.add(page * PAGE_SIZE_BYTES, ram.page(page));
  }
  t.is(digest.value, await digestRam(ram));
});

test('several pages at once are as good, and another page is noticed', async (t) => {
  const ram = filled();
  const all = Buffer.concat(Array.from({ length: PAGES }, (_, page) => ram.page(page)));
  const digest = new ArrivedDigest(PAGES);
  digest.add(PAGE_SIZE_BYTES, all.subarray(PAGE_SIZE_BYTES));
  all[7] = 1;
  digest.add(0, all.subarray(0, PAGE_SIZE_BYTES));
  t.not(digest.value, await digestRam(ram));
});

test('a page that comes twice, once each way, counts once', async (t) => {
  const ram = filled();
  const digest = new ArrivedDigest(PAGES);
  for (let page = 0; page < PAGES; page += 1) {
    digest.add(page * PAGE_SIZE_BYTES, ram.page(page));
    digest.add(page * PAGE_SIZE_BYTES, ram.page(page));
    t.is(digest.value !== undefined, page === PAGES - 1);
  }
  t.is(digest.value, await digestRam(ram));
});
