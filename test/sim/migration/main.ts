/**
 * `npm run sim:migration -- [--seeds N] [--from S] [--seed S [--trace]] [--break B]`: seeds of the
 * simulated migration, how they ended, and which failed. Exit code: 0, or 1 when one failed.
 */
import { parseArgs } from 'node:util';
import { BREAKAGES } from './options.js';
import { describeMigration, runMigrations } from './run-many.js';
import { runMigrationSeed } from './simulation.js';

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '1000' },
    from: { type: 'string', default: '1' },
    seed: { type: 'string' },
    trace: { type: 'boolean', default: false },
    break: { type: 'string' },
  },
});
const breakage = BREAKAGES.find((name) => name === values.break);
if (values.seed !== undefined) {
  const result = runMigrationSeed({
    seed: Number(values.seed),
    breakage,
    ...(values.trace
      ? {
          sink: ({ atUs, who, text }) => console.log(`${(atUs / 1e6).toFixed(6)} ${who} ${text}`),
        }
      : {}),
  });
  console.log(
    `${JSON.stringify(result.options)}\n${result.ok ? 'ok' : 'FAILED'}: ${result.detail}`,
  );
  process.exitCode = result.ok ? 0 : 1;
} else {
  const summary = runMigrations({
    from: Number(values.from),
    count: Number(values.seeds),
    breakage,
  });
  for (const [ending, count] of [...summary.endings].sort()) console.log(`${count} x ${ending}`);
  for (const [seed, detail] of summary.failed.slice(0, 5)) {
    console.log(describeMigration(seed, detail, breakage));
  }
  console.log(`${summary.failed.length} seeds failed, ${summary.events} events`);
  process.exitCode = summary.failed.length === 0 ? 0 : 1;
}
