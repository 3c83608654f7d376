import test from 'ava';
import { PAGE_SIZE_BYTES } from '../../../src/lib/index.js';
import {
  type PlainDestinationSection,
  SourceCore,
  type SourceInput,
  type SourceOptions,
  type SourceOutput,
} from '../../../src/migration/index.js';
import { HELLO } from '../../support/migration-sections.js';

const PAGES = HELLO.ramSizeBytes / PAGE_SIZE_BYTES;
const SECOND_US = 1_000_000;
const ALL = [{ offset: 0, length: HELLO.ramSizeBytes }];

/** A source whose shell does what it is told, in one piece. */
class Bench {
  readonly core: SourceCore;
  readonly outputs: SourceOutput[] = [];
  nowUs = 0;
  /** What a scan finds. */
  found: () => { offset: number; length: number }[] = () => [];
  readonly #inputs: SourceInput[] = [];
  #stepping = false;

  constructor(mode: 'precopy' | 'postcopy' | 'hybrid', options: Partial<SourceOptions> = {}) {
    const choices = { ...HELLO.choices, mode, assisted: false };
    this.core = new SourceCore({
      hello: { ...HELLO, choices },
      knownImages: [],
      maxBandwidth: undefined,
      downtimeLimitUs: 100_000,
      autoConverge: false,
      onNoConvergence: 'keep-going',
      recoverTimeoutUs: 60 * SECOND_US,
      silenceTimeoutUs: 10 * SECOND_US,
      settlesDisks: false,
      movesDisks: false,
      ...options,
    });
  }

  step(input: SourceInput): void {
    this.#inputs.push(input);
    if (this.#stepping) return;
    this.#stepping = true;
    for (let next = this.#inputs.shift(); next !== undefined; next = this.#inputs.shift()) {
      for (const output of this.core.step(next, this.nowUs)) {
        this.outputs.push(output);
        this.#carryOut(output);
      }
    }
    this.#stepping = false;
  }

  #carryOut(output: SourceOutput): void {
    if (output.kind === 'sendPages') {
      const { session, sequence } = output;
      this.nowUs += 1000;
      this.step({ kind: 'pagesSent', session, sequence, bytes: 4096, crc: 1 });
      this.hear({ kind: 'received', sequence });
    }
    const answer = this.#answer(output.kind);
    if (answer !== undefined) this.step(answer);
  }

  #answer(kind: SourceOutput['kind']): SourceInput | undefined {
    switch (kind) {
      case 'connect':
        return { kind: 'connected', session: this.outputs.length };
      case 'startTracking':
        return { kind: 'trackingStarted', ranges: ALL };
      case 'scan':
        return { kind: 'scanned', ranges: this.found() };
      case 'pause':
        return { kind: 'paused' };
      case 'captureDevices':
        return { kind: 'devicesCaptured', bytes: Buffer.from('devices'), ramDigest: undefined };
      case 'giveUp':
        return { kind: 'gaveUp' };
      default:
        return undefined;
    }
  }

  hear(section: PlainDestinationSection): void {
    this.step({ kind: 'section', session: this.session, section });
  }

  get session(): number {
    const sessions = this.outputs.filter((output) => output.kind === 'put');
    return sessions.at(-1)?.session ?? 0;
  }

  /** What was done, a word each. */
  get words(): string[] {
    return this.outputs.map((output) =>
      output.kind === 'put' ? output.section.kind : output.kind,
    );
  }

  accepted(): this {
    this.step({ kind: 'start' });
    this.hear({
      kind: 'accepted',
      host: 'b',
      qemuVersion: '7',
      image: undefined,
      verdictsJson: '[]',
    });
    return this;
  }
}

test('a precopy of a guest at rest: one round, pause, switchover, run, release, in this order', (t) => {
  const bench = new Bench('precopy').accepted();
  bench.hear({ kind: 'loaded' });
  bench.hear({ kind: 'running', startUs: 1 });
  t.deepEqual(bench.words, [
    ...['connect', 'hello', 'startTracking', 'sendPages', 'scan', 'round', 'giveUp'],
    ...['scan', 'round', 'pause', 'scan', 'captureDevices', 'deviceState', 'switchover'],
    // The session is the destination's to close, once it has heard that it is released.
    ...['run', 'released', 'record', 'release', 'ended'],
  ]);
  t.deepEqual(bench.core.state, { kind: 'ended', outcome: { kind: 'moved' } });
});

test('a guest that is kept after its pause goes on once that is written down', (t) => {
  const bench = new Bench('precopy').accepted();
  bench.step({ kind: 'sessionLost', session: bench.session, reason: 'cut' });
  t.deepEqual(bench.words.slice(-3), ['record', 'resumeGuest', 'ended']);
  t.like(bench.outputs.at(-3), { what: 'taken-back' });
});

test('a pause waits for the moved disks, and is written down only then', (t) => {
  for (const mode of ['precopy', 'postcopy'] as const) {
    const bench = new Bench(mode, { settlesDisks: true, movesDisks: true }).accepted();
    t.true(bench.words.includes('sendPages'));
    t.false(bench.words.includes('giveUp') || bench.words.includes('pause'));
    bench.step({ kind: 'disksReady' });
    t.true(bench.words.indexOf('pause') > bench.words.indexOf('giveUp'));
  }
});

test('the disks settle beside the load, and run waits for both, in either order', (t) => {
  for (const last of ['loaded', 'disksSettled'] as const) {
    const bench = new Bench('precopy', { settlesDisks: true, movesDisks: true }).accepted();
    bench.step({ kind: 'disksReady' });
    t.deepEqual(bench.words.slice(-3), ['settleDisks', 'deviceState', 'switchover']);
    if (last === 'loaded') bench.step({ kind: 'disksSettled' });
    else bench.hear({ kind: 'loaded' });
    t.false(bench.words.includes('run'));
    if (last === 'loaded') bench.hear({ kind: 'loaded' });
    else bench.step({ kind: 'disksSettled' });
    t.is(bench.words.at(-1), 'run');
  }
});

test('disks that do not settle give the guest back, also once it is loaded there', (t) => {
  const bench = new Bench('precopy', { settlesDisks: true, movesDisks: true }).accepted();
  bench.step({ kind: 'disksReady' });
  bench.hear({ kind: 'loaded' });
  bench.step({ kind: 'broken', reason: 'The image can not be synced' });
  t.deepEqual(bench.words.slice(-5), ['cancel', 'record', 'resumeGuest', 'closeSession', 'ended']);
  t.false(bench.words.includes('run'));
});

test('a destination says loaded once', (t) => {
  const bench = new Bench('precopy', { settlesDisks: true, movesDisks: true }).accepted();
  bench.step({ kind: 'disksReady' });
  bench.hear({ kind: 'loaded' });
  bench.hear({ kind: 'loaded' });
  t.true(bench.words.includes('resumeGuest'));
  t.false(bench.words.includes('run'));
});

test('shared disks are durable before run, and the destination waits for nothing of them', (t) => {
  const bench = new Bench('precopy', { settlesDisks: true }).accepted();
  t.false(bench.words.includes('pause'));
  bench.step({ kind: 'disksReady' });
  t.true(bench.words.includes('settleDisks'));
  bench.hear({ kind: 'loaded' });
  t.false(bench.words.includes('run'));
  bench.step({ kind: 'disksSettled' });
  t.is(bench.words.at(-1), 'run');
  const switchover = bench.outputs.find((output) => {
    return output.kind === 'put' && output.section.kind === 'switchover';
  });
  t.like(switchover, { section: { disksMoved: false } });
});

test('a pause that is put off takes back what was written down', (t) => {
  const bench = new Bench('precopy', { downtimeLimitUs: 4 });
  let scans = 0;
  bench.found = () => {
    bench.nowUs += SECOND_US / 4;
    scans += 1;
    return scans === 2 ? ALL : [];
  };
  const { words, outputs } = bench.accepted();
  t.is(words.filter((word) => word === 'giveUp').length, 2);
  const withdrawn = words.indexOf('record');
  t.true(withdrawn > words.indexOf('giveUp') && withdrawn < words.lastIndexOf('giveUp'));
  t.like(outputs[withdrawn], { what: 'moving' });
  t.true(words.includes('pause'));
});

test('until run every loss gives the guest back at once', (t) => {
  for (const lose of ['before', 'loading'] as const) {
    const bench = new Bench('precopy');
    if (lose === 'loading') bench.accepted();
    else bench.step({ kind: 'start' });
    bench.step({ kind: 'sessionLost', session: bench.session, reason: 'cut' });
    t.is(bench.words.includes('resumeGuest'), lose === 'loading');
    t.is(bench.core.state.kind, 'ended');
    t.false(bench.words.includes('run'));
  }
});

test('from run on no loss, no time and no command gives the guest back', (t) => {
  const bench = new Bench('precopy').accepted();
  bench.hear({ kind: 'loaded' });
  bench.step({ kind: 'operatorCancel' });
  bench.step({ kind: 'operatorForce', by: 'an operator' });
  t.is(bench.words.filter((word) => word === 'commandRefused').length, 2);
  bench.step({ kind: 'sessionLost', session: bench.session, reason: 'cut' });
  for (let i = 0; i < 200; i += 1) {
    bench.nowUs += SECOND_US;
    bench.step({ kind: 'tick' });
    const resuming = bench.core.state.kind === 'handedOver' && bench.core.state.link === 'resuming';
    if (resuming) bench.step({ kind: 'sessionLost', session: bench.session, reason: 'cut' });
  }
  t.false(bench.words.includes('resumeGuest'));
  t.is(bench.words.filter((word) => word === 'alarm').length, 1);
  t.true(bench.words.filter((word) => word === 'resume').length > 50);
  t.is(bench.core.state.kind, 'handedOver');
  bench.step({ kind: 'operatorForce', by: 'an operator' });
  t.deepEqual(bench.words.slice(-3), ['record', 'resumeGuest', 'ended']);
});

test('a destination that never ran the guest gives it back, one that may have does not', (t) => {
  for (const [state, back] of [
    ['discarded', true],
    ['lost', false],
    ['unknown', false],
  ] as const) {
    const bench = new Bench('precopy').accepted();
    bench.hear({ kind: 'loaded' });
    bench.step({ kind: 'sessionLost', session: bench.session, reason: 'cut' });
    bench.step({ kind: 'tick' });
    bench.hear({ kind: 'resumed', state });
    t.is(bench.words.includes('resumeGuest'), back, state);
  }
});

test('in postcopy what is around the last demanded page goes first, then the rest, each once', (t) => {
  const maxBandwidth = 4 * 8 * PAGE_SIZE_BYTES;
  const bench = new Bench('postcopy', { maxBandwidth }).accepted();
  t.false(bench.words.includes('sendPages'));
  bench.hear({ kind: 'loaded' });
  const demanded = { offset: 40 * PAGE_SIZE_BYTES, length: 2 * PAGE_SIZE_BYTES };
  bench.hear({ kind: 'placed', ranges: [demanded] });
  t.like(bench.core.progress(0), { demandedPages: 2, pagesSent: 2, pagesLeft: PAGES - 2 });
  bench.hear({ kind: 'running', startUs: 1 });
  for (let i = 0; i < 20; i += 1) {
    bench.nowUs += SECOND_US;
    bench.step({ kind: 'tick' });
  }
  const sent = bench.outputs.filter((output) => output.kind === 'sendPages');
  t.is(sent[0]?.ranges[0]?.offset, 24 * PAGE_SIZE_BYTES);
  const pages = sent.flatMap(({ ranges }) =>
    ranges.flatMap(({ offset, length }) =>
      Array.from({ length: length / PAGE_SIZE_BYTES }, (_, i) => offset / PAGE_SIZE_BYTES + i),
    ),
  );
  t.deepEqual(
    [...pages].sort((a, b) => a - b),
    Array.from({ length: PAGES }, (_, page) => page).filter((page) => page !== 40 && page !== 41),
  );
});

test('without background nothing is sent but by the fault lane', (t) => {
  const choices = {
    ...HELLO.choices,
    mode: 'postcopy',
    assisted: false,
    background: false,
  } as const;
  const bench = new Bench('postcopy', { hello: { ...HELLO, choices } }).accepted();
  bench.hear({ kind: 'loaded' });
  bench.hear({ kind: 'placed', ranges: [{ offset: 40 * PAGE_SIZE_BYTES, length: 4096 }] });
  bench.hear({ kind: 'running', startUs: 1 });
  bench.hear({ kind: 'faults', faults: 1, p50Us: 100, p99Us: 100 });
  bench.nowUs += SECOND_US;
  bench.step({ kind: 'tick' });
  t.false(bench.words.includes('sendPages'));
  t.is(bench.core.progress(0).pagesLeft, PAGES - 1);
});

test('pages are placed where some may be missing, and within RAM; else the session goes', (t) => {
  const placed = { kind: 'placed', ranges: [{ offset: 0, length: PAGE_SIZE_BYTES }] } as const;
  const outside = {
    kind: 'placed',
    ranges: [{ offset: HELLO.ramSizeBytes, length: 4096 }],
  } as const;
  const early = new Bench('postcopy').accepted();
  early.hear({ ...outside });
  t.true(early.words.includes('cancel'));
  const precopy = new Bench('precopy').accepted();
  precopy.hear(placed);
  t.true(precopy.words.includes('cancel'));
  const running = new Bench('postcopy').accepted();
  running.hear({ kind: 'loaded' });
  running.hear(outside);
  t.is(running.words.at(-1), 'closeSession');
});

test('after the recover time-out the backup has what was not confirmed, once', (t) => {
  const bench = new Bench('postcopy').accepted();
  bench.hear({ kind: 'loaded' });
  bench.hear({ kind: 'placed', ranges: [{ offset: 0, length: 2 * PAGE_SIZE_BYTES }] });
  bench.step({ kind: 'sessionLost', session: bench.session, reason: 'cut' });
  bench.nowUs += 61 * SECOND_US;
  bench.step({ kind: 'tick' });
  bench.step({ kind: 'sessionLost', session: bench.session, reason: 'cut' });
  const backups = bench.outputs.filter((output) => output.kind === 'writeBackup');
  t.deepEqual(backups, [
    {
      kind: 'writeBackup',
      ranges: [{ offset: 2 * PAGE_SIZE_BYTES, length: HELLO.ramSizeBytes - 2 * PAGE_SIZE_BYTES }],
    },
  ]);
});

test('a guest that writes faster than the link is slowed down, or given up, as was asked', (t) => {
  const busy = (options: Partial<SourceOptions>): Bench => {
    const bench = new Bench('precopy', { ...options, downtimeLimitUs: 4 });
    bench.found = () => {
      bench.nowUs += SECOND_US / 4;
      // It stops writing after a while, so that a run that keeps going ends.
      return bench.nowUs < 20 * SECOND_US ? ALL : [];
    };
    return bench.accepted();
  };
  const throttled = busy({ autoConverge: true }).outputs.filter(({ kind }) => kind === 'throttle');
  t.deepEqual(throttled.slice(0, 3), [
    { kind: 'throttle', percent: 20 },
    { kind: 'throttle', percent: 30 },
    { kind: 'throttle', percent: 40 },
  ]);
  const given = busy({ onNoConvergence: 'give-up' });
  t.deepEqual(given.words.slice(-3), ['cancel', 'closeSession', 'ended']);
  t.false(given.words.includes('pause'));
  const kept = busy({ onNoConvergence: 'keep-going' });
  t.is(kept.words.filter((word) => word === 'alarm').length, 1);
  t.true(kept.words.includes('switchover'));
});

test('a destination that was sent everything and says nothing is asked what it lacks', (t) => {
  const bench = new Bench('postcopy').accepted();
  bench.hear({ kind: 'loaded' });
  bench.hear({ kind: 'running', startUs: 1 });
  bench.step({ kind: 'tick' });
  const { state } = bench.core;
  t.true(state.kind === 'handedOver' && state.link === 'sending');
  t.is(bench.core.progress(bench.nowUs).pagesLeft, 0);
  const deadlineUs = bench.core.deadlineUs() ?? 0;
  t.true(deadlineUs > bench.nowUs);
  bench.nowUs = deadlineUs;
  bench.step({ kind: 'tick' });
  bench.step({ kind: 'tick' });
  t.is(bench.words.at(-1), 'resume');
});

test('a destination that may load a kept image is given the time for it', (t) => {
  for (const assisted of [false, true]) {
    const core = new SourceCore({
      hello: { ...HELLO, choices: { ...HELLO.choices, assisted } },
      knownImages: [],
      maxBandwidth: undefined,
      downtimeLimitUs: 100_000,
      autoConverge: false,
      onNoConvergence: 'keep-going',
      recoverTimeoutUs: 60 * SECOND_US,
      silenceTimeoutUs: 10 * SECOND_US,
      settlesDisks: false,
      movesDisks: false,
    });
    core.step({ kind: 'start' }, 0);
    core.step({ kind: 'connected', session: 1 }, 0);
    const loadUs = assisted ? (HELLO.ramSizeBytes * SECOND_US) / (64 * 1024 ** 2) : 0;
    t.is(core.deadlineUs(), 10 * SECOND_US + Math.ceil(loadUs));
  }
});
