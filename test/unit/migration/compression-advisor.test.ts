import test from 'ava';
import { PAGE_SIZE_BYTES, Prng } from '../../../src/lib/index.js';
import { CompressionAdvisor, codeBatch, PageEncoder } from '../../../src/migration/index.js';
import { fillHeap, fillRandom, PageRam } from '../../support/page-ram.js';

const MIB = 1024 * 1024;

interface World {
  /** MiB per second. */
  link: number;
  coder: number;
  ratio: number;
}

/** Runs an advisor through `seconds` of a world; tells which part of the batches it compressed. */
function run(advisor: CompressionAdvisor, world: World, fromUs: number, seconds: number) {
  const counts = { plain: 0, compress: 0, probe: 0, switches: 0 };
  let nowUs = fromUs;
  let before = advisor.figures.compressing;
  while (nowUs < fromUs + seconds * 1e6) {
    const advice = advisor.advise(nowUs);
    counts[advice] += 1;
    if (advisor.figures.compressing !== before) counts.switches += 1;
    before = advisor.figures.compressing;
    const rawBytes = MIB / 2;
    const bytes = advice === 'plain' ? rawBytes : rawBytes * world.ratio;
    const busyUs = bytes / ((world.link * MIB) / 1e6);
    const durationUs = rawBytes / ((world.coder * MIB) / 1e6);
    if (advice !== 'plain') advisor.coded({ rawBytes, codedBytes: bytes, durationUs }, nowUs);
    nowUs += advice === 'plain' ? busyUs : Math.max(busyUs, durationUs);
    advisor.sent({ bytes, busyUs }, nowUs);
  }
  return { ...counts, nowUs };
}

test('on a slow link pages that shrink are compressed', (t) => {
  const { plain, compress, switches } = run(
    new CompressionAdvisor(),
    { link: 100, coder: 240, ratio: 0.5 },
    0,
    5,
  );
  t.is(switches, 1);
  t.true(compress > 20 * plain, `${compress} compressed, ${plain} plain`);
});

test('on a link as fast as the coder nothing but probes is compressed', (t) => {
  const { plain, compress, probe } = run(
    new CompressionAdvisor(),
    { link: 1000, coder: 240, ratio: 0.4 },
    0,
    5,
  );
  t.is(compress, 0);
  t.is(probe, 10);
  t.true(plain > 1000);
});

test('pages that do not shrink are not compressed on any link', (t) => {
  const advisor = new CompressionAdvisor();
  t.is(run(advisor, { link: 1, coder: 240, ratio: 0.97 }, 0, 60).compress, 0);
});

test('coders that work at the same time add up', (t) => {
  const world = { link: 300, coder: 240, ratio: 0.5 };
  t.is(run(new CompressionAdvisor({ coders: 1 }), world, 0, 5).compress, 0);
  t.true(run(new CompressionAdvisor({ coders: 3 }), world, 0, 5).compress > 0);
});

test('it follows a link that becomes faster and slower again', (t) => {
  const advisor = new CompressionAdvisor();
  let at = run(advisor, { link: 50, coder: 240, ratio: 0.5 }, 0, 5).nowUs;
  t.true(advisor.figures.compressing);
  at = run(advisor, { link: 1000, coder: 240, ratio: 0.5 }, at, 20).nowUs;
  t.false(advisor.figures.compressing);
  run(advisor, { link: 50, coder: 240, ratio: 0.5 }, at, 20);
  t.true(advisor.figures.compressing);
});

test('a gain between the two bounds changes nothing, in either state', (t) => {
  const between = { link: 100, coder: 240, ratio: 1 / 1.12 };
  const off = new CompressionAdvisor();
  t.is(run(off, between, 0, 10).switches, 0);
  t.false(off.figures.compressing);
  const on = new CompressionAdvisor();
  const at = run(on, { link: 100, coder: 240, ratio: 0.5 }, 0, 5).nowUs;
  t.is(run(on, between, at, 30).switches, 0);
  t.true(on.figures.compressing);
});

test('a gain that jumps about does not make it flutter', (t) => {
  const advisor = new CompressionAdvisor();
  let at = 0;
  let switches = 0;
  for (let n = 0; n < 200; n++) {
    const ratio = n % 2 === 0 ? 0.5 : 0.99;
    const result = run(advisor, { link: 100, coder: 240, ratio }, at, 0.02);
    at = result.nowUs;
    switches += result.switches;
  }
  t.true(switches <= Math.ceil(at / 500_000), `${switches} switches in ${at} us`);
});

test('before anything is measured a batch is a probe, and then plain', (t) => {
  const advisor = new CompressionAdvisor();
  t.is(advisor.figures.gain, undefined);
  t.is(advisor.advise(0), 'probe');
  t.is(advisor.advise(1), 'plain');
  advisor.sent({ bytes: 100, busyUs: 0 }, 2);
  t.is(advisor.figures.linkRate, undefined);
});

/** The only batch of 100 pages of one kind. */
function batchOf(fill: (page: Buffer, prng: Prng) => void) {
  const ram = new PageRam(100);
  const prng = new Prng(1);
  for (let page = 0; page < 100; page++) fill(ram.page(page), prng);
  const encoder = new PageEncoder({ ramPages: 100, cacheBytes: 0, destinationIsZero: true });
  const [batch] = encoder.encode([{ offset: 0, length: 100 * PAGE_SIZE_BYTES }], ram);
  if (batch === undefined) throw new Error('There is no batch');
  return batch;
}

test('a batch is coded as advised, and the advisor learns from it', async (t) => {
  const advisor = new CompressionAdvisor();
  let nowUs = 0;
  const clock = (): number => {
    nowUs += 1000;
    return nowUs;
  };
  const batch = batchOf(fillHeap);
  const length = async (): Promise<number> =>
    Buffer.concat((await codeBatch(batch, advisor, clock)).parts).length;
  const probed = await length();
  t.true(probed < batch.data.length);
  const ratio = advisor.figures.ratio as number;
  t.true(Math.abs(ratio - probed / batch.data.length) < 0.01);
  t.true(Math.abs((advisor.figures.coderRate as number) - batch.data.length * 1000) < 1);
  t.true((await length()) > batch.data.length, 'Compressed although nothing is known of the link');
  nowUs += 1_000_000;
  advisor.sent({ bytes: 1000, busyUs: 1000 }, nowUs);
  t.is(await length(), probed);
  t.true(advisor.figures.compressing);
});

test('a batch that does not shrink is sent as it is, and counts as no gain', async (t) => {
  const advisor = new CompressionAdvisor();
  const batch = batchOf(fillRandom);
  const { parts } = await codeBatch(batch, advisor, () => 5);
  t.is(parts[1], batch.data);
  t.is(advisor.figures.ratio, 1);
});
