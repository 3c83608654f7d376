import test from 'ava';
import type { LeftRam } from '../../../src/emulator/index.js';
import { LeftGuestRam } from '../../../src/guest/index.js';

const LOG = { debug() {}, info() {}, warn() {}, error() {} };
const HOUR_US = 3_600_000_000;
const SIZE = 1 << 20;

class Ram implements LeftRam {
  readonly sizeBytes = SIZE;
  closed = false;
  readonly usedBytes: number;

  constructor(usedBytes = SIZE) {
    this.usedBytes = usedBytes;
  }

  dataRanges() {
    return [{ offset: 0, length: this.usedBytes }];
  }

  close(): void {
    this.closed = true;
  }
}

function keeper(keepRamBytes = SIZE, keepRamAgeUs = HOUR_US): LeftGuestRam {
  return new LeftGuestRam({ keepRamBytes, keepRamAgeUs }, LOG);
}

async function keep(left: LeftGuestRam, ram: LeftRam | undefined): Promise<number> {
  let ends = 0;
  const emulator = {
    endKeepingRam: async () => {
      ends += 1;
      return ram;
    },
  };
  await left.keep({ emulator } as unknown as Parameters<LeftGuestRam['keep']>[0], 'file');
  return ends;
}

test('what is kept is taken once, by a guest of that size', async (t) => {
  const [left, ram] = [keeper(), new Ram()];
  await keep(left, ram);
  t.is(left.take(SIZE), ram);
  t.is(left.take(SIZE), undefined);
  t.false(ram.closed, 'whoever has taken it has it');
  await keep(left, ram);
  t.is(left.take(2 * SIZE), undefined);
  t.true(ram.closed, 'nobody else will come for it');
});

test('only the newest is kept, and nothing of a guest that was killed', async (t) => {
  const [left, old, ram] = [keeper(), new Ram(), new Ram()];
  await keep(left, old);
  await keep(left, ram);
  t.true(old.closed);
  await keep(left, undefined);
  t.is(left.take(SIZE), ram);
});

test('more memory than is allowed is not kept', async (t) => {
  const [left, ram] = [keeper(SIZE - 1), new Ram()];
  await keep(left, ram);
  t.true(ram.closed);
  t.is(left.take(SIZE), undefined);
  const [small, holes] = [keeper(SIZE - 1), new Ram(SIZE - 4096)];
  await keep(small, holes);
  t.is(small.take(SIZE), holes, 'holes take nothing');
});

test('off, the guest is not even asked', async (t) => {
  t.is(await keep(keeper(0), new Ram()), 0);
});

test('it is given back when it is old, or not wanted any more', async (t) => {
  const [left, ram] = [keeper(SIZE, 1000), new Ram()];
  const closed = new Promise<void>((resolve) => {
    ram.close = () => {
      ram.closed = true;
      resolve();
    };
  });
  await keep(left, ram);
  // The clock that ends it keeps no process alive.
  const awake = setInterval(() => undefined, 1000);
  await closed;
  clearInterval(awake);
  t.is(left.take(SIZE), undefined);
  const other = new Ram();
  await keep(left, other);
  left.discard();
  left.discard();
  t.true(other.closed);
});
