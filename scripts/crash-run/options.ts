/** The crash test's command line. In: arguments. Out: checked options, or what to change. */
import { DEFAULT_MODE, MODES, type Mode, perMode } from '../harness/modes.js';
import { numberOption, oneOfOption, readOptions, seedOption } from '../harness/option-values.js';

/** Whose power is cut; `survivor`: the primary's, and the other's soon after it took over. */
export const FAULTS = ['secondary', 'both', 'primary', 'survivor'] as const;
export type Fault = (typeof FAULTS)[number];

const PERIOD_MS: Readonly<Record<Mode, number>> = { checkpoint: 200, colo: 500 };

export const USAGE = `Usage: scripts/crash-test [option]...

Cuts the power of hosts that protect a guest, at random moments, while clients write to the guest's
disk; then checks that the images are sound and that they hold what the clients were told.

  --rounds N         so many faults (default: 20)
  --fault ${FAULTS.join('|')}
                     whose power is cut (default: each in turn); survivor: the
                     primary's, and then that of the host that took over
  --mode ${MODES.join('|')}
                     output policy (default: ${DEFAULT_MODE})
  --period MS        checkpoint period, 50 to 10000 (default: ${perMode(PERIOD_MS)})
  --seed N           chooses the moments (default: by the clock; printed)
  --json             only the last line, which is JSON
  --keep             keep logs and disks also when all is well
  --help             this text

A power cut is SIGKILL for all processes of a host at once. The kernel lives on and still writes
what it has in its page cache. So this finds what is lost with a process, and what is torn between
two writes. That nothing depends on data that was never synced is for the simulation to find
(test/property/blockrep/journal-crash.test.ts).

Exit code: 0 if nothing was found, 1 at the first violation or failure, and then all files are kept;
64 for a wrong option.
`;

export interface CrashOptions {
  readonly rounds: number;
  /** Undefined: each in turn. */
  readonly fault: Fault | undefined;
  readonly mode: Mode;
  readonly periodMs: number;
  readonly seed: number;
  readonly json: boolean;
  readonly keep: boolean;
  readonly help: boolean;
}

const OPTIONS = {
  rounds: { type: 'string', default: '20' },
  fault: { type: 'string' },
  mode: { type: 'string', default: DEFAULT_MODE },
  period: { type: 'string' },
  seed: { type: 'string' },
  json: { type: 'boolean', default: false },
  keep: { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
} as const;

/** Throws `OperatorError` for a value that can't be used. */
export function parseOptions(args: readonly string[], clockMs: number): CrashOptions {
  const values = readOptions(args, OPTIONS);
  const mode = oneOfOption('mode', values.mode, MODES);
  return {
    rounds: numberOption('rounds', values.rounds, [1, 100_000]),
    fault: values.fault === undefined ? undefined : oneOfOption('fault', values.fault, FAULTS),
    mode,
    periodMs: numberOption('period', values.period ?? String(PERIOD_MS[mode]), [50, 10_000]),
    seed: seedOption(values.seed, clockMs),
    json: values.json,
    keep: values.keep,
    help: values.help,
  };
}
