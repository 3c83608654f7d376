/** The migration matrix's command line. In: arguments. Out: checked options, or what to change. */
import { DISK_PLACES, type DiskPlace } from '../../src/migration/index.js';
import {
  chosenOption,
  listed,
  numberOption,
  oneOfOption,
  readOptions,
  seedOption,
} from '../harness/option-values.js';
import { CELLS, type Cell, KILLS, type Kill, nameOf, nameOfKill } from './cells.js';

export const PARTS = ['matrix', 'cuts', 'kills'] as const;
export type Part = (typeof PARTS)[number];

export const USAGE = `Usage: scripts/migration-matrix [option]...

Moves real guests from host to host and looks at what comes of them, in three parts:

  matrix   guests {idle, redis, scribble} x {precopy, postcopy, hybrid} x {plain, tls}: is the
           RAM at the switchover the source's, do clients keep their connections and lose nothing,
           and is the downtime that is told what a prober sees that asks each millisecond?
  cuts     the link is cut at a random point of a postcopy, and comes back after 1 to 30 s, or
           never: is RAM complete and right?
  kills    the source or the destination is killed at a stage of a precopy: is exactly one guest
           left?

  --disk ${DISK_PLACES.join('|')}
                     both hosts have one image, or its content moves (default: moved)
  --parts LIST       of these, separated by commas (default: all)
  --cells LIST       of the matrix; a part of a name is all cells that have it (default: all)
  --kill LIST        of the kills, in the same way (default: all)
  --rounds N         so many rounds of each cell of the matrix (default: 1)
  --kill-rounds N    the same of the kills (default: 3)
  --cuts N           cuts that end (default: 100)
  --cut-s N          the longest of them, s (default: 30)
  --lasting N        cuts that don't, besides (default: 10)
  --cut N            only that one of them all, to repeat it with its run's --seed
  --labs N           labs at once for cuts and kills, 1 to 4 (default: 2)
  --slack MS         added to what is allowed between downtime and outage (default: 0)
  --seed N           chooses the moments (default: by the clock; printed)
  --write            put the figures into docs/reliability.md; the matrix's other rows stay
  --json             only the last line, which is JSON
  --keep             keep logs of pairs in which nothing was found, too
  --help             this text

Cells: ${listed(CELLS.map(nameOf))}
Kills: ${listed(KILLS.map(nameOfKill))}

What fails never ends the run; the next round begins with a pair of its own. Logs of a pair in which
something was found are kept.

Exit code: 0 if everything was right, 1 if not, 64 for a wrong option.
`;

export interface MatrixOptions {
  readonly disk: DiskPlace;
  readonly parts: readonly Part[];
  readonly cells: readonly Cell[];
  readonly kills: readonly Kill[];
  readonly rounds: number;
  readonly killRounds: number;
  readonly cuts: number;
  readonly cutMs: number;
  readonly lasting: number;
  /** By its number; undefined: all. */
  readonly cut: number | undefined;
  readonly labs: number;
  readonly slackMs: number;
  readonly seed: number;
  readonly write: boolean;
  readonly json: boolean;
  readonly keep: boolean;
  readonly help: boolean;
}

const OPTIONS = {
  disk: { type: 'string', default: 'moved' },
  parts: { type: 'string', default: PARTS.join(',') },
  cells: { type: 'string', default: '' },
  kill: { type: 'string', default: '' },
  rounds: { type: 'string', default: '1' },
  'kill-rounds': { type: 'string', default: '3' },
  cuts: { type: 'string', default: '100' },
  'cut-s': { type: 'string', default: '30' },
  lasting: { type: 'string', default: '10' },
  cut: { type: 'string' },
  labs: { type: 'string', default: '2' },
  slack: { type: 'string', default: '0' },
  seed: { type: 'string' },
  write: { type: 'boolean', default: false },
  json: { type: 'boolean', default: false },
  keep: { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
} as const;

/** Throws `OperatorError` for a value that can't be used. */
export function parseOptions(args: readonly string[], clockMs: number): MatrixOptions {
  const values = readOptions(args, OPTIONS);
  const count = (name: 'cuts' | 'lasting' | 'rounds' | 'kill-rounds', min: number): number => {
    return numberOption(name, values[name], [min, 100_000]);
  };
  return {
    disk: oneOfOption('disk', values.disk, DISK_PLACES),
    parts: choose('parts', values.parts, PARTS, (part) => part),
    cells: choose('cells', values.cells, CELLS, nameOf),
    kills: choose('kill', values.kill, KILLS, nameOfKill),
    rounds: count('rounds', 1),
    killRounds: count('kill-rounds', 1),
    cuts: count('cuts', 0),
    cutMs: numberOption('cut-s', values['cut-s'], [1, 60]) * 1000,
    lasting: count('lasting', 0),
    cut: values.cut === undefined ? undefined : numberOption('cut', values.cut, [1, 200_000]),
    labs: numberOption('labs', values.labs, [1, 4]),
    slackMs: numberOption('slack', values.slack, [0, 60_000]),
    seed: seedOption(values.seed, clockMs),
    write: values.write,
    json: values.json,
    keep: values.keep,
    help: values.help,
  };
}

/** All that have one of the names in them; a name that none has is refused. */
function choose<T>(
  option: string,
  text: string,
  all: readonly T[],
  name: (one: T) => string,
): readonly T[] {
  const wanted = text
    .split(',')
    .map((part) => part.trim())
    .filter(Boolean);
  if (wanted.length === 0) return all;
  // A whole part between slashes: "copy" alone would be three methods.
  const means = (part: string, one: T): boolean => `/${name(one)}/`.includes(`/${part}/`);
  return chosenOption(option, wanted, { all, nameOf: name, means });
}
