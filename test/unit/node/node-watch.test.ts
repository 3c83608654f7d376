import test from 'ava';
import { type NodeView, NodeWatch } from '../../../src/node/index.js';

const ALONE: NodeView = {
  role: 'primary',
  phase: 'alone',
  reason: 'Started',
  peer: 'none',
  epoch: 7,
  trouble: undefined,
  sync: null,
};
const SYNCHRONISING: NodeView = { ...ALONE, phase: 'synchronising', peer: 'alive', reason: 'Met' };
const PROTECTED: NodeView = { ...SYNCHRONISING, phase: 'protected', reason: 'Committed' };

/** What is told of each view, in a few words. */
function story(...views: NodeView[]): string[][] {
  const watch = new NodeWatch();
  return views.map((view) =>
    watch.look(view).map((event) => {
      if (event.kind === 'state') return `${event.from} -> ${event.to}: ${event.reason}`;
      if (event.kind === 'resync') return `resync ${event.step} ${event.doneBytes}`;
      if (event.kind === 'checkpoint-failed') return `failed ${event.epoch}: ${event.reason}`;
      return 'state' in event ? `${event.kind} ${event.state}: ${event.reason}` : event.kind;
    }),
  );
}

test('each change of state is told once, with its reason', (t) => {
  t.deepEqual(story(ALONE, ALONE, { ...ALONE, reason: 'Another' }), [
    ['null -> alone: Started'],
    [],
    [],
  ]);
});

test('a synchronisation is told from its beginning to its end, in steps of ten percent', (t) => {
  const at = (doneBytes: number): NodeView => {
    return { ...SYNCHRONISING, sync: { doneBytes, totalBytes: 1000 } };
  };
  const told = story(ALONE, SYNCHRONISING, at(50), at(120), at(190), at(990), PROTECTED);
  t.deepEqual(told.slice(1), [
    ['peer alive: The peer is heard', 'resync begin 0', 'alone -> synchronising: Met'],
    [],
    ['resync progress 120'],
    [],
    ['resync progress 990'],
    ['resync end 990', 'synchronising -> protected: Committed'],
  ]);
});

test('the end of a synchronisation has what it came to, if that is protection', (t) => {
  const lastSync = { durationMs: 900, ramSentBytes: 4096, ramKeptBytes: 1 << 20 };
  const endOf = (view: NodeView) => {
    const watch = new NodeWatch();
    watch.look(SYNCHRONISING);
    const told = watch.look({ ...view, lastSync });
    return told.find((event) => event.kind === 'resync');
  };
  t.like(endOf(PROTECTED), { step: 'end', synced: lastSync });
  t.like(endOf({ ...PROTECTED, phase: 'checkpointing' }), { step: 'end', synced: lastSync });
  t.like(endOf(ALONE), { step: 'end', synced: undefined }, 'that of an earlier one');
});

test('a checkpoint is no event, one that fails is', (t) => {
  const checkpoint: NodeView = { ...PROTECTED, phase: 'checkpointing' };
  const lost: NodeView = { ...ALONE, peer: 'lost', reason: 'Link reset', epoch: 9 };
  t.deepEqual(story(PROTECTED, checkpoint, PROTECTED, checkpoint, lost).slice(1), [
    [],
    [],
    [],
    ['peer lost: Link reset', 'failed 7: Link reset', 'protected -> alone: Link reset'],
  ]);
});

test('a peer that is silent for a while is suspect, and alive again', (t) => {
  const suspect: NodeView = { ...PROTECTED, peer: 'suspect' };
  t.deepEqual(story(PROTECTED, suspect, PROTECTED).slice(1), [
    ['peer suspect: The peer is not heard'],
    ['peer alive: The peer is heard'],
  ]);
});

test('the witness is told of when it is lost and when it is back', (t) => {
  const bad: NodeView = { ...PROTECTED, trouble: 'No route to host' };
  const good: NodeView = { ...PROTECTED, trouble: null };
  t.deepEqual(story(PROTECTED, good, bad, bad, good).slice(1), [
    [],
    ['witness lost: No route to host'],
    [],
    ['witness regained: The witness answers'],
  ]);
});

test('after a failover the same watch goes on with the other role', (t) => {
  const secondary: NodeView = { ...PROTECTED, role: 'secondary', reason: 'Lost' };
  const views: NodeView[] = [
    secondary,
    { ...secondary, phase: 'failing-over', peer: 'lost' },
    { ...secondary, role: 'primary', phase: 'alone', peer: 'lost', reason: 'The guest runs here' },
    ALONE,
  ];
  t.deepEqual(story(...views).slice(1), [
    ['peer lost: Lost', 'protected -> failing-over: Lost'],
    ['failing-over -> alone: The guest runs here'],
    [],
  ]);
});
