/** The fault matrix's command line. In: arguments. Out: checked options, or what to change. */
import { DEFAULT_MODE, MODES, type Mode, perMode } from '../harness/modes.js';
import {
  chosenOption,
  listed,
  numberOption,
  oneOfOption,
  readOptions,
  seedOption,
} from '../harness/option-values.js';
import { CELLS, type Cell, nameOf } from './cells.js';

const PERIOD_MS: Readonly<Record<Mode, number>> = { checkpoint: 100, colo: 1000 };

export const USAGE = `Usage: scripts/fault-matrix [option]...

Breaks a pair in every way that it must survive, one after the other, while three clients use the
guest; looks at what the pair does, what the clients saw and who spoke on the LAN; mends it, and
waits until the guest is protected again.

  --rounds N         so many rounds of each cell (default: 1)
  --cells NAME,...   only these; a fault's name alone is both of its sides (default: all)
  --mode ${MODES.join('|')}
                     output policy (default: ${DEFAULT_MODE})
  --period MS        checkpoint period, 50 to 10000 (default: ${perMode(PERIOD_MS)})
  --peer-timeout MS  of the pair, 200 to 10000 (default: 500, the product's own)
  --hold-limit MS    of the pair, 200 to 60000 (default: that of --peer-timeout)
  --slack MS         added to the allowed outages, for a busy machine (default: 0)
  --seed N           chooses the moments (default: by the clock; printed)
  --write            put the figures into docs/reliability.md; other cells' rows stay
  --json             only the last line, which is JSON
  --keep             keep logs of pairs in which nothing was found, too
  --help             this text

Cells: ${listed(CELLS.map(nameOf))}

A round that fails never ends the run; the next one begins with a pair of its own. Logs of a pair in
which something was found are kept.

Exit code: 0 if every round was right, 1 if not, 64 for a wrong option.
`;

export interface MatrixOptions {
  readonly rounds: number;
  readonly cells: readonly Cell[];
  readonly mode: Mode;
  readonly periodMs: number;
  readonly peerTimeoutMs: number;
  readonly holdLimitMs: number;
  readonly slackMs: number;
  readonly seed: number;
  readonly write: boolean;
  readonly json: boolean;
  readonly keep: boolean;
  readonly help: boolean;
}

const OPTIONS = {
  rounds: { type: 'string', default: '1' },
  cells: { type: 'string' },
  mode: { type: 'string', default: DEFAULT_MODE },
  period: { type: 'string' },
  'peer-timeout': { type: 'string', default: '500' },
  'hold-limit': { type: 'string' },
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
  const mode = oneOfOption('mode', values.mode, MODES);
  return {
    rounds: numberOption('rounds', values.rounds, [1, 100_000]),
    cells: chooseCells(values.cells),
    mode,
    periodMs: numberOption('period', values.period ?? String(PERIOD_MS[mode]), [50, 10_000]),
    peerTimeoutMs: numberOption('peer-timeout', values['peer-timeout'], [200, 10_000]),
    holdLimitMs: numberOption(
      'hold-limit',
      values['hold-limit'] ?? values['peer-timeout'],
      [200, 60_000],
    ),
    slackMs: numberOption('slack', values.slack, [0, 60_000]),
    seed: seedOption(values.seed, clockMs),
    write: values.write,
    json: values.json,
    keep: values.keep,
    help: values.help,
  };
}

function chooseCells(text: string | undefined): readonly Cell[] {
  if (text === undefined) return CELLS;
  const names = text.split(',').map((name) => name.trim());
  const means = (name: string, cell: Cell): boolean => {
    return name === cell.fault || name === nameOf(cell);
  };
  return chosenOption('cells', names, { all: CELLS, nameOf, means });
}
