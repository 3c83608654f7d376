/**
 * `npm run sim -- --seeds N`: runs seeds and says what they have shown. See HELP.
 *
 * Exit code: 0, or 1 when a seed failed, or 64 for a command line that makes no sense.
 */
import { parseArgs } from 'node:util';
import { BREAKAGES, type Breakage } from './checker.js';
import { Coverage } from './coverage.js';
import { KINDS, type Kind } from './options.js';
import { describeFailure, formatLine } from './report.js';
import { runMany, type Summary } from './run-many.js';
import { runSeed } from './simulation.js';

const HELP = `npm run sim -- [OPTION]...
Runs seeds of the simulation and says what they have shown.

  --seeds N    so many seeds, from --from on (default 300)
  --from S     the first seed (default 1)
  --seed S     this one only
  --faults K   kinds of fault, with commas between them, or all (default all):
               ${[...new Set(KINDS)].join(' ')}
  --trace      with --seed: the whole trace
  --json       one JSON line instead of the table
  --break B    sabotage the simulated shells: shows that the checkers can fail:
               ${BREAKAGES.join(' ')}
  --help       this text

Exit code: 0, or 1 when a seed failed, or 64 for a command line that makes no sense.`;

interface Arguments {
  readonly seeds: number;
  readonly from: number;
  readonly seed: number | undefined;
  readonly help: boolean;
  readonly trace: boolean;
  readonly json: boolean;
  readonly breakage: Breakage | undefined;
  readonly kinds: readonly Kind[] | undefined;
}

function readArguments(): Arguments {
  const { values } = parseArgs({
    options: {
      seeds: { type: 'string', default: '300' },
      from: { type: 'string', default: '1' },
      seed: { type: 'string' },
      trace: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      break: { type: 'string' },
      faults: { type: 'string', default: 'all' },
      help: { type: 'boolean', default: false },
    },
  });
  const breakage = BREAKAGES.find((name) => name === values.break);
  if (values.break !== undefined && breakage === undefined) {
    throw new TypeError(`--break ${values.break} is not one of ${BREAKAGES.join(', ')}`);
  }
  const seed = values.seed === undefined ? undefined : whole('--seed', values.seed);
  return {
    seeds: whole('--seeds', values.seeds),
    from: whole('--from', values.from),
    seed,
    help: values.help,
    trace: values.trace,
    json: values.json,
    breakage,
    kinds: values.faults === 'all' ? undefined : kindsOf(values.faults),
  };
}

function kindsOf(text: string): Kind[] {
  return text.split(',').map((name) => {
    const kind = KINDS.find((known) => known === name);
    if (kind !== undefined) return kind;
    throw new TypeError(`--faults ${name} is not one of all, ${[...new Set(KINDS)].join(', ')}`);
  });
}

function whole(name: string, text: string): number {
  const value = Number(text);
  if (Number.isSafeInteger(value) && value >= 0) return value;
  throw new TypeError(`${name} is ${text}, but must be a whole number`);
}

function printSummary(summary: Summary, coverage: Coverage): void {
  console.log(coverage.table());
  const { passed, knownLimits, knownGaps, failed, seconds, events } = summary;
  const rate = Math.round((passed + knownLimits + knownGaps + failed.length) / seconds);
  console.log(
    `\n${passed} seeds passed, ${knownLimits} ended at a known limit, ` +
      `${knownGaps} at a known gap, ${failed.length} failed` +
      ` (${rate} seeds/s, ${events} events)`,
  );
  if (failed.length > 0) console.log(`Failed seeds: ${failed.slice(0, 20).join(', ')}`);
}

function main(): number {
  const { seeds, from, seed, help, trace, json, breakage, kinds } = readArguments();
  if (help) {
    console.log(HELP);
    return 0;
  }
  if (seed !== undefined && trace) {
    const result = runSeed({
      seed,
      breakage,
      kinds,
      sink: (line) => console.log(formatLine(line)),
    });
    console.log(`Seed ${seed}: ${result.verdict}: ${result.detail}`);
    return result.verdict === 'failed' ? 1 : 0;
  }
  const coverage = new Coverage();
  const summary = runMany({
    from: seed ?? from,
    count: seed === undefined ? seeds : 1,
    breakage,
    kinds,
    coverage,
  });
  if (json) {
    const counts = Object.fromEntries(
      [...coverage.counts].map(([k, row]) => [k, Object.fromEntries(row)]),
    );
    console.log(JSON.stringify({ ok: summary.failed.length === 0, ...summary, counts }));
  } else {
    for (const failed of summary.failed.slice(0, 3)) {
      console.log(describeFailure({ seed: failed, breakage, kinds }));
    }
    printSummary(summary, coverage);
  }
  return summary.failed.length === 0 ? 0 : 1;
}

try {
  process.exitCode = main();
} catch (error) {
  if (!(error instanceof TypeError)) throw error;
  console.error(error.message);
  process.exitCode = 64;
}
