/** The grammar of the `colo` command line, by yargs. Arguments in, a wish out; nothing is done. */
import yargs, { type Argv } from 'yargs';
import {
  CAPTURE_BYTES_DEFAULT,
  CAPTURE_BYTES_MAX,
  CAPTURE_BYTES_MIN,
  CAPTURE_DURATION_US_DEFAULT,
  CAPTURE_DURATION_US_MAX,
  CAPTURE_DURATION_US_MIN,
  COMPARE_TIMEOUT_US_DEFAULT,
  COMPARE_TIMEOUT_US_MAX,
  COMPARE_TIMEOUT_US_MIN,
  formatDuration,
  formatMemory,
  integerParser,
  type Mode,
  NICS_MAX,
  PERIOD_US_MAX,
  PERIOD_US_MIN,
  parseDuration,
  parseName,
  parseSize,
} from '../config/index.js';
import { assert, OperatorError } from '../lib/index.js';
import type { Command } from './control-wire.js';
import type {
  AgentChoice,
  CheckConfigWish,
  ColoPlace,
  CommonArguments,
  CompareWish,
  DiscardWish,
  Hands,
} from './grammar-parts.js';
import { defineMigrate, defineMigrateFollowUps, MIGRATE_SINGLE } from './migrate-arguments.js';
import { named } from './named-argument.js';
import { definePki, type PkiWish } from './pki/pki-arguments.js';

export type {
  AgentChoice,
  CheckConfigWish,
  ColoPlace,
  CompareWish,
  DiscardWish,
} from './grammar-parts.js';

/** What `colo` was asked to do. */
export type ColoWish =
  /** Help, version, completion: print and exit 0. */
  | { readonly kind: 'print'; readonly text: string }
  | { readonly kind: 'usage'; readonly message: string; readonly json: boolean }
  | { readonly kind: 'compare'; readonly compare: CompareWish }
  | { readonly kind: 'check-config'; readonly check: CheckConfigWish }
  | { readonly kind: 'discard-image'; readonly discard: DiscardWish }
  | { readonly kind: 'pki'; readonly pki: PkiWish }
  | {
      readonly kind: 'call';
      readonly command: Command;
      readonly agent: AgentChoice;
      readonly json: boolean;
      readonly watch: boolean;
    };

/** Options that name one thing. */
const SINGLE = [
  ...['socket', 'vm', 'run-dir', 'dir', 'duration', 'nic', 'max-bytes'],
  ...['inbound', 'verdicts', 'compare-timeout', 'role'],
  ...['disk', 'state-dir', 'config', 'image', 'after', 'days'],
  ...MIGRATE_SINGLE,
];

/** Reads the arguments of `colo` (without node and script). Never throws for what was typed. */
export async function parseColoArguments(
  argv: readonly string[],
  place: ColoPlace,
): Promise<ColoWish> {
  let wish: ColoWish | undefined;
  const compare = (asked: CompareWish): void => {
    wish = { kind: 'compare', compare: asked };
  };
  const checkConfig = (check: CheckConfigWish): void => {
    wish = { kind: 'check-config', check };
  };
  const discardImage = (discard: DiscardWish): void => {
    wish = { kind: 'discard-image', discard };
  };
  const pki = (asked: PkiWish): void => {
    wish = { kind: 'pki', pki: asked };
  };
  const call = (args: CommonArguments, command: Command, watch = false): void => {
    const agent = { socket: args.socket, vm: args.vm, runDir: args['run-dir'] };
    wish = { kind: 'call', command, agent, json: args.json, watch };
  };
  let output = '';
  let failure: string | undefined;
  try {
    await define(place, { call, compare, checkConfig, discardImage, pki }).parseAsync(
      [...argv],
      {},
      (error, _args, text) => {
        output = text;
        if (error instanceof OperatorError) failure = error.message;
      },
    );
  } catch (error) {
    if (!(error instanceof OperatorError)) throw error;
    failure = error.message;
  }
  // The grammar may not have got as far as the flag.
  const json = argv.includes('--json');
  if (failure !== undefined) return { kind: 'usage', message: failure, json };
  if (wish !== undefined) return wish;
  assert(output !== '', 'Arguments without a command and without a complaint print something');
  return { kind: 'print', text: `${output}\n` };
}

function define(place: ColoPlace, hands: Hands): Argv<CommonArguments> {
  const commands = [
    ...[defineAgentCommands, defineVerify, defineCapture],
    ...[defineCompare, defineCheckConfig, defineDiscardImage],
    ...[defineMigrate, defineMigrateFollowUps],
  ];
  const base = defineCommon();
  for (const add of commands) add(base, hands, place);
  definePki(base, hands.pki, place.absolute);
  return finish(base, place.version);
}

/** What every command takes. */
function defineCommon(): Argv<CommonArguments> {
  return yargs()
    .scriptName('colo')
    .usage('$0 <command>: look at and direct the agent of a protected VM on this host')
    .option('socket', {
      type: 'string',
      requiresArg: true,
      describe: 'Control socket of the agent',
    })
    .option('vm', {
      type: 'string',
      requiresArg: true,
      describe: 'Name of the VM; its socket is RUN-DIR/VM.sock',
    })
    .option('run-dir', {
      type: 'string',
      requiresArg: true,
      default: '/run/colo',
      describe: 'Folder of the sockets',
    })
    .option('json', { type: 'boolean', default: false, describe: 'Answer in JSON, on one line' })
    .conflicts('socket', 'vm')
    .check((args) => {
      for (const name of SINGLE) {
        if (Array.isArray(args[name])) throw new Error(`--${name} is given twice, expected once`);
      }
      if (typeof args.vm === 'string') named('--vm', () => parseName(args.vm as string));
      return true;
    }) as unknown as Argv<CommonArguments>;
}

function defineAgentCommands(base: Argv<CommonArguments>, { call }: Hands): void {
  base
    .command(
      'status',
      'Show what the agent is doing',
      (command) =>
        command.option('watch', {
          type: 'boolean',
          default: false,
          describe: 'Show it again every second until interrupted',
        }),
      (args) => call(args, { command: 'status', arguments: {} }, args.watch),
    )
    .command(
      'events',
      'Show what has happened to the agent, and what happens',
      (command) =>
        command
          .option('follow', {
            type: 'boolean',
            default: false,
            describe: 'Go on with what happens, until interrupted',
          })
          .option('after', {
            type: 'string',
            requiresArg: true,
            describe: 'Only what is behind this sequence number',
          }),
      (args) => {
        const { after: text } = args;
        const number = integerParser(0, Number.MAX_SAFE_INTEGER);
        const after = text === undefined ? null : named('--after', () => number(text));
        call(args, { command: 'events', arguments: { after, waitMs: 0 } }, args.follow);
      },
    )
    .command(
      'failover',
      'Make this secondary the primary',
      (command) =>
        command.option('force', {
          type: 'boolean',
          default: false,
          describe: 'Without asking the primary; make sure that it is off',
        }),
      (args) => call(args, { command: 'failover', arguments: { force: args.force } }),
    )
    .command(
      'switchover',
      'Let the two hosts change their roles',
      (command) => command,
      (args) => call(args as unknown as CommonArguments, { command: 'switchover', arguments: {} }),
    )
    .command(
      'detach',
      'Let the guest go on without its secondary, until colo attach',
      (command) => command,
      (args) => call(args as unknown as CommonArguments, { command: 'detach', arguments: {} }),
    )
    .command(
      'attach',
      'Look for a secondary again, after colo detach',
      (command) => command,
      (args) => call(args as unknown as CommonArguments, { command: 'attach', arguments: {} }),
    )
    .command(
      'stop',
      'End the agent in order; a protected guest goes on at the other host',
      (command) =>
        command.option('peer', {
          type: 'boolean',
          default: false,
          describe: 'End the agent of the secondary instead; the guest goes on here',
        }),
      (args) => call(args, { command: 'stop', arguments: { peer: args.peer } }),
    )
    .command(
      'set-period <period>',
      'Change the longest time between checkpoints',
      (command) =>
        command.positional('period', {
          type: 'string',
          demandOption: true,
          describe: 'Such as 200ms or 1.5s, from 10ms to 60s; auto: by what the guests do',
        }),
      (args) => {
        const periodUs = named('period', () => parsePeriod(args.period));
        call(args, { command: 'set-period', arguments: { periodUs } });
      },
    )
    .command(
      'set-mode <mode>',
      'Change what makes output leave',
      (command) =>
        command.positional('mode', {
          choices: ['checkpoint', 'colo'] as const,
          demandOption: true,
          describe: 'checkpoint: only commits; colo: also what both guests say',
        }),
      (args) => call(args, { command: 'set-mode', arguments: { mode: args.mode as Mode } }),
    )
    .command(
      'checkpoint',
      'Take a checkpoint now and wait until it is committed',
      () => {},
      (args) => call(args as unknown as CommonArguments, { command: 'checkpoint', arguments: {} }),
    );
}

function defineVerify(base: Argv<CommonArguments>, { call }: Hands): void {
  base.command(
    'verify',
    "Compare the guest's disks on both hosts while it runs",
    (command) =>
      command
        .option('disk', {
          type: 'string',
          describe: 'Name of one disk; by default all that are not read-only',
        })
        .option('repair', {
          type: 'boolean',
          default: false,
          describe: 'Send what differs to the secondary once more',
        }),
    (args) => {
      // `--disk` alone says that disks are meant, which is all there is to verify.
      const name = args.disk === undefined || args.disk === '' ? undefined : args.disk;
      const disk = name === undefined ? null : named('--disk', () => parseName(name));
      call(args, { command: 'verify', arguments: { disk, repair: args.repair } });
    },
  );
}

function defineDiscardImage(base: Argv<CommonArguments>, { discardImage }: Hands): void {
  base.command(
    'discard-image',
    'Give up what the images of a VM on this host hold, for those of the other host',
    (command) =>
      command
        .option('disk', {
          type: 'string',
          requiresArg: true,
          describe: "Name of one disk; by default all of the VM's",
        })
        .option('config', {
          type: 'string',
          requiresArg: true,
          describe: "Configuration file of the agent; by default the VM's in /etc/colo",
        })
        .option('image', {
          type: 'string',
          requiresArg: true,
          describe: 'Image of the disk, instead of what a configuration says',
        })
        .option('state-dir', {
          type: 'string',
          requiresArg: true,
          describe: "State directory of the agent; by default the configuration's",
        })
        .option('yes', { type: 'boolean', default: false, describe: 'Do not ask' }),
    (args) => {
      const { vm, disk, config, image, yes, json } = args;
      if (vm === undefined) throw new OperatorError('COLO_E_USAGE', 'found no --vm, expected it');
      if (disk !== undefined) named('--disk', () => parseName(disk));
      if (image !== undefined && (disk === undefined || config !== undefined)) {
        const expected = 'expected --disk with it, and no --config';
        throw new OperatorError('COLO_E_USAGE', `--image: found it alone, ${expected}`);
      }
      discardImage({ vm, disk, config, image, stateDir: args['state-dir'], yes, json });
    },
  );
}

function defineCapture(base: Argv<CommonArguments>, { call }: Hands, place: ColoPlace): void {
  base.command(
    'capture',
    'Write the output of both guests and what compare said of it to files',
    (command) =>
      command
        .option('dir', {
          type: 'string',
          requiresArg: true,
          describe: 'Folder for the files; by default a new one here',
        })
        .option('duration', {
          type: 'string',
          requiresArg: true,
          default: formatDuration(CAPTURE_DURATION_US_DEFAULT),
          describe: 'How long, up to 600s',
        })
        .option('nic', {
          type: 'string',
          requiresArg: true,
          default: '0',
          describe: "Which of the guest's NICs, from 0",
        })
        .option('max-bytes', {
          type: 'string',
          requiresArg: true,
          default: formatMemory(CAPTURE_BYTES_DEFAULT),
          describe: 'Size of all files together at which it ends',
        }),
    (args) => {
      const times = { minUs: CAPTURE_DURATION_US_MIN, maxUs: CAPTURE_DURATION_US_MAX };
      const sizes = { minBytes: CAPTURE_BYTES_MIN, maxBytes: CAPTURE_BYTES_MAX };
      const options = {
        dir: place.captureFolder(args.dir),
        durationUs: named('--duration', () => parseDuration(args.duration, times)),
        nic: named('--nic', () => integerParser(0, NICS_MAX - 1)(args.nic)),
        bytesMax: named('--max-bytes', () => parseSize(args['max-bytes'], sizes)),
      };
      call(args, { command: 'capture', arguments: options });
    },
  );
}

function defineCompare(base: Argv<CommonArguments>, { compare }: Hands): void {
  base.command(
    'compare <primary> <secondary>',
    'Compare two capture files as the agent would, without one',
    (command) =>
      command
        .positional('primary', {
          type: 'string',
          demandOption: true,
          describe: "The PVM's output, pcap or pcapng",
        })
        .positional('secondary', {
          type: 'string',
          demandOption: true,
          describe: "The SVM's output",
        })
        .option('inbound', {
          type: 'string',
          requiresArg: true,
          describe: 'What both guests were sent',
        })
        .option('verdicts', {
          type: 'string',
          requiresArg: true,
          describe: 'File that says where epochs end; by default verdicts.jsonl beside PRIMARY',
        })
        .option('compare-timeout', {
          type: 'string',
          requiresArg: true,
          default: formatDuration(COMPARE_TIMEOUT_US_DEFAULT),
          describe: 'How long one guest may be behind the other',
        })
        .option('split', {
          type: 'boolean',
          default: false,
          describe: 'Hand over every frame alone',
        }),
    (args) => {
      const { primary, secondary, inbound, verdicts, split, json } = args;
      const bounds = { minUs: COMPARE_TIMEOUT_US_MIN, maxUs: COMPARE_TIMEOUT_US_MAX };
      const compareTimeoutUs = named('--compare-timeout', () =>
        parseDuration(args['compare-timeout'], bounds),
      );
      compare({ primary, secondary, inbound, verdicts, compareTimeoutUs, split, json });
    },
  );
}

function defineCheckConfig(base: Argv<CommonArguments>, { checkConfig }: Hands): void {
  base.command(
    'check-config [file..]',
    'Check configuration files on this host, without starting anything',
    (command) =>
      command
        .positional('file', {
          type: 'string',
          array: true,
          default: [] as string[],
          defaultDescription: 'all of /etc/colo',
          describe: 'Configuration file of an agent',
        })
        .option('role', {
          choices: ['primary', 'secondary'] as const,
          requiresArg: true,
          describe: 'Which agent it is for; by default the one that the file fits',
        }),
    ({ file, role, json }) => checkConfig({ files: file.map(String), role, json }),
  );
}

/** What holds for all commands, after the last of them. */
function finish(base: Argv<CommonArguments>, version: string): Argv<CommonArguments> {
  return base
    .completion('completion', 'Print a script that makes a shell complete colo')
    .demandCommand(1, 1, 'found no command, expected one')
    .strict()
    .recommendCommands()
    .version(version)
    .help()
    .epilogue('Manual: colo(1). What the agents are told: colo.conf(5).')
    .wrap(96)
    .parserConfiguration({
      'boolean-negation': false,
      'camel-case-expansion': false,
      'dot-notation': false,
      'parse-numbers': false,
      'parse-positional-numbers': false,
      'short-option-groups': false,
    })
    .exitProcess(false)
    .fail((message: string | null, error: Error | undefined) => {
      // yargs words its own complaints; an error without such words is ours, or a bug.
      if (error !== undefined && (message === null || error instanceof OperatorError)) throw error;
      throw new OperatorError('COLO_E_USAGE', reword(message ?? ''));
    }) as unknown as Argv<CommonArguments>;
}

function parsePeriod(text: string): number | 'auto' {
  if (text === 'auto') return text;
  return parseDuration(text, { minUs: PERIOD_US_MIN, maxUs: PERIOD_US_MAX });
}

function reword(message: string): string {
  const meant = /^Did you mean (.*)\?$/.exec(message)?.[1];
  if (meant !== undefined)
    return `found an unknown command, did you mean ${meant}? See colo --help`;
  return `${message.split('\n')[0]}; see colo --help`;
}
