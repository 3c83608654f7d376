/** What the runs have exercised: counted over all seeds, printed as a table at the end. */
import { type Fault, STEPS } from './options.js';

export class Coverage {
  /** counts[heading][what] */
  readonly counts = new Map<string, Map<string, number>>();

  count(heading: string, what: string, by = 1): void {
    const row = this.counts.get(heading) ?? new Map<string, number>();
    row.set(what, (row.get(what) ?? 0) + by);
    this.counts.set(heading, row);
  }

  /** What was counted under a heading, and how often. */
  row(heading: string): ReadonlyMap<string, number> {
    return this.counts.get(heading) ?? new Map();
  }

  fault(fault: Fault, primaryStep: string | undefined, secondaryStep: string | undefined): void {
    const name = 'side' in fault ? `${fault.kind} ${fault.side}` : fault.kind;
    this.count('Faults', name);
    const group = STEP_GROUPS[fault.kind];
    for (const step of new Set([primaryStep, secondaryStep])) {
      if (step !== undefined) this.count(`step:${step}`, group);
    }
  }

  /** Text for people. */
  table(): string {
    const lines: string[] = [];
    for (const [heading, row] of this.counts) {
      if (heading.startsWith('step:')) continue;
      lines.push(`${heading}:`);
      for (const [what, count] of [...row].sort()) lines.push(`  ${what.padEnd(64)} ${count}`);
    }
    lines.push('Faults that struck before this step was done:');
    lines.push(`  ${'step'.padEnd(18)}${GROUPS.map((group) => group.padStart(10)).join('')}`);
    for (const step of STEPS) {
      const row = this.counts.get(`step:${step}`);
      const cells = GROUPS.map((group) => String(row?.get(group) ?? 0).padStart(10));
      lines.push(`  ${step.padEnd(18)}${cells.join('')}`);
    }
    return lines.join('\n');
  }
}

const GROUPS = ['crash', 'link', 'stop', 'operator'] as const;

const STEP_GROUPS: Record<Fault['kind'], (typeof GROUPS)[number]> = {
  kill: 'crash',
  power: 'crash',
  guestDies: 'crash',
  guestOff: 'operator',
  diskFails: 'crash',
  leave: 'operator',
  reset: 'link',
  partition: 'link',
  slow: 'link',
  stop: 'stop',
  hang: 'stop',
  checkpoint: 'operator',
  setPeriod: 'operator',
  setMode: 'operator',
  failover: 'operator',
  blackout: 'crash',
  witnessDown: 'link',
  witnessCut: 'link',
  witnessLate: 'link',
  weather: 'link',
  lan: 'link',
  stall: 'stop',
  diskFull: 'crash',
};
