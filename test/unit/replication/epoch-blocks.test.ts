import test from 'ava';
import { EpochBlocks } from '../../../src/replication/index.js';

const BLOCK = 1_000_000;

test('each block begins above the one before, across restarts', (t) => {
  const blocks = new EpochBlocks(0);
  t.is(blocks.take(), 1);
  t.is(blocks.reserved, 1 + BLOCK);
  t.is(new EpochBlocks(blocks.reserved).take(), 2 + BLOCK);
});

test('who goes on with a guest of the peer begins above all of its block', (t) => {
  const peer = new EpochBlocks(0);
  const epoch = peer.take() + 7;
  t.true(new EpochBlocks(0).take(epoch) > peer.reserved);
});

test('the next block is taken when half of one is used', (t) => {
  const blocks = new EpochBlocks(0);
  const first = blocks.take();
  t.false(blocks.used(first + BLOCK / 2));
  t.true(blocks.used(first + BLOCK / 2 + 1));
  t.is(blocks.reserved, first + BLOCK + BLOCK / 2 + 1);
});

test('a guest that a secondary starts later does not use what its primaries have used', (t) => {
  const primary = new EpochBlocks(0);
  const secondary = new EpochBlocks(0);
  const first = primary.take(5 * BLOCK);
  t.true(secondary.used(first));
  for (const epoch of [first + 1, first + BLOCK / 2 + 10, first + BLOCK]) {
    secondary.used(epoch);
    t.true(new EpochBlocks(secondary.reserved).take() > epoch);
  }
});
