import test from 'ava';
import { summarise } from '../../../scripts/demo-run/summary.js';
import type { DemoResult } from '../../../scripts/demo-run/verdict.js';
import { median } from '../../../scripts/harness/median.js';

const CENSUS = {
  open: 30,
  survived: 30,
  sinceCheckpoint: 4,
  sinceCheckpointSurvived: 4,
  agesMs: [5, 80],
} as const;

const GOOD: DemoResult = {
  ok: true,
  mode: 'checkpoint',
  fault: 'kill-primary',
  outageMs: { http: 600, redis: 500, stream: 400 },
  acknowledgedWritesLost: 0,
  streamGaps: 0,
  streamRepeats: 0,
  connectionsLost: 0,
  deadConnections: 0,
  wrongConnections: 0,
  guestComplaints: 0,
  contradictions: 0,
  opened: { accepted: CENSUS, dialled: null },
  checkpoints: 40,
  pauseMs: { median: 3, p99: 6 },
};

test('good runs sum up to ok with the spread of their outages', (t) => {
  const slow = { ...GOOD, outageMs: { http: 900, redis: 500, stream: 400 } };
  const summary = summarise([GOOD, slow, GOOD]);
  t.like(summary, { ok: true, runs: 3, okRuns: 3, problems: [] });
  t.deepEqual(summary.outageMs.http, { median: 600, max: 900 });
});

test('connections that faults met are added up', (t) => {
  const worse = { ...CENSUS, survived: 29, sinceCheckpointSurvived: 3 };
  const bad = {
    ...GOOD,
    ok: false,
    deadConnections: 1,
    opened: { accepted: worse, dialled: CENSUS },
  };
  const { deadConnections, opened } = summarise([GOOD, bad]);
  t.is(deadConnections, 1);
  t.deepEqual(opened.accepted, {
    open: 60,
    survived: 59,
    sinceCheckpoint: 8,
    sinceCheckpointSurvived: 7,
  });
  t.is(opened.dialled.open, 30);
});

test('one bad run makes the whole not ok, with the reasons and the run they are from', (t) => {
  const problems = ['connectionsLost is 2'];
  const summary = summarise([GOOD, { ...GOOD, ok: false, connectionsLost: 2, problems }]);
  t.like(summary, { ok: false, okRuns: 1, connectionsLost: 2 });
  t.deepEqual(summary.problems, ['run 2: connectionsLost is 2']);
});

test('a run that broke off has no figures but counts', (t) => {
  const broken = { ok: false, mode: 'checkpoint', fault: 'none', problems: ['No room'] } as const;
  const summary = summarise([broken]);
  t.like(summary, { ok: false, runs: 1, okRuns: 0, problems: ['run 1: No room'] });
  t.is(summary.outageMs.http, null);
});

test('the median of an even count lies between the two middle values', (t) => {
  t.is(median([]), 0);
  t.is(median([3]), 3);
  t.is(median([9, 1, 3]), 3);
  t.is(median([4, 1, 3, 100]), 3.5);
});
