import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { CELLS, KILLS, nameOf, nameOfKill } from '../../../scripts/migration-run/cells.js';
import type { CutResult } from '../../../scripts/migration-run/cut-round.js';
import {
  ALLOWANCE_MS,
  type DowntimeFacts,
  judgeClients,
  judgeDowntime,
  judgeRam,
} from '../../../scripts/migration-run/judge.js';
import { judgeKill, type KillFacts } from '../../../scripts/migration-run/judge-kill.js';
import type { MoveResult } from '../../../scripts/migration-run/move-round.js';
import { parseOptions, USAGE } from '../../../scripts/migration-run/options.js';
import { updateDocument } from '../../../scripts/migration-run/table.js';

const DOCUMENT = fileURLToPath(new URL('../../../../docs/reliability.md', import.meta.url));

const silence = (fromMs: number, toMs: number, lateMs = 0) => {
  return { fromUs: fromMs * 1000, toUs: toMs * 1000, lateUs: lateMs * 1000 };
};

/** Runs at 1.1 s of which 100 ms were the pause. */
const downtime = (more: Partial<DowntimeFacts> = {}) =>
  judgeDowntime({
    ...{ method: 'precopy', downtimeMs: 100, silences: [silence(1000, 1110)], slackMs: 0 },
    runsUs: 1_100_000,
    ...more,
  });

test('downtime and outage agree between the downtime less one interval and the allowance', (t) => {
  t.deepEqual(downtime(), { outageMs: 110, usualMs: 0, laterMs: 0, lateMs: 0, problems: [] });
  const outageOf = (ms: number, lateMs = 0) =>
    downtime({ silences: [silence(1000, 1000 + ms, lateMs)] });
  t.is(outageOf(99).problems.length, 0);
  t.is(outageOf(98).problems.length, 1);
  t.is(outageOf(98, 1).problems.length, 0);
  t.is(outageOf(100 + ALLOWANCE_MS.precopy).problems.length, 0);
  t.is(outageOf(101 + ALLOWANCE_MS.precopy).problems.length, 1);
  t.is(outageOf(101 + ALLOWANCE_MS.precopy, 1).problems.length, 0);
  t.is(downtime({ downtimeMs: null }).problems.length, 1);
  t.is(downtime({ downtimeMs: 400, slackMs: 1000 }).problems.length, 1);
});

test('only the silence in which the guest moved is the outage', (t) => {
  const silences = [silence(100, 300), silence(1000, 1110), silence(2000, 2050)];
  t.like(downtime({ silences }), { outageMs: 110, usualMs: 200, laterMs: 50, problems: [] });
  // A guest that was silent before for as long may be so again.
  const longer = [silence(100, 300), silence(1000, 1440)];
  t.deepEqual(downtime({ silences: longer }).problems, []);
  t.is(downtime({ silences: [silence(1000, 1440)] }).problems.length, 1);
  // Its agent says a little late that it runs.
  t.is(downtime({ runsUs: 1_120_000 }).outageMs, 110);
  const hiccup = [silence(980, 1060), silence(1061, 1200)];
  t.is(downtime({ silences: hiccup }).outageMs, 139);
  t.is(downtime({ silences: [] }).problems.length, 1);
});

test('RAM is right when the destination says so, and nothing else', (t) => {
  t.deepEqual(judgeRam('info RAM verified digest=00'), []);
  t.is(judgeRam('The guest runs here').length, 1);
  t.regex(judgeRam('RAM has the digest 01, not 02\nRAM verified')[0] ?? '', /not 02/);
});

test('whatever clients lost is told', (t) => {
  const common = { successes: 1, longestGap: undefined, connectionsLost: 0 };
  const stream = { ...common, lines: 9, missing: 0, repeats: 0, malformed: 0 };
  t.deepEqual(judgeClients({ stream }), []);
  t.is(judgeClients({ stream: { ...stream, missing: 1, connectionsLost: 2 } }).length, 2);
  const redis = { ...common, acknowledged: 5, refused: 0, medianWriteUs: 1 };
  t.is(judgeClients({ redis: { ...redis, acknowledgedLost: undefined } }).length, 1);
});

const facts = (name: string, more: Partial<KillFacts> = {}): KillFacts => {
  const kill = KILLS.find((each) => nameOfKill(each) === name);
  if (kill === undefined) throw new Error(`There is no kill ${name}`);
  return {
    ...{ kill, sourceRecord: 'moving', destinationRecord: 'taking', decisions: [] },
    ...{ runningAt: ['hosta'], emulators: ['hosta'], isSame: kill.side === 'destination' },
    ...{ heard: ['hosta'], clients: undefined },
    ...more,
  };
};

test('who has the guest after a kill follows from what was written down', (t) => {
  t.deepEqual(judgeKill(facts('source/precopy')), []);
  t.deepEqual(judgeKill(facts('destination/precopy')), []);
  t.is(judgeKill(facts('source/precopy', { isSame: true })).length, 1);
  t.is(judgeKill(facts('destination/loading', { isSame: false })).length, 1);
  const moved: Partial<KillFacts> = {
    ...{ sourceRecord: 'given-up', runningAt: ['hostb'], emulators: ['hostb'], isSame: true },
    heard: ['hosta', 'hostb'],
  };
  t.deepEqual(judgeKill(facts('source/given-up', moved)), []);
  const forced = ['migrate-force at hostb'];
  t.deepEqual(judgeKill(facts('source/given-up', { ...moved, decisions: forced })), []);
  t.is(judgeKill(facts('source/precopy', { decisions: forced })).length, 1);
  const booted = { sourceRecord: 'given-up', decisions: ['failover --force at hosta'] };
  t.deepEqual(judgeKill(facts('source/given-up', booted)), []);
  t.is(judgeKill(facts('source/given-up', { ...booted, decisions: [] })).length, 4);
  t.is(judgeKill(facts('source/owns', { ...booted, destinationRecord: 'owns' })).length, 5);
  const died: Partial<KillFacts> = {
    destinationRecord: 'owns',
    heard: ['hosta', 'hostb', 'hosta'],
  };
  t.deepEqual(judgeKill(facts('destination/owns', died)), []);
  // The shared disk has gone on: the guest is booted anew.
  const decisions = ['migrate-release at hosta', 'failover --force at hosta'];
  const anew = { ...died, decisions, isSame: false };
  t.deepEqual(judgeKill(facts('destination/owns', anew)), []);
  t.is(judgeKill(facts('destination/owns', { ...anew, isSame: true })).length, 1);
  t.is(judgeKill(facts('destination/loading', { heard: died.heard ?? [] })).length, 1);
});

test('two guests, or none, are never right', (t) => {
  const two: Partial<KillFacts> = { runningAt: ['hosta', 'hostb'], emulators: ['hosta', 'hostb'] };
  for (const kill of KILLS.map(nameOfKill)) {
    t.is(judgeKill(facts(kill, two)).length, 2, kill);
    t.is(judgeKill(facts(kill, { runningAt: [], emulators: [] })).length, 2, kill);
  }
});

test('parts, cells and kills are chosen by name or by a part of it', (t) => {
  t.like(parseOptions([], 1_000_007), { seed: 7, rounds: 1, cuts: 100, cells: CELLS });
  const { cells, kills, parts } = parseOptions(
    ['--cells', 'scribble/hybrid/plain', '--kill', 'owns', '--parts', 'cuts'],
    7,
  );
  t.deepEqual(cells.map(nameOf), ['scribble/hybrid/plain']);
  t.deepEqual(kills.map(nameOfKill), ['source/owns', 'destination/owns']);
  t.deepEqual(parts, ['cuts']);
  t.is(CELLS.length, 18);
  t.throws(() => parseOptions(['--cells', 'copy'], 7), { message: /found "copy", expected idle/ });
  for (const name of [...CELLS.map(nameOf), ...KILLS.map(nameOfKill)]) t.true(USAGE.includes(name));
});

test('what was measured is put into the document, and the rest of it stays', (t) => {
  const text = readFileSync(DOCUMENT, 'utf8');
  const move: MoveResult = {
    ...{ cell: 'idle/hybrid/tls', round: 1, ramVerified: true, downtimeMs: 41.27, totalMs: 1500 },
    seen: { outageMs: 99.6, usualMs: 12, laterMs: 3, lateMs: 2, problems: [] },
    ...{ writesMibS: null, throttlePercent: 0, seconds: 20, problems: [] },
  };
  const cut: CutResult = {
    ...{ cut: 1, lasting: false, sentPart: 0.5, cutMs: 7000, missingMib: 20, seconds: 9 },
    problems: ['x'],
  };
  const once = updateDocument(text, { moves: [move], cuts: [cut], kills: [] });
  t.true(
    once.includes('| idle | hybrid | tls | 1 | all | all | 41 | 100 | 12 | 2 | 3 | 1.5 | - | 0 |'),
  );
  t.true(once.includes('| comes back | 1 | **0** | 7, 7 | 20, 20, 20 |'));
  const twice = updateDocument(once, { moves: [], cuts: [], kills: [] });
  t.is(twice, once);
});
