import test from 'ava';
import type { ClientReports } from '../../../scripts/clients/client.js';
import { judge, type PairFacts } from '../../../scripts/demo-run/verdict.js';

const FACTS: PairFacts = {
  mode: 'checkpoint',
  fault: 'kill-primary',
  protectedAtFault: true,
  failedOver: true,
  checkpoints: 40,
  pauseMs: { median: 3.5, p99: 9 },
};

const COMMON = { successes: 10, longestGap: { fromUs: 0, toUs: 700_400 }, connectionsLost: 0 };
const REPORTS = {
  http: { ...COMMON, started: 10, skipped: 0, medianFetchUs: 1, slowestFetchUs: 2 },
  redis: { ...COMMON, acknowledged: 10, acknowledgedLost: 0, refused: 0, medianWriteUs: 1 },
  stream: { ...COMMON, lines: 10, missing: 0, repeats: 0, malformed: 0 },
} satisfies ClientReports;

test('a run without any loss and with short outages is ok', (t) => {
  t.deepEqual(judge(FACTS, REPORTS), {
    ok: true,
    mode: 'checkpoint',
    fault: 'kill-primary',
    outageMs: { http: 700, redis: 700, stream: 700 },
    acknowledgedWritesLost: 0,
    streamGaps: 0,
    streamRepeats: 0,
    connectionsLost: 0,
    checkpoints: 40,
    pauseMs: { median: 3.5, p99: 9 },
  });
});

const BAD_REPORTS: Record<string, ClientReports> = {
  'acknowledgedWritesLost is 1': { ...REPORTS, redis: { ...REPORTS.redis, acknowledgedLost: 1 } },
  'acknowledgedWritesLost is not known': {
    ...REPORTS,
    redis: { ...REPORTS.redis, acknowledgedLost: undefined },
  },
  'streamGaps is 2': { ...REPORTS, stream: { ...REPORTS.stream, missing: 1, malformed: 1 } },
  'streamRepeats is 3': { ...REPORTS, stream: { ...REPORTS.stream, repeats: 3 } },
  'connectionsLost is 4': { ...REPORTS, http: { ...REPORTS.http, connectionsLost: 4 } },
  'The outage of http is 1001 ms': {
    ...REPORTS,
    http: { ...REPORTS.http, longestGap: { fromUs: 0, toUs: 1_001_000 } },
  },
  'redis never got an answer': { ...REPORTS, redis: { ...REPORTS.redis, successes: 0 } },
  '1 writes refused': { ...REPORTS, redis: { ...REPORTS.redis, refused: 1 } },
  '5 fetches not started': { ...REPORTS, http: { ...REPORTS.http, skipped: 5 } },
};

for (const [problem, reports] of Object.entries(BAD_REPORTS)) {
  test(`a run is not ok when: ${problem}`, (t) => {
    const result = judge(FACTS, reports);
    t.false(result.ok);
    t.deepEqual(result.problems, [problem]);
  });
}

const BAD_FACTS: Record<string, PairFacts> = {
  'The guest was not protected when the fault came': { ...FACTS, protectedAtFault: false },
  'There was no checkpoint during the load': { ...FACTS, checkpoints: 0 },
  'The secondary did not take over': { ...FACTS, failedOver: false },
  'The secondary took over without need': { ...FACTS, fault: 'none' },
};

for (const [problem, facts] of Object.entries(BAD_FACTS)) {
  test(`a run is not ok when: ${problem}`, (t) => {
    t.deepEqual(judge(facts, REPORTS).problems, [problem]);
  });
}

test('a run with a client missing is not ok', (t) => {
  const { http: _, ...without } = REPORTS;
  const result = judge(FACTS, without);
  t.false(result.ok);
  t.is(result.outageMs.http, null);
  t.is(result.connectionsLost, null);
});
