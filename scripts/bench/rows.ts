/**
 * From measured values to the lines of the result. Pure. A value is the median of its rounds; the
 * ratio compares protected with contended and is larger where protected is better: both hosts of
 * the lab share one machine's cores, so two unprotected guests under the same load are the fair
 * baseline. An agent without a secondary (`alone`) is compared with one unprotected guest.
 */
import { median } from '../harness/median.js';

export const SETUPS = ['unprotected', 'alone', 'contended', 'protected'] as const;
export type SetupName = (typeof SETUPS)[number];

/** One measured value, before it is compared. */
export interface Sample {
  readonly name: string;
  readonly unit: string;
  readonly better: 'more' | 'less';
  readonly value: number;
}

/** One line of the result; null where a set-up has no such value. */
export interface Row {
  readonly name: string;
  readonly unit: string;
  readonly unprotected: number | null;
  readonly alone: number | null;
  readonly aloneRatio: number | null;
  readonly contended: number | null;
  readonly protected: number | null;
  readonly ratio: number | null;
}

/** Collects the samples of all rounds; rows come out in the order of their first samples. */
export class Results {
  readonly #series = new Map<string, { first: Sample; values: Record<SetupName, number[]> }>();

  add(setup: SetupName, sample: Sample): void {
    let series = this.#series.get(sample.name);
    if (series === undefined) {
      series = {
        first: sample,
        values: { unprotected: [], alone: [], contended: [], protected: [] },
      };
      this.#series.set(sample.name, series);
    }
    series.values[setup].push(sample.value);
  }

  rows(): Row[] {
    return [...this.#series.values()].flatMap(({ first, values }) => {
      const row = rowOf(first, values);
      return row.name === 'rtt-median' ? [row, addedRow('rtt-added', row)] : [row];
    });
  }
}

function rowOf(first: Sample, values: Record<SetupName, number[]>): Row {
  const contended = medianOrNull(values.contended);
  const protectedValue = medianOrNull(values.protected);
  const unprotected = medianOrNull(values.unprotected);
  const alone = medianOrNull(values.alone);
  return {
    name: first.name,
    unit: first.unit,
    unprotected,
    alone,
    aloneRatio: ratio(first.better, unprotected, alone),
    contended,
    protected: protectedValue,
    ratio: ratio(first.better, contended, protectedValue),
  };
}

/** What protection adds to a time: a ratio says little where the time itself is short. */
function addedRow(name: string, row: Row): Row {
  const known = row.protected !== null && row.contended !== null;
  const added = known ? significant((row.protected ?? 0) - (row.contended ?? 0)) : null;
  return {
    name,
    unit: row.unit,
    unprotected: null,
    alone: null,
    aloneRatio: null,
    contended: null,
    protected: added,
    ratio: null,
  };
}

/** The rows as a table for people. */
export function formatTable(rows: readonly Row[]): string {
  const head = ['name', 'unit', 'unprotected', 'alone', 'ratio', 'contended', 'protected', 'ratio'];
  const lines = rows.map((row) => [
    row.name,
    row.unit,
    ...[row.unprotected, row.alone, row.aloneRatio].map(formatValue),
    ...[row.contended, row.protected, row.ratio].map(formatValue),
  ]);
  const widths = head.map((title, i) =>
    Math.max(title.length, ...lines.map((line) => line[i]?.length ?? 0)),
  );
  return [head, ...lines]
    .map((line) =>
      line
        .map((cell, i) => (i < 2 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
        .join('  '),
    )
    .join('\n');
}

function medianOrNull(values: readonly number[]): number | null {
  return values.length === 0 ? null : significant(median(values));
}

function ratio(better: Sample['better'], base: number | null, value: number | null): number | null {
  if (base === null || value === null || base === 0 || value === 0) return null;
  return significant(better === 'more' ? value / base : base / value);
}

/** Four digits: no measurement here is better than that. */
function significant(value: number): number {
  return Number(value.toPrecision(4));
}

function formatValue(value: number | null): string {
  return value === null ? '-' : String(value);
}
