import test from 'ava';
import { CompareTracker } from '../../../src/emulator/dirty-tracker.js';
import { COMPARE_CHUNK_BYTES } from '../../../src/emulator/limits.js';

const PAGE = 4096;

function ramOf(bytes: Buffer) {
  return {
    sizeBytes: bytes.length,
    copyOut: (offset: number, target: Buffer) => {
      bytes.copy(target, 0, offset, offset + target.length);
    },
    dataRanges: () => [{ offset: 0, length: bytes.length }],
  };
}

test('compare reports exactly the pages that differ, joined, once', (t) => {
  const bytes = Buffer.alloc(4 * COMPARE_CHUNK_BYTES);
  const tracker = new CompareTracker(ramOf(bytes));
  t.deepEqual(tracker.takeWritten(), []);
  bytes[0] = 1;
  bytes[COMPARE_CHUNK_BYTES - 1] = 1;
  bytes[COMPARE_CHUNK_BYTES] = 1;
  bytes[3 * COMPARE_CHUNK_BYTES + PAGE] = 1;
  t.deepEqual(tracker.takeWritten(), [
    { offset: 0, length: PAGE },
    { offset: COMPARE_CHUNK_BYTES - PAGE, length: 2 * PAGE },
    { offset: 3 * COMPARE_CHUNK_BYTES + PAGE, length: PAGE },
  ]);
  t.deepEqual(tracker.takeWritten(), []);
});

test('compare finds a page that became zero, also when it is no data any more', (t) => {
  const bytes = Buffer.alloc(COMPARE_CHUNK_BYTES, 1);
  let data = [{ offset: 0, length: bytes.length }];
  const tracker = new CompareTracker({ ...ramOf(bytes), dataRanges: () => data });
  t.deepEqual(tracker.takeWritten(), [{ offset: 0, length: bytes.length }]);
  bytes.fill(0, PAGE, 2 * PAGE);
  data = [];
  t.deepEqual(tracker.takeWritten(), [{ offset: PAGE, length: PAGE }]);
});
