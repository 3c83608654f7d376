import test from 'ava';
import { parseCompareOutput } from '../../../scripts/bench/compare.js';
import { outageSamples } from '../../../scripts/bench/outages.js';
import { formatTable, Results, type Sample } from '../../../scripts/bench/rows.js';
import type { ClientReports } from '../../../scripts/clients/client.js';

const RATE: Sample = { name: 'http', unit: 'requests/s', better: 'more', value: 0 };
const TIME: Sample = { name: 'rtt', unit: 'ms', better: 'less', value: 0 };

test('a value is the median of its rounds, the ratio that of protected to contended', (t) => {
  const results = new Results();
  for (const value of [500, 100, 400]) results.add('unprotected', { ...RATE, value });
  for (const value of [200, 220, 10]) results.add('contended', { ...RATE, value });
  for (const value of [150]) results.add('protected', { ...RATE, value });
  t.deepEqual(results.rows(), [
    {
      name: 'http',
      unit: 'requests/s',
      unprotected: 400,
      alone: null,
      aloneRatio: null,
      contended: 200,
      protected: 150,
      ratio: 0.75,
    },
  ]);
});

test('the ratio of a latency is turned round: better is larger', (t) => {
  const results = new Results();
  results.add('contended', { ...TIME, value: 1 });
  results.add('protected', { ...TIME, value: 4 });
  t.is(results.rows()[0]?.ratio, 0.25);
});

test('what a set-up does not have is null, and there is no ratio then', (t) => {
  const results = new Results();
  results.add('protected', { ...TIME, value: 1.23456 });
  t.like(results.rows()[0], { unprotected: null, contended: null, protected: 1.235, ratio: null });
});

test('what protection adds to the round trip has a row of its own', (t) => {
  const results = new Results();
  const median: Sample = { ...TIME, name: 'rtt-median' };
  results.add('contended', { ...median, value: 0.25 });
  t.is(results.rows()[1]?.protected, null);
  results.add('protected', { ...median, value: 0.75 });
  t.deepEqual(results.rows()[1], {
    name: 'rtt-added',
    unit: 'ms',
    unprotected: null,
    alone: null,
    aloneRatio: null,
    contended: null,
    protected: 0.5,
    ratio: null,
  });
});

test('figures of the compare bench are its lines of JSON', (t) => {
  const line = '{"name":"compare-small","unit":"packets/s","value":600000}';
  t.deepEqual(parseCompareOutput(`warming up\n${line}\n`), [
    { name: 'compare-small', unit: 'packets/s', value: 600000, better: 'more' },
  ]);
  for (const text of ['', 'words\n', '{"name":"compare-small"}\n']) {
    t.throws(() => parseCompareOutput(text), { message: /no figure/ });
  }
});

test('the table has one line a row under its head', (t) => {
  const results = new Results();
  results.add('protected', { ...TIME, value: 3 });
  t.deepEqual(formatTable(results.rows()).split('\n'), [
    'name  unit  unprotected  alone  ratio  contended  protected  ratio',
    'rtt   ms              -      -      -          -          3      -',
  ]);
});

const COMMON = { successes: 10, longestGap: { fromUs: 0, toUs: 612_000 }, connectionsLost: 0 };
const REPORTS = {
  http: { ...COMMON, started: 10, skipped: 0, medianFetchUs: 1, slowestFetchUs: 2 },
  redis: { ...COMMON, acknowledged: 10, acknowledgedLost: 0, refused: 0, medianWriteUs: 1 },
  stream: { ...COMMON, lines: 10, missing: 0, repeats: 0, malformed: 0 },
} satisfies ClientReports;

test('a failover gives the outage of each client', (t) => {
  t.deepEqual(
    outageSamples(REPORTS).map(({ name, value }) => [name, value]),
    [
      ['failover-http', 612],
      ['failover-redis', 612],
      ['failover-stream', 612],
    ],
  );
});

test('a failover that lost something is no figure', (t) => {
  const lostWrite = { ...REPORTS, redis: { ...REPORTS.redis, acknowledgedLost: 1 } };
  const unread = { ...REPORTS, redis: { ...REPORTS.redis, acknowledgedLost: undefined } };
  const lostConnection = { ...REPORTS, stream: { ...REPORTS.stream, connectionsLost: 1 } };
  for (const reports of [lostWrite, unread, lostConnection]) {
    t.throws(() => outageSamples(reports), { message: /^Failover: / });
  }
});
