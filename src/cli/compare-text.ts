/** What `colo compare` found, for people and as JSON. Pure. */
import { basename } from 'node:path';
import type { CompareReport, Finding, FlowCount, Mismatch } from '../proxy/index.js';
import type { CompareWish } from './colo-arguments.js';
import type { CompareOutcome } from './compare-files.js';

const LABEL_WIDTH = 16;
const BYTES_PER_ROW = 16;
/** Flows in the summary. */
const FLOWS_SHOWN_MAX = 20;

const REASONS = {
  divergence: 'the guests differ',
  timeout: 'the other guest did not say it in time',
  bound: 'too much waits for the other guest',
} as const satisfies Record<Finding['reason'], string>;

/** Something asked for a checkpoint. */
export function isMismatched({ report }: CompareOutcome): boolean {
  return mismatchCount(report) > 0;
}

/** A summary and every mismatch that was kept, with a line end. */
export function formatComparison(wish: CompareWish, outcome: CompareOutcome): string {
  const { report, epochs } = outcome;
  const { frames } = report;
  const rows: [string, string][] = [
    ['Primary', `${framesText(frames.primary)}, ${wish.primary}`],
    ['Secondary', `${framesText(frames.secondary)}, ${wish.secondary}`],
    [
      'Inbound',
      wish.inbound === undefined ? 'none' : `${framesText(frames.inbound)}, ${wish.inbound}`,
    ],
    ['Epochs', epochText(outcome)],
    ['New connections', String(report.openedFlows)],
    ['Released', `${framesText(report.releasedFrames)} of the primary`],
    ['Held', `${framesText(report.heldFrames)}, until the end of their epoch`],
  ];
  if (report.madeFrames > 0)
    rows.push(['Made', `${framesText(report.madeFrames)} of the comparer`]);
  if (report.undecidedFrames > 0) {
    rows.push(['Undecided', `${framesText(report.undecidedFrames)}, the capture ends before`]);
  }
  if (report.skippedFrames > 0) {
    rows.push(['Not compared', `${framesText(report.skippedFrames)}, before or between epochs`]);
  }
  if (epochs.droppedFrames > 0) {
    rows.push([
      'Left out',
      `${framesText(epochs.droppedFrames)} by the capture: they look like mismatches`,
    ]);
  }
  rows.push(['Mismatches', mismatchText(report)]);
  const flows = worstFirst(report.flows);
  for (const count of flows.slice(0, FLOWS_SHOWN_MAX)) rows.push(['', flowText(count)]);
  if (flows.length > FLOWS_SHOWN_MAX) {
    rows.push(['', `... and ${flows.length - FLOWS_SHOWN_MAX} more flows`]);
  }
  const summary = rows.map(([label, value]) => `${label.padEnd(LABEL_WIDTH)} ${value}\n`).join('');
  const originUs = report.firstFrameUs ?? 0;
  const details = report.findings.map((finding, index) =>
    formatFinding(finding, { number: index + 1, originUs }),
  );
  return summary + details.join('');
}

/** The same as one object. */
export function comparisonJson(wish: CompareWish, outcome: CompareOutcome): object {
  const { report, epochs } = outcome;
  const { findings, firstFrameUs: _first, ...counts } = report;
  return {
    ok: true,
    mismatched: isMismatched(outcome),
    primary: wish.primary,
    secondary: wish.secondary,
    inbound: wish.inbound ?? null,
    verdicts: epochs.path ?? null,
    droppedFrames: epochs.droppedFrames,
    cutOff: isCutOff(outcome),
    ...counts,
    flows: worstFirst(report.flows),
    mismatches: findings.map(({ reason, timeUs, epoch, mismatch }) => ({
      reason,
      timeUs,
      epoch: epoch ?? null,
      ...mismatch,
      primary: mismatch.primary.toString('hex'),
      secondary: mismatch.secondary.toString('hex'),
    })),
  };
}

function framesText(count: number): string {
  return count === 1 ? '1 frame' : `${count} frames`;
}

function mismatchCount({ reasons }: CompareReport): number {
  return reasons.divergence + reasons.timeout + reasons.bound;
}

function mismatchText(report: CompareReport): string {
  const count = mismatchCount(report);
  if (count === 0) return 'none';
  const reasons = Object.entries(report.reasons)
    .filter(([, times]) => times > 0)
    .map(([reason, times]) => `${reason} ${times}`);
  const kept = report.findings.length;
  const rest = kept < count ? `, the first ${kept} are explained` : '';
  return `${count} (${reasons.join(', ')})${rest}`;
}

function isCutOff({ epochs }: CompareOutcome): boolean {
  return epochs.path !== undefined && epochs.endUs === undefined;
}

function epochText({ report, epochs }: CompareOutcome): string {
  if (epochs.path === undefined) return 'one, from the first frame to the last';
  const cut = isCutOff({ report, epochs }) ? '; the capture was cut off' : '';
  return `${report.epochs}, by ${basename(epochs.path)}${cut}`;
}

function worstFirst(flows: readonly FlowCount[]): FlowCount[] {
  const byHeld = (a: FlowCount, b: FlowCount): number => b.heldFrames - a.heldFrames;
  return [...flows].sort((a, b) => b.mismatches - a.mismatches || byHeld(a, b));
}

function flowText({ flow, mismatches, heldFrames }: FlowCount): string {
  const parts: string[] = [];
  if (mismatches > 0) parts.push(`${mismatches} ${mismatches === 1 ? 'mismatch' : 'mismatches'}`);
  if (heldFrames > 0) parts.push(`${framesText(heldFrames)} held`);
  return `${flow}: ${parts.join(', ')}`;
}

function formatFinding(
  { reason, timeUs, epoch, mismatch }: Finding,
  { number, originUs }: { number: number; originUs: number },
): string {
  const seconds = ((timeUs - originUs) / 1e6).toFixed(6);
  const when = `${seconds} s after the first frame${epoch === undefined ? '' : `, epoch ${epoch}`}`;
  const lines = ['', `${number}. ${REASONS[reason]}, ${when}`];
  const { flow, kind, offset, note } = mismatch;
  if (flow !== '') lines.push(`   ${flow}, ${kind} at offset ${offset}`);
  if (note !== '') lines.push(`   ${note}`);
  if (flow !== '') lines.push(...formatSides(mismatch));
  return `${lines.join('\n')}\n`;
}

/** Both sides one below the other, row by row, so that columns can be compared. */
function formatSides({ primary, secondary }: Mismatch): string[] {
  const rows: string[] = [];
  const sides = { primary, secondary };
  for (const [side, bytes] of Object.entries(sides)) {
    if (bytes.length === 0) rows.push(`   ${side.padEnd(10)} nothing`);
  }
  for (let at = 0; at < Math.max(primary.length, secondary.length); at += BYTES_PER_ROW) {
    for (const [side, bytes] of Object.entries(sides)) {
      if (at < bytes.length) rows.push(`   ${side.padEnd(10)} ${formatRow(bytes, at)}`);
    }
  }
  return rows;
}

function formatRow(bytes: Buffer, at: number): string {
  const row = bytes.subarray(at, at + BYTES_PER_ROW);
  const hex = Array.from(row, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
  const ascii = row.toString('latin1').replace(/[^\x20-\x7e]/g, '.');
  return `${hex.padEnd(BYTES_PER_ROW * 3 - 1)}  ${ascii}`.trimEnd();
}
