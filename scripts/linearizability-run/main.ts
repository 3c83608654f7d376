/**
 * `scripts/linearizability [--failovers N] [--clients N] [--registers N] [--mode M] [--json]`:
 * see USAGE. Stdout is one line, or with --json one object; progress is on stderr. Exit code: 0, or
 * 1 for a history that no single register explains, or 64 for a command line that makes no sense.
 */
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { describeError } from '../../src/lib/index.js';
import { Cleanup } from '../harness/cleanup.js';
import { guestFiles } from '../harness/guest-files.js';
import { DEFAULT_MODE, MODES } from '../harness/modes.js';
import { PairLab } from '../harness/pair-lab.js';
import { runFailovers } from './run.js';

/** The source tree, seen from build/scripts/linearizability-run. */
const ROOT = join(dirname(fileURLToPath(import.meta.url)), '../../..');
const PERIOD_MS = 500;
/** A machine that is busy with other things must not look like a lost peer. */
const PATIENT = ['--peer-timeout', '3s'];

const USAGE = `Usage: scripts/linearizability [option]...

Clients fight for a few registers in the redis of a protected guest while its host is killed again
and again, and comes back each time. Checks that each register behaved as if there was only one.

  --failovers N   (default: 10)
  --clients N     (default: 8)
  --registers N   (default: 10)
  --mode M        ${MODES.join('|')} (default: ${DEFAULT_MODE})
  --json          one JSON object instead of a line
  --help          this text
`;

function readOptions() {
  const { values } = parseArgs({
    options: {
      failovers: { type: 'string', default: '10' },
      clients: { type: 'string', default: '8' },
      registers: { type: 'string', default: '10' },
      mode: { type: 'string', default: DEFAULT_MODE },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  const mode = MODES.find((each) => each === values.mode);
  if (mode === undefined) throw new TypeError(`--mode ${values.mode} is not ${MODES.join(' or ')}`);
  const { failovers, clients, registers, json, help } = values;
  return {
    failovers: whole('--failovers', failovers),
    clients: whole('--clients', clients),
    registers: whole('--registers', registers),
    ...{ mode, json, help },
  };
}

function whole(name: string, text: string): number {
  if (/^[1-9]\d{0,5}$/.test(text)) return Number(text);
  throw new TypeError(`${name} is ${text}, but must be a whole number from 1 on`);
}

async function main(): Promise<number> {
  const options = readOptions();
  if (options.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  const say = (text: string): void => void process.stderr.write(`${text}\n`);
  const cleanup = new Cleanup();
  const stopListening = cleanup.onSignals();
  try {
    const pair = await PairLab.up(
      {
        root: ROOT,
        guest: await guestFiles(ROOT),
        memoryMib: 256,
        periodMs: PERIOD_MS,
        mode: options.mode,
        primaryFlags: PATIENT,
        secondaryFlags: PATIENT,
      },
      cleanup,
    );
    await pair.startSecondary();
    await pair.startPrimary();
    await pair.waitProtected();
    await pair.waitGuest();
    const outcome = await runFailovers(pair, { ...options, onFailover: say });
    const { operations, unanswered, registers, failovers, connectionsLost, bad } = outcome;
    const ok = bad.length === 0;
    if (!ok) pair.keepFiles('logs');
    if (options.json) console.log(JSON.stringify({ ok, ...outcome }));
    else {
      console.log(
        `${operations} operations on ${registers} registers over ${failovers} failovers, ` +
          `${unanswered} without an answer, ${connectionsLost} connections lost: ` +
          (ok ? 'linearizable' : `NOT linearizable: ${JSON.stringify(bad)}`),
      );
    }
    return ok ? 0 : 1;
  } finally {
    await cleanup.run();
    stopListening();
  }
}

main().then(
  (code) => {
    process.exitCode = code;
  },
  (error: unknown) => {
    process.stderr.write(`linearizability: error: ${describeError(error)}\n`);
    process.exitCode = error instanceof TypeError ? 64 : 1;
  },
);
