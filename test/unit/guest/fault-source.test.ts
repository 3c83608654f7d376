/** The source's fault thread over a real session, with a file for guest RAM. */
import { closeSync, writeSync } from 'node:fs';
import test, { type ExecutionContext } from 'ava';
import { FaultSource } from '../../../src/guest/index.js';
import { PAGE_SIZE_BYTES, type PageRange } from '../../../src/lib/index.js';
import { createMemoryFile } from '../../../src/linux/index.js';
import {
  DESTINATION_SECTIONS,
  decodeBatch,
  SOURCE_SECTIONS,
  unframeSection,
} from '../../../src/migration/index.js';
import type { Session } from '../../../src/transport/index.js';
import { LogCollector, startListener, startSession } from '../transport/support.js';

const PAGES = 64;
const SECTION_FRAME = 0x0160;
const rangeOf = (page: number, pages = 1): PageRange => {
  return { offset: page * PAGE_SIZE_BYTES, length: pages * PAGE_SIZE_BYTES };
};

/** Page n is full of n: page 0 is zero. */
async function sourceOf(t: ExecutionContext) {
  const fd = createMemoryFile('guest', PAGES * PAGE_SIZE_BYTES);
  for (let page = 1; page < PAGES; page += 1) {
    writeSync(fd, Buffer.alloc(PAGE_SIZE_BYTES, page), 0, PAGE_SIZE_BYTES, page * PAGE_SIZE_BYTES);
  }
  const failures: Error[] = [];
  const log = new LogCollector();
  const lane = new FaultSource({
    ...{ log, ram: { fd, at: 0, sizeBytes: PAGES * PAGE_SIZE_BYTES } },
    onFailure: (error) => failures.push(error),
  });
  t.teardown(async () => {
    await lane.end();
    closeSync(fd);
  });
  return { lane, failures, log };
}

class Destination {
  readonly #session: Session;
  readonly #arrived: [sequence: number, pages: number[]][] = [];
  #wake: () => void = () => undefined;

  constructor(session: Session) {
    this.#session = session;
    session.links.faults.onFrame((frame) => {
      const section = SOURCE_SECTIONS.decode(unframeSection(frame.payload, SOURCE_SECTIONS.limit));
      if (section?.kind !== 'demanded') throw new Error(`A ${section?.kind}`);
      const { runs, data } = decodeBatch(section.batch, PAGES);
      const raw = [...data].filter((_, at) => at % PAGE_SIZE_BYTES === 0);
      const pages = runs.flatMap(({ first, count, kind }) =>
        Array.from({ length: count }, (_, i) =>
          kind === 'zero' ? first + i : (raw.shift() ?? -1),
        ),
      );
      this.#arrived.push([section.sequence, pages]);
      this.#wake();
    });
  }

  demand(ranges: readonly PageRange[]): void {
    const parts = DESTINATION_SECTIONS.encode({ kind: 'demand', ranges });
    this.#session.links.faults.send(SECTION_FRAME, parts);
  }

  async next(): Promise<[number, number[]]> {
    while (this.#arrived.length === 0) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#arrived.shift() as [number, number[]];
  }
}

test('what is demanded is sent range by range, once the guest stands still', async (t) => {
  const { lane, failures } = await sourceOf(t);
  const { near, far } = await startSession(t, await startListener(t));
  await lane.attach(near);
  const destination = new Destination(far);
  destination.demand([]);
  t.deepEqual(await destination.next(), [0, []], 'a rehearsal reads no RAM');
  destination.demand([rangeOf(9), rangeOf(0, 3)]);
  destination.demand([]);
  t.deepEqual(await destination.next(), [1, []], 'pages wait');
  lane.begin();
  t.deepEqual(await destination.next(), [2, [9]]);
  t.deepEqual(await destination.next(), [3, [0, 1, 2]]);
  // Again, as the source believes nothing.
  destination.demand([rangeOf(9)]);
  t.deepEqual(await destination.next(), [4, [9]]);
  await lane.stop();
  destination.demand([rangeOf(9)]);
  destination.demand([]);
  t.deepEqual(await destination.next(), [5, []], 'RAM is not read any more');
  t.deepEqual(failures, []);
});

test('another session is served at once, and numbered anew', async (t) => {
  const { lane } = await sourceOf(t);
  const first = await startSession(t, await startListener(t));
  await lane.attach(first.near);
  lane.begin();
  first.near.destroy();
  const second = await startSession(t, await startListener(t));
  await lane.attach(second.near);
  const destination = new Destination(second.far);
  destination.demand([rangeOf(5)]);
  t.deepEqual(await destination.next(), [0, [5]]);
});

test('a demand outside of RAM ends the session', async (t) => {
  const { lane, failures, log } = await sourceOf(t);
  const { near, far } = await startSession(t, await startListener(t));
  await lane.attach(near);
  // Which of the links ends first there is the kernel's choice.
  const over = new Promise<void>((resolve) => near.onClose(() => resolve()));
  new Destination(far).demand([rangeOf(PAGES)]);
  await Promise.all([over, log.reached(1)]);
  t.regex(JSON.stringify(log.lines), /demands pages that it can not lack/);
  t.deepEqual(failures, []);
});

test('more pages than the link takes go in turn', async (t) => {
  const { lane } = await sourceOf(t);
  const { near, far } = await startSession(t, await startListener(t));
  await lane.attach(near);
  lane.begin();
  const destination = new Destination(far);
  const demands = 500;
  for (let i = 0; i < demands; i += 1) destination.demand([rangeOf(1 + (i % 60), 2)]);
  for (let i = 0; i < demands; i += 1) {
    const page = 1 + (i % 60);
    t.deepEqual(await destination.next(), [i, [page, page + 1]]);
  }
});
