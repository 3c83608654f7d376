import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { CELLS, type Cell, FAULTS, nameOf } from '../../../scripts/matrix-run/cells.js';
import { judgeRound, type RoundFacts } from '../../../scripts/matrix-run/judge.js';
import { parseOptions, USAGE } from '../../../scripts/matrix-run/options.js';
import type { RoundResult } from '../../../scripts/matrix-run/round.js';
import { markersOf, summarise, updateDocument } from '../../../scripts/matrix-run/table.js';

const DOCUMENT = fileURLToPath(new URL('../../../../docs/reliability.md', import.meta.url));

function cellOf(name: string): Cell {
  const cell = CELLS.find((each) => nameOf(each) === name);
  if (cell === undefined) throw new Error(`There is no cell ${name}`);
  return cell;
}

function facts(name: string, more: Partial<RoundFacts> = {}): RoundFacts {
  const cell = cellOf(name);
  const after = cell.expected === 'failover' ? 'hostb' : 'hosta';
  return {
    ...{ cell, peerTimeoutMs: 500, holdLimitMs: 700, slackMs: 0 },
    ...{ faultUs: 1e6, mendedUs: 5e6 },
    ...{ before: 'hosta', after, gaps: [], lostConnections: [], acknowledgedLost: 0 },
    speakers: after === 'hosta' ? ['hosta'] : ['hosta', 'hostb'],
    heard: '',
    failures: [],
    ...more,
  };
}

const gap = (fromMs: number, toMs: number) =>
  ({ client: 'redis', fromUs: fromMs * 1000, toUs: toMs * 1000 }) as const;

test('every fault has a cell for each side, but the one of the only witness', (t) => {
  t.is(new Set(CELLS.map(nameOf)).size, CELLS.length);
  t.is(CELLS.length, 2 * FAULTS.length - 1);
  for (const cell of CELLS) t.true(USAGE.includes(nameOf(cell)), nameOf(cell));
});

test('a round in which everything was right has no problems', (t) => {
  for (const cell of CELLS) t.deepEqual(judgeRound(facts(nameOf(cell))).problems, []);
});

test('an outage is what touches the fault, and its bound depends on the cell', (t) => {
  const gaps = [gap(0, 900), gap(950, 1950), gap(5100, 9000)];
  const verdict = judgeRound(facts('power-cut/primary', { gaps }));
  t.like(verdict, { outageMs: 1000, laterMs: 3900, boundMs: 1000, problems: [] });
  t.is(judgeRound(facts('power-cut/primary', { gaps: [gap(950, 1951)] })).problems.length, 1);
  t.deepEqual(judgeRound(facts('etcd-stopped', { gaps })).problems, [
    'An outage of 1000 ms (redis, from 50 ms before the fault), allowed are 500',
  ]);
  t.deepEqual(judgeRound(facts('etcd-stopped', { gaps, slackMs: 500 })).problems, []);
  t.is(judgeRound(facts('link-delay/primary', { gaps })).boundMs, 1200);
});

test('who goes on, who speaks and what is lost is judged', (t) => {
  const problems = (name: string, more: Partial<RoundFacts>) => {
    return judgeRound(facts(name, more)).problems;
  };
  t.deepEqual(problems('kill-agent/primary', { after: 'hosta', speakers: ['hosta'] }), [
    'Nobody took over',
  ]);
  t.deepEqual(problems('link-cut/primary', { after: 'hostb', speakers: ['hosta', 'hostb'] }), [
    'A take-over without need',
  ]);
  const twice = ['hosta', 'hostb', 'hosta', 'hostb'] as const;
  t.is(problems('stop-agent/primary', { speakers: twice }).length, 1);
  t.is(problems('link-cut/primary', { speakers: ['hosta', 'hostb', 'hosta'] }).length, 1);
  t.deepEqual(problems('etcd-cut/primary', { acknowledgedLost: 2 }), [
    '2 acknowledged writes lost',
  ]);
  t.is(problems('etcd-cut/primary', { acknowledgedLost: undefined }).length, 1);
  t.is(problems('etcd-cut/primary', { lostConnections: ['redis: reset'] }).length, 1);
  const impatient = 'http: /file: No complete answer within 10000 ms';
  t.deepEqual(problems('link-delay/primary', { lostConnections: [impatient] }), []);
  t.is(problems('link-cut/primary', { lostConnections: [impatient] }).length, 1);
  t.deepEqual(problems('etcd-cut/primary', { failures: ['x'] }), ['x']);
});

test('cells are chosen by fault or by name, and what is not there is named', (t) => {
  const { cells } = parseOptions(['--cells', 'kill-qemu, link-cut/secondary'], 7);
  t.deepEqual(cells.map(nameOf), [
    'kill-qemu/primary',
    'kill-qemu/secondary',
    'link-cut/secondary',
  ]);
  t.like(parseOptions([], 1_000_007), { seed: 7, rounds: 1, cells: CELLS, peerTimeoutMs: 500 });
  t.is(parseOptions(['--peer-timeout', '900'], 7).holdLimitMs, 900);
  t.is(parseOptions(['--hold-limit', '300'], 7).holdLimitMs, 300);
  t.throws(() => parseOptions(['--cells', 'flood'], 7), {
    message: /found "flood", expected kill/,
  });
  t.throws(() => parseOptions(['--rounds', '0'], 7), { message: /--rounds/ });
});

const result = (cell: string, outageMs: number, problems: string[] = []): RoundResult => ({
  ...{ cell, round: 1, outageMs, laterMs: 0, boundMs: 1000, reactionMs: 1, healingMs: 2000 },
  ...{ acknowledgedLost: 0, connectionsLost: 0, speakers: [], seconds: 1, goesOn: true, problems },
});

test('rows of the cells that were run are put in their place, and the others stay', (t) => {
  const { begin, end } = markersOf('colo');
  const empty = `before\n${begin}\n${end}\nafter\n`;
  const summary = (name: string, ...results: RoundResult[]) => summarise(cellOf(name), results);
  const once = updateDocument(empty, 'colo', [
    summary('etcd-stopped', result('etcd-stopped', 0)),
    summary('kill-qemu/primary', result('', 300), result('', 600), result('', 500, ['x'])),
  ]);
  const lines = once.split('\n');
  t.is(lines[0], 'before');
  t.regex(
    lines[4] ?? '',
    /^\| kill-qemu \| primary \| the other host goes on \| 3 \| \*\*2\*\* \| 500 \| 600 /,
  );
  t.regex(
    lines[5] ?? '',
    /^\| etcd-stopped \| - \| nothing changes \| 1 \| all \| < 200 \| < 200 /,
  );
  t.deepEqual(lines.slice(6), [end, 'after', '']);
  const again = updateDocument(once, 'colo', [
    summary('kill-agent/primary', result('', 100)),
    summary('etcd-stopped', result('', 250)),
  ]);
  const starts = again.split('\n').map((line) => line.slice(0, 14));
  t.deepEqual(starts.slice(4, 7), ['| kill-agent |', '| kill-qemu | ', '| etcd-stopped']);
  t.true(again.includes(lines[4] ?? '-'));
  t.throws(() => updateDocument('nothing', 'colo', []));
});

test('the document has a place for each mode', (t) => {
  t.true(existsSync(DOCUMENT));
  const text = readFileSync(DOCUMENT, 'utf8');
  for (const mode of ['colo', 'checkpoint'] as const) {
    t.notThrows(() => updateDocument(text, mode, []));
  }
});
