/** The grammar of `colo migrate` and its companions; a part of colo-arguments.ts. */
import type { Argv } from 'yargs';
import {
  BANDWIDTH_MAX,
  BANDWIDTH_MIN,
  DOWNTIME_LIMIT_US_DEFAULT,
  DOWNTIME_LIMIT_US_MAX,
  DOWNTIME_LIMIT_US_MIN,
  formatDuration,
  parseAddress,
  parseDuration,
  parseMigrationCompression,
  parseSize,
  RECOVER_TIMEOUT_US_DEFAULT,
  RECOVER_TIMEOUT_US_MAX,
  RECOVER_TIMEOUT_US_MIN,
} from '../config/index.js';
import { OperatorError } from '../lib/index.js';
import type { ColoPlace, CommonArguments, Hands } from './grammar-parts.js';
import { named } from './named-argument.js';

/** Options that name one thing. */
export const MIGRATE_SINGLE = [
  'max-bandwidth',
  'downtime-limit',
  'compress',
  'recover-timeout',
  'to',
  'from',
] as const;

export function defineMigrate(base: Argv<CommonArguments>, { call }: Hands): void {
  base.command(
    'migrate <host>',
    'Move the guest to another host while it runs',
    (command) =>
      command
        .positional('host', {
          type: 'string',
          demandOption: true,
          describe:
            'Address of a colo-secondary without a guest, such as 10.0.0.3 or 10.0.0.3:7800',
        })
        .option('postcopy', {
          type: 'boolean',
          default: false,
          describe: 'Move the guest first and its memory after it, as it is asked for',
        })
        .option('hybrid', {
          type: 'boolean',
          default: false,
          describe: 'Send its memory once, move the guest, then send what it wrote meanwhile',
        })
        .option('no-background', {
          type: 'boolean',
          default: false,
          describe: 'With --postcopy: send only what is asked for (to measure)',
        })
        .option('max-bandwidth', {
          type: 'string',
          requiresArg: true,
          describe: 'Most that is sent in a second, such as 100MiB; by default no limit',
        })
        .option('downtime-limit', {
          type: 'string',
          requiresArg: true,
          default: formatDuration(DOWNTIME_LIMIT_US_DEFAULT),
          describe: 'How long the guest may stand still; it is moved when so little is left',
        })
        .option('auto-converge', {
          type: 'boolean',
          default: false,
          describe: 'Slow the guest down if it writes faster than the network takes it',
        })
        .option('compress', {
          type: 'string',
          requiresArg: true,
          default: 'auto',
          describe: 'auto: compress memory while that is measured to be faster; off: never',
        })
        .option('recover-timeout', {
          type: 'string',
          requiresArg: true,
          default: formatDuration(RECOVER_TIMEOUT_US_DEFAULT),
          describe: 'After a broken network: when the missing pages are written to a backup file',
        }),
    (args) => {
      const { postcopy, hybrid } = args;
      const foreground = args['no-background'];
      if (postcopy && hybrid) {
        throw new OperatorError('COLO_E_USAGE', 'found --postcopy and --hybrid, expected one');
      }
      if (foreground && !postcopy && !hybrid) {
        const message = 'found --no-background alone, expected --postcopy or --hybrid with it';
        throw new OperatorError('COLO_E_USAGE', message);
      }
      const rate = args['max-bandwidth'];
      const rates = { minBytes: BANDWIDTH_MIN, maxBytes: BANDWIDTH_MAX };
      const limits = { minUs: DOWNTIME_LIMIT_US_MIN, maxUs: DOWNTIME_LIMIT_US_MAX };
      const waits = { minUs: RECOVER_TIMEOUT_US_MIN, maxUs: RECOVER_TIMEOUT_US_MAX };
      call(args, {
        command: 'migrate',
        arguments: {
          to: named('host', () => parseAddress(args.host)),
          method: postcopy ? 'postcopy' : hybrid ? 'hybrid' : 'precopy',
          background: !foreground,
          bytesPerSecondMax:
            rate === undefined ? null : named('--max-bandwidth', () => parseSize(rate, rates)),
          downtimeLimitUs: named('--downtime-limit', () =>
            parseDuration(args['downtime-limit'], limits),
          ),
          autoConverge: args['auto-converge'],
          compress: named('--compress', () => parseMigrationCompression(args.compress)),
          recoverTimeoutUs: named('--recover-timeout', () =>
            parseDuration(args['recover-timeout'], waits),
          ),
        },
      });
    },
  );
}

/** What is asked of a migration that is under way. */
export function defineMigrateFollowUps(
  base: Argv<CommonArguments>,
  { call }: Hands,
  place: ColoPlace,
): void {
  base
    .command(
      'migrate-cancel',
      'Give up a migration; the guest goes on here',
      () => {},
      (args) => {
        call(args as unknown as CommonArguments, { command: 'migrate-cancel', arguments: {} });
      },
    )
    .command(
      'migrate-recover',
      'After a broken network: let a postcopy migration go on, now or by another address',
      (command) =>
        command.option('to', {
          type: 'string',
          requiresArg: true,
          describe: 'Address of the destination; by default as before',
        }),
      (args) => {
        const { to } = args;
        const address = to === undefined ? null : named('--to', () => parseAddress(to));
        call(args, { command: 'migrate-recover', arguments: { to: address } });
      },
    )
    .command(
      'migrate-finish',
      "Give the guest the pages that it lacks from the source's backup file",
      (command) =>
        command.option('from', {
          type: 'string',
          requiresArg: true,
          demandOption: true,
          describe: 'The backup file, on the destination',
        }),
      (args) => {
        const file = place.absolute(args.from);
        call(args, { command: 'migrate-finish', arguments: { file } });
      },
    )
    .command(
      'migrate-force',
      'The other host is off or silent for good: run the guest on this one',
      () => {},
      (args) => {
        call(args as unknown as CommonArguments, { command: 'migrate-force', arguments: {} });
      },
    )
    .command(
      'migrate-release',
      'The other host has the guest and needs nothing of this one: let go of it here',
      () => {},
      (args) => {
        call(args as unknown as CommonArguments, { command: 'migrate-release', arguments: {} });
      },
    );
}
