/**
 * The demo's command line. In: arguments. Out: checked options, or an error that says what to
 * change.
 */
import { DEFAULT_MODE, MODES, type Mode, perMode } from '../harness/modes.js';
import { numberOption, oneOfOption, readOptions } from '../harness/option-values.js';
import { FAULTS, type Fault } from './verdict.js';

/*
 * Why 100 ms in mode checkpoint: the guest's TCP waits at least 200 ms before it sends a segment
 * again. With a longer period its acknowledgements come later than that every now and then, and it
 * slows down for nothing.
 */
const PERIOD_MS: Readonly<Record<Mode, number>> = { checkpoint: 100, colo: 1000 };
/** Epochs must not be short for this client's sake alone. */
const RANDOM_MS: Readonly<Record<Mode, number>> = { checkpoint: 100, colo: 2000 };

export const USAGE = `Usage: scripts/demo [option]...

Runs a real guest on a pair of hosts, loads it with six clients and injects a fault in the middle of
the load. The clients: HTTP, redis, a stream of numbered lines; connections opened at random
moments, by the client and by the guest, each with a dialogue in which both ends check every byte;
and a UDP service of random answers, which the guest is asked about afterwards.

  --fault ${FAULTS.join('|')}
                     what happens (default: kill-primary, SIGKILL of everything on hosta)
  --duration SECONDS how long the load runs, 2 to 3600 (default: 20); the fault comes at half of it
  --mode ${MODES.join('|')}
                     output policy (default: ${DEFAULT_MODE})
  --period MS        checkpoint period, 10 to 60000 (default: ${perMode(PERIOD_MS)})
  --random MS        mean time from one question to the random service to the next, 5 to 60000; in
                     mode colo each answer forces a checkpoint (default: ${perMode(RANDOM_MS)})
  --memory MIB       guest memory (default: 256)
  --repeat N         so many runs, and a summary as the last line (default: 1)
  --json             only the last line, which is JSON
  --keep             keep logs and disks also after a good run
  --help             this text

Exit code: 0 if and only if everything went well ("ok":true), 1 if not, 64 for a wrong option.
`;

export interface DemoOptions {
  readonly fault: Fault;
  readonly durationMs: number;
  readonly periodMs: number;
  readonly mode: Mode;
  readonly randomMs: number;
  readonly memoryMib: number;
  readonly repeat: number;
  readonly json: boolean;
  readonly keep: boolean;
  readonly help: boolean;
}

const OPTIONS = {
  fault: { type: 'string', default: 'kill-primary' },
  duration: { type: 'string', default: '20' },
  period: { type: 'string' },
  mode: { type: 'string', default: DEFAULT_MODE },
  random: { type: 'string' },
  memory: { type: 'string', default: '256' },
  repeat: { type: 'string', default: '1' },
  json: { type: 'boolean', default: false },
  keep: { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
} as const;

/** Throws `OperatorError` for a value that can't be used. */
export function parseOptions(args: readonly string[]): DemoOptions {
  const values = readOptions(args, OPTIONS);
  const mode = oneOfOption('mode', values.mode, MODES);
  const period = values.period ?? String(PERIOD_MS[mode]);
  return {
    fault: oneOfOption('fault', values.fault, FAULTS),
    durationMs: 1000 * numberOption('duration', values.duration.replace(/s$/, ''), [2, 3600]),
    periodMs: numberOption('period', period.replace(/ms$/, ''), [10, 60_000]),
    mode,
    randomMs: numberOption('random', values.random ?? String(RANDOM_MS[mode]), [5, 60_000]),
    memoryMib: numberOption('memory', values.memory, [128, 65_536]),
    repeat: numberOption('repeat', values.repeat, [1, 100_000]),
    json: values.json,
    keep: values.keep,
    help: values.help,
  };
}
