/** The commands of `colo migrate` and what a status tells of one; a part of control-wire.ts. */
import { z } from 'zod';
import {
  BANDWIDTH_MAX,
  BANDWIDTH_MIN,
  DOWNTIME_LIMIT_US_MAX,
  DOWNTIME_LIMIT_US_MIN,
  formatAddress,
  MIGRATION_COMPRESSIONS,
  MIGRATION_METHODS,
  type MigrateOptions,
  type MigrationFigures,
  type MigrationStatus,
  parseAddress,
  RECOVER_TIMEOUT_US_MAX,
  RECOVER_TIMEOUT_US_MIN,
  ValueError,
} from '../config/index.js';
import { PATH_LENGTH_MAX } from './limits.js';

export type MigrationCommand =
  | { readonly command: 'migrate'; readonly arguments: MigrateOptions }
  | { readonly command: 'migrate-cancel'; readonly arguments: Record<string, never> }
  | {
      readonly command: 'migrate-recover';
      readonly arguments: { readonly to: MigrateOptions['to'] | null };
    }
  | { readonly command: 'migrate-finish'; readonly arguments: { readonly file: string } }
  | { readonly command: 'migrate-force'; readonly arguments: Record<string, never> }
  | { readonly command: 'migrate-release'; readonly arguments: Record<string, never> };

const integer = (min: number, max: number) => z.number().int().min(min).max(max);

/** As an operator could have typed it: nothing else is ever dialled. */
const address = z.strictObject({ host: z.string().max(256), port: integer(1, 65535) }).refine(
  (value) => {
    try {
      return parseAddress(formatAddress(value)).host === value.host;
    } catch (error) {
      if (error instanceof ValueError) return false;
      throw error;
    }
  },
  { message: 'not a host and port' },
);

export const MIGRATION_COMMANDS = {
  migrate: z.strictObject({
    to: address,
    method: z.enum(MIGRATION_METHODS),
    background: z.boolean(),
    bytesPerSecondMax: integer(BANDWIDTH_MIN, BANDWIDTH_MAX).nullable(),
    downtimeLimitUs: integer(DOWNTIME_LIMIT_US_MIN, DOWNTIME_LIMIT_US_MAX),
    autoConverge: z.boolean(),
    compress: z.enum(MIGRATION_COMPRESSIONS),
    recoverTimeoutUs: integer(RECOVER_TIMEOUT_US_MIN, RECOVER_TIMEOUT_US_MAX),
  }),
  'migrate-cancel': z.strictObject({}),
  'migrate-recover': z.strictObject({ to: address.nullable() }),
  'migrate-finish': z.strictObject({
    file: z
      .string()
      .max(PATH_LENGTH_MAX)
      .regex(/^\/[^\0]*$/),
  }),
  'migrate-force': z.strictObject({}),
  'migrate-release': z.strictObject({}),
} as const satisfies Record<MigrationCommand['command'], z.ZodType>;

const count = z.number().nonnegative();

const faults = z.object({ count, p50Us: count, p99Us: count }).nullable();

export const figuresSchema = z.object({
  totalMs: count,
  downtimeMs: count.nullable(),
  sentBytes: count,
  faults,
}) satisfies z.ZodType<MigrationFigures>;

export const migrationSchema = z.object({
  direction: z.enum(['outgoing', 'incoming']),
  peer: z.string(),
  method: z.enum(MIGRATION_METHODS),
  state: z.string(),
  round: count,
  doneBytes: count,
  totalBytes: count,
  sentBytes: count,
  bytesPerSecond: count,
  remainingMs: count.nullable(),
  throttlePercent: count,
  downtimeMs: count.nullable(),
  faults,
  problem: z.string().nullable(),
}) satisfies z.ZodType<MigrationStatus>;
