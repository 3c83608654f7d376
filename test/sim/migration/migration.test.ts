import test from 'ava';
import { BREAKAGES, FAULTS } from './options.js';
import { describeMigration, runMigrations } from './run-many.js';
import { runMigrationSeed } from './simulation.js';

const SEEDS = 400;
/** Some sabotages need a rare moment; the first seed that sees one ends the search. */
const SEEDS_OF_SABOTAGE = 3000;

test(`${SEEDS} seeds of a migration keep its rules, and every run ends`, (t) => {
  const { endings, failed } = runMigrations({ from: 1, count: SEEDS });
  for (const [seed, detail] of failed.slice(0, 3)) {
    t.log(describeMigration(seed, detail, undefined));
  }
  t.deepEqual(
    failed.map(([seed]) => seed),
    [],
  );
  const count = (pattern: RegExp): number =>
    [...endings].reduce((sum, [name, times]) => sum + (pattern.test(name) ? times : 0), 0);
  for (const mode of ['precopy', 'postcopy', 'hybrid']) {
    t.true(count(new RegExp(`^${mode}: source moved, destination completed`)) > SEEDS / 10, mode);
    t.true(count(new RegExp(`^${mode}: source kept`)) > SEEDS / 40, mode);
  }
  t.true(count(/source killed/) > 0);
});

test('the seeds see every kind of fault, and a network that does not come back', (t) => {
  const faults = new Set<string>();
  let lost = 0;
  for (let seed = 1; seed <= 50; seed += 1) {
    const { options } = runMigrationSeed({ seed });
    for (const { kind } of options.faults) faults.add(kind);
    if (options.networkLost) lost += 1;
  }
  t.deepEqual([...faults].sort(), [...FAULTS].sort());
  t.true(lost > 0);
});

test('a seed of a migration is the same run each time', (t) => {
  t.deepEqual(runMigrationSeed({ seed: 7 }), runMigrationSeed({ seed: 7 }));
});

/** Seeds that have found something, and what. */
const REGRESSIONS: readonly (readonly [number, string])[] = [
  [268, 'a migration that is over has no deadline'],
  [3957, 'after a change of the bandwidth the downtime is estimated by the new one'],
  [2412, 'an operator who forces an old state at the destination is what the record is for'],
];
for (const [seed, found] of REGRESSIONS) {
  test(`seed ${seed} passes: ${found}`, (t) => {
    const { ok, detail } = runMigrationSeed({ seed });
    t.true(ok, describeMigration(seed, detail, undefined));
  });
}

for (const breakage of BREAKAGES) {
  test(`the checkers see a migration that is broken by ${breakage}`, (t) => {
    const { failed } = runMigrations({
      from: 1,
      count: SEEDS_OF_SABOTAGE,
      breakage,
      first: true,
    });
    t.is(failed.length, 1);
  });
}
