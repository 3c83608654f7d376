import test from 'ava';
import type { PageBatch } from '../../../src/migration/index.js';
import { BatchMemory } from '../../../src/source/batch-memory.js';

function batch(): PageBatch {
  return { runs: [], pages: 0, data: Buffer.alloc(1) };
}

test('a batch is given back once, by the confirmation that covers it', (t) => {
  const memory = new BatchMemory();
  const batches = [batch(), batch(), batch()];
  for (const [sequence, one] of batches.entries()) memory.sent(sequence, one);
  t.deepEqual(memory.received(1), batches.slice(0, 2));
  t.deepEqual(memory.received(1), []);
  t.is(memory.received(2)[0], batches[2]);
});

test('what a lost session had under way is not used again', (t) => {
  const memory = new BatchMemory();
  memory.sent(0, batch());
  memory.restart();
  t.deepEqual(memory.received(0), []);
});
