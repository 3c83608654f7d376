import test from 'ava';
import {
  DestinationCore,
  type DestinationInput,
  type DestinationOutput,
  type HelloSection,
  type PlainSourceSection,
} from '../../../src/migration/index.js';
import { deviceDigest } from '../../../src/migration/source-parts.js';
import { StreamDigest } from '../../../src/migration/stream-digest.js';
import { HELLO } from '../../support/migration-sections.js';

const SESSION = 1;
const DEVICES = Buffer.from('devices');
const PENDING = { offset: 0, length: 4096 };

/** A destination of a postcopy with one missing page, whose shell does what it is told. */
class Bench {
  readonly core: DestinationCore;
  readonly words: string[] = [];
  readonly outputs: DestinationOutput[] = [];

  constructor(recorded?: 'taking' | 'owns' | 'discarded') {
    this.core = new DestinationCore({
      silenceTimeoutUs: 10_000_000,
      recoverTimeoutUs: 60_000_000,
      recorded: recorded === undefined ? undefined : { migration: HELLO.migration, what: recorded },
    });
  }

  nowUs = 0;

  step(input: DestinationInput): void {
    for (const output of this.core.step(input, this.nowUs)) {
      this.outputs.push(output);
      this.words.push(output.kind === 'put' ? output.section.kind : output.kind);
    }
  }

  hear(section: PlainSourceSection, session = SESSION): void {
    this.step({ kind: 'section', session, section });
  }

  /** Up to `run`, which is heard; the guest is being started. */
  starting(): this {
    const hello: HelloSection = { ...HELLO, choices: { ...HELLO.choices, mode: 'postcopy' } };
    this.hear(hello);
    const { host, qemuVersion } = HELLO;
    this.step({ kind: 'prepared', host, qemuVersion, image: undefined, verdictsJson: '[]' });
    this.hear({ kind: 'pending', ranges: [PENDING] });
    this.hear({ kind: 'deviceState', bytes: DEVICES });
    const digest = new StreamDigest();
    this.hear({
      kind: 'switchover',
      postcopy: true,
      batches: digest.batches,
      streamDigest: digest.value,
      pendingPages: 1,
      deviceStateBytes: DEVICES.length,
      deviceStateDigest: deviceDigest(DEVICES),
      ramDigest: undefined,
      disksMoved: false,
    });
    this.step({ kind: 'guestLoaded' });
    this.hear({ kind: 'run' });
    return this;
  }

  /** What the source was told last. */
  get resumed(): string | undefined {
    const told = this.outputs.flatMap((output) =>
      output.kind === 'put' && output.section.kind === 'resumed' ? [output.section.state] : [],
    );
    return told.at(-1);
  }

  resume(session: number): void {
    const { migration, vm, host } = HELLO;
    this.hear({ kind: 'resume', migration, vm, host }, session);
  }
}

for (const when of ['starting', 'running'] as const) {
  test(`a guest that powers off while ${when} lacks nothing any more`, (t) => {
    const bench = new Bench().starting();
    if (when === 'running') bench.step({ kind: 'guestSpeaks' });
    bench.step({ kind: 'poweredOff', reason: 'off' });
    if (when === 'starting') bench.step({ kind: 'guestSpeaks' });
    t.deepEqual(bench.words.slice(-3), ['running', 'complete', 'ended']);
    t.like(bench.core.state, { kind: 'ended', outcome: { kind: 'poweredOff' } });
    bench.resume(2);
    t.is(bench.resumed, 'complete');
  });
}

test('a guest that could not be started is the source’s again', (t) => {
  const bench = new Bench().starting();
  bench.step({ kind: 'broken', reason: 'no space', ran: false });
  t.deepEqual(bench.words.slice(-4), ['failed', 'record', 'discard', 'ended']);
  bench.resume(2);
  t.is(bench.resumed, 'discarded');
});

test('the next process says what was written down', (t) => {
  const told = { taking: 'discarded', discarded: 'discarded', owns: 'lost' } as const;
  for (const what of ['taking', 'discarded', 'owns'] as const) {
    const bench = new Bench(what);
    bench.resume(SESSION);
    t.is(bench.resumed, told[what]);
    t.is(bench.core.state.kind, 'waiting');
  }
});

test('another session takes the place of the one before by naming the migration', (t) => {
  const bench = new Bench().starting();
  bench.step({ kind: 'guestSpeaks' });
  bench.hear({ kind: 'run' }, 2);
  t.is(bench.core.session, SESSION);
  bench.resume(2);
  t.is(bench.core.session, 2);
  t.is(bench.resumed, 'running');
  t.true(bench.words.includes('closeSession'));
});

test('a source that comes again when all is over is heard to let go', (t) => {
  const bench = new Bench().starting();
  bench.step({ kind: 'guestSpeaks' });
  bench.step({ kind: 'backupApplied', ranges: [PENDING] });
  t.like(bench.core.state, { kind: 'ended', outcome: { kind: 'completed' } });
  bench.step({ kind: 'sessionLost', session: SESSION, reason: 'cut' });
  bench.resume(2);
  t.is(bench.resumed, 'complete');
  // Of another session's sections nothing counts.
  t.is(bench.core.session, 2);
});

test('with the last page that comes by the fault lane the guest is complete', (t) => {
  const bench = new Bench().starting();
  bench.step({ kind: 'guestSpeaks' });
  bench.step({ kind: 'fault', offsets: [0] });
  bench.step({ kind: 'placed', ranges: [PENDING], waitsUs: [300] });
  t.deepEqual(bench.words.slice(-5), ['placed', 'allPagesHere', 'faults', 'complete', 'ended']);
  const faults = bench.outputs.find((o) => o.kind === 'put' && o.section.kind === 'faults');
  t.like(faults, { section: { faults: 1 } });
  // The same page once more, behind the end: nobody minds.
  bench.hear({ kind: 'released' });
});

test('a source that is asked for a page and silent is given up, until the page is there', (t) => {
  for (const comes of [false, true]) {
    const bench = new Bench().starting();
    bench.step({ kind: 'guestSpeaks' });
    bench.nowUs = 60_000_000;
    t.is(bench.core.deadlineUs(), undefined, 'nobody waits for anything');
    bench.step({ kind: 'fault', offsets: [0] });
    t.is(bench.core.deadlineUs(), 70_000_000);
    bench.nowUs = 70_000_000;
    if (comes) bench.step({ kind: 'placed', ranges: [PENDING], waitsUs: [] });
    bench.step({ kind: 'tick' });
    t.is(bench.words.includes('closeSession'), !comes);
  }
});
