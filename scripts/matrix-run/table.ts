/** The figures of the fault matrix as rows of a Markdown table. Pure. */
import {
  type TableMarkers,
  markersOf as tableMarkers,
  updateTable,
} from '../harness/document-table.js';
import { median } from '../harness/median.js';
import type { Mode } from '../harness/modes.js';
import { CELLS, type Cell, nameOf, type Outcome } from './cells.js';
import type { RoundResult } from './round.js';

export interface CellSummary {
  readonly cell: string;
  readonly expected: Outcome;
  readonly rounds: number;
  readonly right: number;
  readonly boundMs: number;
  readonly outageMs: { readonly median: number; readonly worst: number };
  readonly healingMs: { readonly median: number; readonly worst: number };
  readonly acknowledgedLost: number;
  readonly connectionsLost: number;
  readonly problems: readonly string[];
}

const WORDS: Readonly<Record<Outcome, string>> = {
  failover: 'the other host goes on',
  alone: 'the primary goes on alone',
  reprotects: 'the primary goes on, protected again by itself',
  protected: 'nothing changes',
  stays: 'the primary goes on',
};

const HEAD = [
  ...['fault', 'at the', 'what is right', 'rounds', 'right'],
  ...['median outage, ms', 'worst outage, ms', 'allowed, ms', 'protected again, ms (median)'],
  ...['acknowledged writes lost', 'connections lost'],
];

export function summarise(cell: Cell, results: readonly RoundResult[]): CellSummary {
  const spread = (values: readonly number[]) => {
    return { median: Math.round(median(values)), worst: Math.max(0, ...values) };
  };
  return {
    cell: nameOf(cell),
    expected: cell.expected,
    rounds: results.length,
    right: results.filter(({ problems }) => problems.length === 0).length,
    boundMs: Math.max(0, ...results.map(({ boundMs }) => boundMs)),
    outageMs: spread(results.map(({ outageMs }) => outageMs)),
    healingMs: spread(results.flatMap(({ healingMs }) => healingMs ?? [])),
    acknowledgedLost: sum(results.map(({ acknowledgedLost }) => acknowledgedLost ?? 0)),
    connectionsLost: sum(results.map(({ connectionsLost }) => connectionsLost)),
    problems: results.flatMap(({ round, problems }) => {
      return problems.map((problem) => `${nameOf(cell)} ${round}: ${problem}`);
    }),
  };
}

/** Where the table of a mode is in the document. */
export function markersOf(mode: Mode): TableMarkers {
  return tableMarkers(`scripts/fault-matrix --mode ${mode}`);
}

/**
 * The document with these rows in its table of the mode; rows of other cells stay as they are.
 * Throws unless it has the mode's markers, in order.
 */
export function updateDocument(
  text: string,
  mode: Mode,
  summaries: readonly CellSummary[],
): string {
  const rows = CELLS.map((cell) => {
    const summary = summaries.find((each) => each.cell === nameOf(cell));
    const side = nameOf(cell) === cell.fault ? '-' : cell.side;
    const values = summary === undefined ? undefined : valuesOf(cell, summary);
    return { key: [cell.fault, side], values };
  });
  return updateTable(text, markersOf(mode), { head: HEAD, rows });
}

function valuesOf(cell: Cell, summary: CellSummary): string[] {
  const { rounds, right, outageMs, boundMs, healingMs } = summary;
  return [
    ...[WORDS[cell.expected], String(rounds), right === rounds ? 'all' : `**${right}**`],
    ...[outage(outageMs.median), outage(outageMs.worst), String(boundMs)],
    ...[String(healingMs.median), String(summary.acknowledgedLost)],
    String(summary.connectionsLost),
  ];
}

/** Shorter ones are not told by the clients. */
function outage(ms: number): string {
  return ms === 0 ? '< 200' : String(ms);
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
