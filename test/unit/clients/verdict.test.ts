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
  faultUs: 5_000_000,
  checkpointUs: 4_000_000,
};

const COMMON = { successes: 10, longestGap: { fromUs: 0, toUs: 700_400 }, connectionsLost: 0 };
const REPORTS = {
  http: { ...COMMON, started: 10, skipped: 0, medianFetchUs: 1, slowestFetchUs: 2 },
  redis: { ...COMMON, acknowledged: 10, acknowledgedLost: 0, refused: 0, medianWriteUs: 1 },
  stream: { ...COMMON, lines: 10, missing: 0, repeats: 0, malformed: 0 },
  accepted: {
    successes: 10,
    established: 3,
    dead: 0,
    wrong: 0,
    medianAnswerUs: 1,
    slowestAnswerUs: 2,
    connections: [
      { id: 0, startedUs: 3_000_000, establishedUs: 3_100_000, fate: 'open' },
      { id: 1, startedUs: 4_100_000, establishedUs: 4_200_000, fate: 'open' },
      { id: 2, startedUs: 5_100_000, establishedUs: 5_200_000, fate: 'open' },
    ],
  },
  dialled: {
    successes: 10,
    established: 0,
    dead: 0,
    wrong: 0,
    connections: [],
    guest: { lines: 20, wrong: 0, broken: 0, failed: 0 },
    controlsLost: 0,
  },
  random: {
    successes: 10,
    asked: 11,
    unanswered: 1,
    answeredTwice: 0,
    stray: 0,
    contradictions: 0,
    medianAnswerUs: 1,
  },
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
    deadConnections: 0,
    wrongConnections: 0,
    guestComplaints: 0,
    contradictions: 0,
    opened: {
      accepted: {
        open: 2,
        survived: 2,
        sinceCheckpoint: 1,
        sinceCheckpointSurvived: 1,
        agesMs: [800, 800],
      },
      dialled: {
        open: 0,
        survived: 0,
        sinceCheckpoint: 0,
        sinceCheckpointSurvived: 0,
        agesMs: null,
      },
    },
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
  'deadConnections is 3': {
    ...REPORTS,
    accepted: { ...REPORTS.accepted, dead: 1 },
    dialled: { ...REPORTS.dialled, dead: 1, controlsLost: 1 },
  },
  'wrongConnections is 1': { ...REPORTS, accepted: { ...REPORTS.accepted, wrong: 1 } },
  'guestComplaints is 6': {
    ...REPORTS,
    dialled: { ...REPORTS.dialled, guest: { lines: 20, wrong: 1, broken: 2, failed: 3 } },
  },
  'guestComplaints is not known': { ...REPORTS, dialled: { ...REPORTS.dialled, guest: undefined } },
  'contradictions is 3': {
    ...REPORTS,
    random: { ...REPORTS.random, contradictions: 2, stray: 1 },
  },
  'contradictions is not known': {
    ...REPORTS,
    random: { ...REPORTS.random, contradictions: undefined },
  },
  'random never got an answer': { ...REPORTS, random: { ...REPORTS.random, successes: 0 } },
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
