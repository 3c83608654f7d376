/**
 * The bench: `npm run bench -- [names] [--json] [--rounds N] [--seconds N]`. In each round the
 * set-ups come in turn, each from a fresh boot, so that a machine that is slow for a while is slow
 * for all. Stdout is the table, or with --json one line a row; progress is on stderr.
 */
import { cpus } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { describeError, OperatorError } from '../../src/lib/index.js';
import { DISK_PLACES } from '../../src/migration/index.js';
import { Cleanup } from '../harness/cleanup.js';
import { guestFiles } from '../harness/guest-files.js';
import { DEFAULT_MODE, MODES, type Mode, perMode } from '../harness/modes.js';
import { compareSamples, hasCompareBench } from './compare.js';
import { MEASURE_NAMES, MEASURES, type MeasureName, type MeasureOptions } from './measures.js';
import { benchMigration, GUESTS } from './migrate.js';
import { formatMigrationTable, MigrationResults, MOVERS } from './migration-rows.js';
import { METHODS } from './movers.js';
import { formatTable, Results, SETUPS, type SetupName } from './rows.js';
import { bringUp, chooseAccelerator, type SetupOptions } from './setups.js';

/** The source tree, seen from build/scripts/bench. */
const ROOT = join(dirname(fileURLToPath(import.meta.url)), '../../..');
/** These have nothing to measure without protection. */
const PROTECTED_ONLY: readonly MeasureName[] = ['pause', 'failover'];
/** What an agent without a secondary costs is of interest for the disk, which goes through it. */
const ALONE: readonly MeasureName[] = ['redis', 'disk'];

/** Beside what needs guests, the compare core alone. */
const NAMES = ['compare', ...MEASURE_NAMES] as const;
/** Has a table of its own, and runs only when it is named. */
const MIGRATE = 'migrate';
const MEMORY_MIB = 256;
const MIGRATE_MEMORY_MIB = 1024;
const PERIOD_MS: Readonly<Record<Mode, number>> = { checkpoint: 200, colo: 1000 };

const USAGE = `Usage: npm run bench -- [name]... [option]...

Names: ${NAMES.join(' ')} (default: all of these)
       ${MIGRATE}: a guest that QEMU's own migration moves, and "colo migrate"

  --rounds N     rounds; each value is the median of them (default: 3)
  --seconds N    length of one measurement (default: 5)
  --warm-up N    seconds that a load of the network runs before it is measured (default: 0)
  --setups LIST  which of ${SETUPS.join(',')} (default: all)
  --mode ${MODES.join('|')}
                 output policy (default: ${DEFAULT_MODE})
  --period MS    checkpoint period (default: ${perMode(PERIOD_MS)})
  --memory MIB   guest memory (default: ${MEMORY_MIB}; ${MIGRATE}: ${MIGRATE_MEMORY_MIB})
  --guests LIST  ${MIGRATE}: which of ${GUESTS.join(',')} (default: all)
  --methods LIST ${MIGRATE}: which of ${METHODS.join(',')} (default: all)
  --movers LIST  ${MIGRATE}: which of ${MOVERS.join(',')} (default: both)
  --disk ${DISK_PLACES.join('|')}
                 ${MIGRATE}: both hosts have one image, or its content moves, too (default: shared)
  --downtime MS  ${MIGRATE}: the downtime that both may have (default: 100)
  --keep-logs    ${MIGRATE}: the agents' logs stay; they tell how long each part took
  --cpu          also rows of who used how much CPU time during each load
  --json         one JSON object a row instead of the table
  --help         this text
`;

interface BenchOptions extends MeasureOptions, SetupOptions {
  readonly names: readonly (typeof NAMES)[number][];
  readonly setups: readonly SetupName[];
  readonly rounds: number;
}

/** Guests or not, this runs in the protected column: only there is something compared. */
async function measureCompare(options: BenchOptions, results: Results): Promise<void> {
  if (!options.names.includes('compare') || !options.setups.includes('protected')) return;
  if (!hasCompareBench(options.buildDir)) {
    say('compare: left out, there is no scripts/bench/compare-core.ts');
    return;
  }
  say('compare');
  for (const sample of await compareSamples(options.buildDir)) results.add('protected', sample);
}

async function measureSetup(name: SetupName, options: BenchOptions, results: Results) {
  const wanted = MEASURE_NAMES.filter(
    (measure) =>
      options.names.includes(measure) &&
      (name === 'protected' || !PROTECTED_ONLY.includes(measure)) &&
      (name !== 'alone' || ALONE.includes(measure)),
  );
  if (wanted.length === 0) return;
  const cleanup = new Cleanup();
  const stopListening = cleanup.onSignals();
  try {
    say(`${name}: boot`);
    const setup = await bringUp(name, options, cleanup);
    for (const measure of wanted) {
      say(`${name}: ${measure}`);
      for (const sample of await MEASURES[measure](setup, options)) results.add(name, sample);
    }
  } catch (error) {
    // After a signal everything fails, and the process ends as soon as all is cleaned up.
    if (cleanup.started) await new Promise<never>(() => {});
    throw error;
  } finally {
    await cleanup.run();
    stopListening();
  }
}

function readOptions() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      rounds: { type: 'string', default: '3' },
      seconds: { type: 'string', default: '5' },
      'warm-up': { type: 'string', default: '0' },
      setups: { type: 'string', default: SETUPS.join(',') },
      period: { type: 'string' },
      mode: { type: 'string', default: DEFAULT_MODE },
      memory: { type: 'string' },
      guests: { type: 'string', default: GUESTS.join(',') },
      methods: { type: 'string', default: METHODS.join(',') },
      movers: { type: 'string', default: MOVERS.join(',') },
      disk: { type: 'string', default: 'shared' },
      downtime: { type: 'string', default: '100' },
      'keep-logs': { type: 'boolean', default: false },
      cpu: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  const mode = readName('--mode', values.mode, MODES);
  const moves = positionals.includes(MIGRATE);
  const others = positionals.filter((text) => text !== MIGRATE);
  const memory = values.memory ?? String(moves ? MIGRATE_MEMORY_MIB : MEMORY_MIB);
  return {
    moves,
    guests: readList('--guests', values.guests, GUESTS),
    methods: readList('--methods', values.methods, METHODS),
    movers: readList('--movers', values.movers, MOVERS),
    disk: readName('--disk', values.disk, DISK_PLACES),
    downtimeLimitMs: readNumber('downtime', values.downtime),
    keepLogs: values['keep-logs'],
    json: values.json,
    cpu: values.cpu,
    help: values.help,
    rounds: readNumber('rounds', values.rounds),
    seconds: readNumber('seconds', values.seconds),
    warmUpSeconds: readNumber('warm-up', values['warm-up'], 0),
    mode,
    periodMs: readNumber('period', values.period ?? String(PERIOD_MS[mode])),
    memoryMib: readNumber('memory', memory),
    setups: readList('--setups', values.setups, SETUPS),
    names:
      positionals.length === 0
        ? NAMES
        : NAMES.filter((name) =>
            others.map((text) => readName('Name', text, NAMES)).includes(name),
          ),
  };
}

function readNumber(name: string, text: string, least = 1): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= least) return value;
  throw new OperatorError('COLO_E_OPTION', `--${name}: found "${text}", expected a whole number`);
}

function readName<T extends string>(place: string, text: string, choices: readonly T[]): T {
  const found = choices.find((choice) => choice === text);
  if (found !== undefined) return found;
  const expected = choices.join(', ');
  throw new OperatorError(
    'COLO_E_OPTION',
    `${place}: found "${text}", expected one of ${expected}`,
  );
}

function readList<T extends string>(place: string, text: string, choices: readonly T[]): T[] {
  return text.split(',').map((name) => readName(place, name, choices));
}

function say(text: string): void {
  process.stderr.write(`bench: ${text}\n`);
}

async function main(): Promise<void> {
  const { json, help, ...read } = readOptions();
  if (help) {
    process.stdout.write(USAGE);
    return;
  }
  const guest = await guestFiles(ROOT);
  const options = { ...read, root: ROOT, buildDir: join(ROOT, 'build'), guest };
  const [cpu] = cpus();
  say(
    `${cpus().length} x ${cpu?.model ?? 'unknown CPU'}, ${chooseAccelerator()}, ${process.version}`,
  );
  const results = new Results();
  const moves = new MigrationResults();
  for (let round = 1; round <= options.rounds; round++) {
    say(`round ${round} of ${options.rounds}`);
    await measureCompare(options, results);
    for (const name of options.setups) await measureSetup(name, options, results);
    if (options.moves) await benchMigration({ ...options, say }, moves);
  }
  const [rows, moveRows] = [results.rows(), moves.rows()];
  if (json) {
    for (const row of [...rows, ...moveRows]) process.stdout.write(`${JSON.stringify(row)}\n`);
    return;
  }
  if (rows.length > 0) process.stdout.write(`${formatTable(rows)}\n`);
  if (moveRows.length > 0) process.stdout.write(`${formatMigrationTable(moveRows)}\n`);
}

main().catch((error: unknown) => {
  say(`error: ${describeError(error)}`);
  const usage =
    error instanceof OperatorError ||
    String((error as { code?: unknown }).code).startsWith('ERR_PARSE_ARGS');
  process.exitCode = usage ? 64 : 1;
});
