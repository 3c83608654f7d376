/** The grammar of the `colo` command line, by yargs. Arguments in, a wish out; nothing is done. */
import yargs, { type Argv } from 'yargs';
import {
  PERIOD_US_MAX,
  PERIOD_US_MIN,
  parseDuration,
  parseName,
  ValueError,
} from '../config/index.js';
import { assert, OperatorError } from '../lib/index.js';
import type { Command } from './control-wire.js';

/** Which agent is meant. */
export interface AgentChoice {
  readonly socket: string | undefined;
  readonly vm: string | undefined;
  readonly runDir: string;
}

/** What `colo` was asked to do. */
export type ColoWish =
  /** Help, version, completion: print and exit 0. */
  | { readonly kind: 'print'; readonly text: string }
  | { readonly kind: 'usage'; readonly message: string; readonly json: boolean }
  | {
      readonly kind: 'call';
      readonly command: Command;
      readonly agent: AgentChoice;
      readonly json: boolean;
      readonly watch: boolean;
    };

interface CommonArguments {
  readonly socket?: string | undefined;
  readonly vm?: string | undefined;
  readonly 'run-dir': string;
  readonly json: boolean;
}

/** Reads the arguments of `colo` (without node and script). Never throws for what was typed. */
export async function parseColoArguments(
  argv: readonly string[],
  version: string,
): Promise<ColoWish> {
  let wish: ColoWish | undefined;
  const call = (args: CommonArguments, command: Command, watch = false): void => {
    const agent = { socket: args.socket, vm: args.vm, runDir: args['run-dir'] };
    wish = { kind: 'call', command, agent, json: args.json, watch };
  };
  let output = '';
  let failure: string | undefined;
  try {
    await define(version, call).parseAsync([...argv], {}, (error, _args, text) => {
      output = text;
      if (error instanceof OperatorError) failure = error.message;
    });
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

function define(
  version: string,
  call: (args: CommonArguments, command: Command, watch?: boolean) => void,
): Argv<CommonArguments> {
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
      for (const name of ['socket', 'vm', 'run-dir']) {
        if (Array.isArray(args[name])) throw new Error(`--${name} is given twice, expected once`);
      }
      if (typeof args.vm === 'string') named('--vm', () => parseName(args.vm as string));
      return true;
    })
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
      'set-period <period>',
      'Change the longest time between checkpoints',
      (command) =>
        command.positional('period', {
          type: 'string',
          demandOption: true,
          describe: 'Such as 200ms or 1.5s, from 10ms to 60s',
        }),
      (args) => {
        const bounds = { minUs: PERIOD_US_MIN, maxUs: PERIOD_US_MAX };
        const periodUs = named('period', () => parseDuration(args.period, bounds));
        call(args, { command: 'set-period', arguments: { periodUs } });
      },
    )
    .command(
      'checkpoint',
      'Take a checkpoint now and wait until it is committed',
      () => {},
      (args) => call(args as unknown as CommonArguments, { command: 'checkpoint', arguments: {} }),
    )
    .completion('completion', 'Print a script that makes a shell complete colo')
    .demandCommand(1, 1, 'found no command, expected one')
    .strict()
    .recommendCommands()
    .version(version)
    .help()
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

/** Puts the name of the argument before what is wrong with it. */
function named<T>(name: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (error instanceof ValueError) error.message = `${name}: ${error.message}`;
    throw error;
  }
}

function reword(message: string): string {
  const meant = /^Did you mean (.*)\?$/.exec(message)?.[1];
  if (meant !== undefined)
    return `found an unknown command, did you mean ${meant}? See colo --help`;
  return `${message.split('\n')[0]}; see colo --help`;
}
