/**
 * From measured moves to the lines of the result. Pure. A value is the median of its rounds; the
 * ratio compares colo with QEMU and is larger where colo is better.
 */
import { median } from '../harness/median.js';
import type { Sample } from './rows.js';

export const MOVERS = ['qemu', 'colo'] as const;
/** Whose migration it is: QEMU's own, or `colo migrate`. */
export type Mover = (typeof MOVERS)[number];

/** How often somebody waited for a page, and how long. */
export interface Faults {
  readonly count: number;
  readonly p50Us: number;
  readonly p99Us: number;
}

/** One guest that was moved; null where nobody can tell. */
export interface Move {
  /** From the command to the end, ms. */
  readonly totalMs: number | null;
  /** The same with the start of the emulator at the destination, ms. */
  readonly launchedMs: number | null;
  /** As the mover tells it, ms. */
  readonly downtimeMs: number | null;
  /** From when its vCPUs stand at the source until they run at the destination, ms. */
  readonly stoppedMs: number | null;
  /** The longest time between two answers of the guest to a client that asks each ms, ms. */
  readonly outageMs: number;
  /** Between the hosts, frames' headers and what comes back included. */
  readonly wireBytes: number;
  /** As the mover tells it. */
  readonly ramBytes: number | null;
  readonly faults: Faults | null;
}

/** One line of the result; null where a mover has no such value. */
export interface MigrationRow {
  readonly name: string;
  readonly unit: string;
  readonly qemu: number | null;
  readonly colo: number | null;
  readonly ratio: number | null;
}

const MIB = 2 ** 20;

/** The values of one move, as `NAME-what`. */
export function moveSamples(name: string, move: Move): Sample[] {
  const { faults } = move;
  const bytes = (count: number | null) => (count === null ? null : count / MIB);
  const values: readonly (readonly [string, string, number | null])[] = [
    ['total', 'ms', move.totalMs],
    ['total-launch', 'ms', move.launchedMs],
    ['downtime', 'ms', move.downtimeMs],
    ['stopped', 'ms', move.stoppedMs],
    ['outage', 'ms', move.outageMs],
    ['ram', 'MiB', bytes(move.ramBytes)],
    ['wire', 'MiB', bytes(move.wireBytes)],
    ['faults', '', faults?.count ?? null],
    ['fault-p50', 'ms', faults === null ? null : faults.p50Us / 1000],
    ['fault-p99', 'ms', faults === null ? null : faults.p99Us / 1000],
  ];
  return values.flatMap(([what, unit, value]) =>
    value === null ? [] : [{ name: `${name}-${what}`, unit, better: 'less', value }],
  );
}

/** Collects the samples of all rounds; rows come out in the order of their first samples. */
export class MigrationResults {
  readonly #series = new Map<string, { first: Sample; values: Record<Mover, number[]> }>();

  add(mover: Mover, sample: Sample): void {
    const known = this.#series.get(sample.name);
    const series = known ?? { first: sample, values: { qemu: [], colo: [] } };
    this.#series.set(sample.name, series);
    series.values[mover].push(sample.value);
  }

  rows(): MigrationRow[] {
    return [...this.#series.values()].map(({ first: { name, unit }, values }) => {
      const [qemu, colo] = [middle(values.qemu), middle(values.colo)];
      const known = qemu !== null && colo !== null && qemu > 0 && colo > 0;
      return { name, unit, qemu, colo, ratio: known ? significant(qemu / colo) : null };
    });
  }
}

/** The rows as a table for people. */
export function formatMigrationTable(rows: readonly MigrationRow[]): string {
  const text = (value: number | null): string => (value === null ? '-' : String(value));
  const lines = [
    ['name', 'unit', 'qemu', 'colo', 'ratio'],
    ...rows.map(({ name, unit, qemu, colo, ratio }) => {
      return [name, unit, text(qemu), text(colo), text(ratio)];
    }),
  ];
  const width = (column: number): number =>
    Math.max(...lines.map((line) => line[column]?.length ?? 0));
  return lines
    .map((line) =>
      line
        .map((cell, column) =>
          column < 2 ? cell.padEnd(width(column)) : cell.padStart(width(column)),
        )
        .join('  '),
    )
    .join('\n');
}

/** Between the last line of each agent's log that has these words, by their time stamps, ms. */
export function betweenLines(
  from: { readonly log: string; readonly words: string },
  to: { readonly log: string; readonly words: string },
): number | null {
  const [since, until] = [from, to].map(({ log, words }) => {
    const line = log.split('\n').findLast((each) => each.includes(words));
    return line === undefined ? Number.NaN : Date.parse(line.split(' ')[0] ?? '');
  });
  const ms = (until ?? Number.NaN) - (since ?? Number.NaN);
  return Number.isNaN(ms) ? null : ms;
}

/**
 * QEMU's own log of its faults (`-trace`, `-msg timestamp=on`): `pid@seconds.microseconds:event ...`.
 * A wait is from the request for a page to its placement.
 */
export function faultsOfTrace(text: string): Faults {
  const since = new Map<string, number>();
  const waits: number[] = [];
  const line = /^\d+@(\d+)\.(\d+):(\w+) .*?(?:Request for HVA=|host=)(?:0x)?([0-9a-f]+)/gm;
  for (const [, seconds = '', micros = '', event = '', page = ''] of text.matchAll(line)) {
    const atUs = Number(seconds) * 1e6 + Number(micros);
    if (event === 'postcopy_ram_fault_thread_request') {
      if (!since.has(page)) since.set(page, atUs);
      continue;
    }
    const sinceUs = since.get(page);
    if (sinceUs === undefined) continue;
    since.delete(page);
    waits.push(atUs - sinceUs);
  }
  waits.sort((a, b) => a - b);
  const at = (part: number): number => waits[Math.max(0, Math.ceil(waits.length * part) - 1)] ?? 0;
  return { count: waits.length, p50Us: at(0.5), p99Us: at(0.99) };
}

function middle(values: readonly number[]): number | null {
  return values.length === 0 ? null : significant(median(values));
}

/** Four digits: no measurement here is better than that. */
function significant(value: number): number {
  return Number(value.toPrecision(4));
}
