import test from 'ava';
import { locate, parseLog } from '../../../scripts/crash-run/epoch-log.js';

const LOG = `2026-11-21T08:00:00.000Z info hosta/demo primary Protected committedEpoch=3
2026-11-21T08:00:00.100Z debug hosta/demo primary epoch=4 Captured stopUs=9 takeUs=3990 resumeUs=1
2026-11-21T08:00:00.120Z debug hosta/demo primary Shipped epoch=4 pages=100 frames=2
2026-11-21T08:00:00.150Z debug hostb/demo secondary epoch=4 Applied advanceUs=0 pauseUs=900
2026-11-21T08:00:00.300Z debug hosta/demo primary epoch=5 Captured stopUs=9 takeUs=3990 resumeUs=1
broken
`;
const START_MS = Date.parse('2026-11-21T08:00:00.000Z');

test('steps of checkpoints are read, everything else is passed over', (t) => {
  const events = parseLog(LOG).map(({ atMs, ...rest }) => ({ ...rest, atMs: atMs - START_MS }));
  t.deepEqual(events, [
    { step: 'captured', epoch: 4, atMs: 100, pauseMs: 4 },
    { step: 'shipped', epoch: 4, atMs: 120, pauseMs: 0 },
    { step: 'applied', epoch: 4, atMs: 150, pauseMs: 0 },
    { step: 'captured', epoch: 5, atMs: 300, pauseMs: 4 },
  ]);
});

test('a moment is told by the last step before it', (t) => {
  const events = parseLog(LOG);
  const at = (ms: number) => locate(events, START_MS + ms);
  t.deepEqual(at(50), { epoch: null, sinceResumeMs: null, usualMs: 0, after: null });
  t.like(at(130), { epoch: 5, sinceResumeMs: 30, after: 'shipped' });
  t.like(at(200), { epoch: 5, sinceResumeMs: 100, after: 'applied' });
  t.deepEqual(at(310), { epoch: 6, sinceResumeMs: 10, usualMs: 200, after: 'captured' });
});
