/** The rounds as a table, a line each. Pure. */
import type { RoundResult } from './round.js';

const HEAD = [
  'round',
  'fault',
  'aimed at',
  'epoch',
  'ms into it',
  'after',
  'acknowledged',
  'unanswered',
  'refused',
  'images hold',
  'secondary at',
  'replayed',
  'rebuilt',
  'seconds',
  'result',
];

export function formatTable(results: readonly RoundResult[]): string {
  const rows = [HEAD, ...results.map(cells)];
  const widths = HEAD.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  const lines = rows.map((row) => {
    return row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd();
  });
  return lines.join('\n');
}

function cells(result: RoundResult): string[] {
  const { moment, position } = result;
  const secondary = result.images.find(({ host }) => host !== 'primary');
  return [
    String(result.round),
    result.fault,
    `${moment.kind} ${moment.part.toFixed(2)}`,
    text(position.epoch),
    `${text(position.sinceResumeMs)} of ${position.usualMs}`,
    position.after ?? '-',
    String(result.acknowledged),
    String(result.unanswered),
    String(result.refused),
    result.images.map(({ demanded }) => String(demanded)).join(', '),
    text(secondary?.epoch ?? null),
    text(secondary?.replayed ?? null),
    secondary?.rebuilt === true ? 'yes' : '-',
    result.seconds.toFixed(1),
    verdict(result),
  ];
}

function verdict({ problems, images }: RoundResult): string {
  if (problems.length > 0) return `${problems.length} violations`;
  return images.some(({ zeroTail }) => zeroTail) ? 'ok, zero tail' : 'ok';
}

function text(value: number | null): string {
  return value === null ? '-' : String(value);
}
