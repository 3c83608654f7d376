/** Runs consecutive seeds of the migration and adds up how they ended. */
import type { Breakage } from './options.js';
import { runMigrationSeed } from './simulation.js';

export interface MigrationSummary {
  /** How often each ending was seen. */
  readonly endings: ReadonlyMap<string, number>;
  readonly failed: readonly (readonly [seed: number, detail: string])[];
  readonly events: number;
}

export function runMigrations(parts: {
  readonly from: number;
  readonly count: number;
  readonly breakage?: Breakage | undefined;
  /** Stop at the first failure. */
  readonly first?: boolean;
}): MigrationSummary {
  const endings = new Map<string, number>();
  const failed: (readonly [number, string])[] = [];
  let events = 0;
  for (let seed = parts.from; seed < parts.from + parts.count; seed += 1) {
    const result = runMigrationSeed({ seed, breakage: parts.breakage });
    events += result.events;
    const ending = `${result.options.mode}: ${result.ok ? result.detail : 'FAILED'}`;
    endings.set(ending, (endings.get(ending) ?? 0) + 1);
    if (result.ok) continue;
    failed.push([seed, result.detail]);
    if (parts.first === true) break;
  }
  return { endings, failed, events };
}

/** What to print of a failure: how to see it again. */
export function describeMigration(
  seed: number,
  detail: string,
  breakage: Breakage | undefined,
): string {
  const broken = breakage === undefined ? '' : ` --break ${breakage}`;
  return `Seed ${seed}: ${detail}\n  npm run sim:migration -- --seed ${seed} --trace${broken}`;
}
