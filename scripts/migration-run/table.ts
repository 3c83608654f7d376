/** The results of the migration matrix, the cuts and the kills as tables of a document. Pure. */
import { markersOf, type TableRow, updateTable } from '../harness/document-table.js';
import { median } from '../harness/median.js';
import { CELLS, KILLS, nameOf, nameOfKill } from './cells.js';
import type { CutResult } from './cut-round.js';
import type { KillResult } from './kill-round.js';
import type { MoveResult } from './move-round.js';
import type { Part } from './options.js';

export interface Results {
  readonly moves: readonly MoveResult[];
  readonly cuts: readonly CutResult[];
  readonly kills: readonly KillResult[];
}

const MOVE_HEAD = [
  ...['guest', 'method', 'link', 'rounds', 'right', 'RAM verified', 'downtime told, ms'],
  ...['outage seen, ms', 'silence before, ms', 'prober late, ms', 'longest silence after, ms'],
  ...['total, s', 'writes, MiB/s', 'slowed down, %'],
];
const CUT_HEAD = [
  ...['the link', 'cuts', 'complete, and RAM right', 'without link, s (median, longest)'],
  'missing when it was cut, MiB (least, median, most)',
];
const KILL_HEAD = [
  ...['killed', 'at stage', 'rounds', 'right', 'written down by source, destination'],
  ...['the guest is left at', 'an operator had to say'],
];

/** The document with what there are results of; rows of others stay as they are. */
export function updateDocument(text: string, { moves, cuts, kills }: Results): string {
  const tables: readonly (readonly [Part, readonly string[], readonly TableRow[]])[] = [
    ['matrix', MOVE_HEAD, moveRows(moves)],
    ['cuts', CUT_HEAD, cutRows(cuts)],
    ['kills', KILL_HEAD, killRows(kills)],
  ];
  return tables.reduce((document, [part, head, rows]) => {
    const markers = markersOf(`scripts/migration-matrix --parts ${part}`);
    return updateTable(document, markers, { head, rows });
  }, text);
}

function moveRows(results: readonly MoveResult[]): TableRow[] {
  return CELLS.map((cell) => {
    const { guest, method, security } = cell;
    const key = [guest, method, security];
    const own = results.filter((result) => result.cell === nameOf(cell));
    if (own.length === 0) return { key, values: undefined };
    const figure = (value: (result: MoveResult) => number | null | undefined): string => {
      const known = own.map(value).filter((one) => typeof one === 'number');
      return known.length === 0 ? '-' : number(median(known));
    };
    const values = [
      ...[String(own.length), rightOf(own)],
      rightOf(own, ({ ramVerified }) => ramVerified),
      figure(({ downtimeMs }) => downtimeMs),
      figure(({ seen }) => seen?.outageMs),
      figure(({ seen }) => seen?.usualMs),
      figure(({ seen }) => seen?.lateMs),
      figure(({ seen }) => seen?.laterMs),
      figure(({ totalMs }) => (totalMs === null ? null : totalMs / 1000)),
      figure(({ writesMibS }) => writesMibS),
      figure(({ throttlePercent }) => throttlePercent),
    ];
    return { key, values };
  });
}

function cutRows(results: readonly CutResult[]): TableRow[] {
  return [false, true].map((lasting) => {
    const key = [lasting ? 'stays cut: completed from the backup file' : 'comes back'];
    const own = results.filter((result) => result.lasting === lasting);
    if (own.length === 0) return { key, values: undefined };
    const seconds = own.map(({ cutMs }) => cutMs ?? 0).map((ms) => ms / 1000);
    const missing = own.flatMap(({ missingMib }) => missingMib ?? []);
    const values = [
      ...[String(own.length), rightOf(own)],
      lasting ? '-' : [median(seconds), Math.max(...seconds)].map(number).join(', '),
      [Math.min(...missing), median(missing), Math.max(...missing)].map(number).join(', '),
    ];
    return { key, values };
  });
}

function killRows(results: readonly KillResult[]): TableRow[] {
  return KILLS.map((kill) => {
    const key = [kill.side, kill.stage];
    const own = results.filter((result) => result.kill === nameOfKill(kill));
    if (own.length === 0) return { key, values: undefined };
    const values = [
      ...[String(own.length), rightOf(own)],
      counted(own.map(({ records }) => records)),
      counted(own.map(({ end }) => end)),
      counted(own.map(({ decisions }) => decisions.join(', ') || 'nothing')),
    ];
    return { key, values };
  });
}

function rightOf<T extends { readonly problems: readonly string[] }>(
  results: readonly T[],
  isRight: (result: T) => boolean = ({ problems }) => problems.length === 0,
): string {
  const right = results.filter(isRight).length;
  return right === results.length ? 'all' : `**${right}**`;
}

/** Each once, and how often where that is not always. */
function counted(texts: readonly string[]): string {
  const times = new Map<string, number>();
  for (const text of texts) times.set(text, (times.get(text) ?? 0) + 1);
  if (times.size === 1) return texts[0] ?? '';
  return [...times].map(([text, count]) => `${text} (${count})`).join('; ');
}

/** To the tenth below ten: nothing here is better than that. */
function number(value: number): string {
  return value < 10 ? String(Math.round(value * 10) / 10) : String(Math.round(value));
}
