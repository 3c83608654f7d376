import test from 'ava';
import {
  type ConnectionRecord,
  Connections,
  takeCensus,
} from '../../../scripts/clients/connections.js';

const TIMES = { checkpointUs: 1_000_000, faultUs: 2_000_000 };

const OLD: ConnectionRecord = { id: 1, startedUs: 500_000, establishedUs: 600_000, fate: 'open' };
const NEW: ConnectionRecord = {
  id: 2,
  startedUs: 1_500_000,
  establishedUs: 1_600_000,
  fate: 'open',
};

test('connections that began after the checkpoint are new, with their ages', (t) => {
  const newer = { ...NEW, id: 3, startedUs: 1_900_000, establishedUs: 1_990_000 };
  t.deepEqual(takeCensus([OLD, NEW, newer], TIMES), {
    open: 3,
    survived: 3,
    sinceCheckpoint: 2,
    sinceCheckpointSurvived: 2,
    agesMs: [10, 400],
  });
});

test('who was established, but had begun before the checkpoint, is not new', (t) => {
  const between = { ...OLD, establishedUs: 1_200_000 };
  t.like(takeCensus([between], TIMES), { open: 1, sinceCheckpoint: 0, agesMs: null });
});

test('who came after the fault, was still opening, or had ended before it, was not there', (t) => {
  const records: ConnectionRecord[] = [
    { ...NEW, establishedUs: 2_000_001 },
    { id: 4, startedUs: 1_500_000, fate: 'opening' },
    { ...OLD, endedUs: 1_900_000, fate: 'closed' },
  ];
  t.is(takeCensus(records, TIMES).open, 0);
});

test('who ended as planned after the fault survived, who died or got wrong bytes did not', (t) => {
  const records: ConnectionRecord[] = [
    { ...OLD, endedUs: 2_100_000, fate: 'closed' },
    { ...OLD, endedUs: 2_100_000, fate: 'dead' },
    { ...NEW, endedUs: 2_100_000, fate: 'wrong' },
  ];
  t.like(takeCensus(records, TIMES), {
    open: 3,
    survived: 1,
    sinceCheckpoint: 1,
    sinceCheckpointSurvived: 0,
  });
});

test('a connection ends once, the first time', (t) => {
  const connections = new Connections();
  const record = connections.begin(1, 10);
  connections.establish(record, 20);
  connections.end(record, { fate: 'dead', atUs: 30, reason: 'reset' });
  connections.end(record, { fate: 'wrong', atUs: 40 });
  t.deepEqual(connections.counts, {
    established: 1,
    dead: 1,
    wrong: 0,
    connections: [
      { id: 1, startedUs: 10, establishedUs: 20, endedUs: 30, fate: 'dead', reason: 'reset' },
    ],
  });
});

test('records are bounded; those that are open or ended badly are not forgotten', (t) => {
  const connections = new Connections();
  connections.begin(0, 0);
  connections.end(connections.begin(1, 0), { fate: 'dead', atUs: 1 });
  for (let id = 2; id < 20_000; id++) {
    const record = connections.begin(id, id);
    connections.establish(record, id);
    connections.end(record, { fate: 'closed', atUs: id });
  }
  const { connections: records, established } = connections.counts;
  t.is(established, 19_998);
  t.true(records.length <= 4096);
  t.deepEqual(
    records.slice(0, 2).map(({ fate }) => fate),
    ['opening', 'dead'],
  );
  t.is(records[records.length - 1]?.id, 19_999);
});
