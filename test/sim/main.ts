/**
 * `npm run sim -- --seeds N`: runs seeds and says what they have shown. See HELP.
 *
 * Exit code: 0, or 1 when a seed failed, or 64 for a command line that makes no sense.
 */
import { parseArgs } from 'node:util';
import { BREAKAGES, type Breakage, WITNESS_BREAKAGES } from './checker.js';
import { Coverage } from './coverage.js';
import { KIND_GROUPS, KINDS, type Kind, WITNESS_KINDS } from './options.js';
import { describeFailure, formatLine } from './report.js';
import { runMany, type Summary } from './run-many.js';
import { runSeed } from './simulation.js';

const HELP = `npm run sim -- [OPTION]...
Runs seeds of the simulation and says what they have shown.

  --seeds N    so many seeds, from --from on (default 2000)
  --from S     the first seed (default 1)
  --seed S     this one only
  --witness W  none: each host decides by itself; model: the pair has a witness; both (default):
               each seed is two runs
  --faults K   kinds of fault or groups of them, with commas between them, or all (default all):
               ${Object.keys(KIND_GROUPS).join(' ')}
               ${[...new Set(KINDS)].join(' ')}
               and with a witness: ${WITNESS_KINDS.join(' ')}
  --trace      with --seed and --witness: the whole trace
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
  readonly witness: readonly boolean[];
}

function readArguments(): Arguments {
  const { values } = parseArgs({
    options: {
      seeds: { type: 'string', default: '2000' },
      from: { type: 'string', default: '1' },
      seed: { type: 'string' },
      trace: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      break: { type: 'string' },
      witness: { type: 'string', default: 'both' },
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
    witness: witnessOf(values.witness, breakage),
    kinds: values.faults === 'all' ? undefined : kindsOf(values.faults),
  };
}

function kindsOf(text: string): Kind[] {
  return text.split(',').flatMap((name) => {
    const kind = [...KINDS, ...WITNESS_KINDS].find((known) => known === name);
    if (kind !== undefined) return kind;
    const group = KIND_GROUPS[name];
    if (group !== undefined) return group;
    throw new TypeError(`--faults ${name} is not known: see --help`);
  });
}

function whole(name: string, text: string): number {
  const value = Number(text);
  if (Number.isSafeInteger(value) && value >= 0) return value;
  throw new TypeError(`${name} is ${text}, but must be a whole number`);
}

function witnessOf(text: string, breakage: Breakage | undefined): boolean[] {
  const without = breakage === undefined || !WITNESS_BREAKAGES.has(breakage);
  if (text === 'both') return without ? [false, true] : [true];
  if (text === 'none') return [false];
  if (text === 'model') return [true];
  throw new TypeError(`--witness ${text} is not one of none, model, both`);
}

/** Of a run with or without a witness, the kinds that there are. */
function kindsFor(
  witness: boolean,
  kinds: readonly Kind[] | undefined,
): readonly Kind[] | undefined {
  if (kinds === undefined || witness) return kinds;
  return kinds.filter((kind) => KINDS.some((known) => known === kind));
}

function printSummary(name: string, summary: Summary, coverage: Coverage): void {
  console.log(coverage.table());
  const { passed, knownLimits, knownGaps, failed, seconds, events } = summary;
  const rate = Math.round((passed + knownLimits + knownGaps + failed.length) / seconds);
  console.log(
    `\n${name}: ${passed} seeds passed, ${knownLimits} ended at a known limit, ` +
      `${knownGaps} at a known gap, ${failed.length} failed` +
      ` (${rate} seeds/s, ${events} events)\n`,
  );
  if (failed.length > 0) console.log(`Failed seeds: ${failed.slice(0, 20).join(', ')}\n`);
}

function trace({ seed, breakage, kinds }: Arguments, witness: boolean): number {
  const result = runSeed({
    seed: seed ?? 1,
    breakage,
    witness,
    kinds: kindsFor(witness, kinds),
    sink: (line) => console.log(formatLine(line)),
  });
  console.log(`Seed ${seed}: ${result.verdict}: ${result.detail}`);
  return result.verdict === 'failed' ? 1 : 0;
}

function runAll({ seeds, from, seed, json, breakage, kinds: asked }: Arguments, witness: boolean) {
  const coverage = new Coverage();
  const kinds = kindsFor(witness, asked);
  if (kinds?.length === 0) return true;
  const summary = runMany({
    from: seed ?? from,
    count: seed === undefined ? seeds : 1,
    breakage,
    kinds,
    witness,
    coverage,
  });
  const ok = summary.failed.length === 0;
  if (json) {
    const counts = Object.fromEntries(
      [...coverage.counts].map(([k, row]) => [k, Object.fromEntries(row)]),
    );
    console.log(JSON.stringify({ ok, witness, ...summary, counts }));
    return ok;
  }
  for (const failed of summary.failed.slice(0, 3)) {
    console.log(describeFailure({ seed: failed, breakage, kinds, witness }));
  }
  printSummary(witness ? 'With a witness' : 'Without a witness', summary, coverage);
  return ok;
}

function main(): number {
  const given = readArguments();
  if (given.help) {
    console.log(HELP);
    return 0;
  }
  if (given.seed !== undefined && given.trace) {
    return Math.max(...given.witness.map((witness) => trace(given, witness)));
  }
  return given.witness.map((witness) => runAll(given, witness)).every((ok) => ok) ? 0 : 1;
}

try {
  process.exitCode = main();
} catch (error) {
  if (!(error instanceof TypeError)) throw error;
  console.error(error.message);
  process.exitCode = 64;
}
