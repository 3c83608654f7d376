/**
 * What outlives the process of a migration that has come to the point where only one host may have
 * the guest: one small file in the state directory. A host that has given its guest up never boots
 * it by itself.
 */
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { OperatorError } from '../lib/index.js';
import { writeDurably } from '../linux/index.js';

/** `moving`: at a source that has not given the guest up: nobody else can have it. */
const WHATS = [
  'moving',
  'given-up',
  'taken-back',
  'released',
  'taking',
  'owns',
  'discarded',
] as const;
export type MigrationFact = (typeof WHATS)[number];

const schema = z.strictObject({
  migration: z.string().regex(/^[0-9a-f]{32}$/),
  what: z.enum(WHATS),
  /** Before this migration came here, an earlier one had taken the guest away. */
  departed: z.boolean().optional(),
});

export type MigrationRecord = z.infer<typeof schema>;

/** Where the record of a VM is. */
interface Place {
  readonly stateDir: string;
  readonly vm: string;
}

/** Undefined: no migration has come so far. Throws OperatorError for a file that is none. */
export async function readMigrationRecord(place: Place): Promise<MigrationRecord | undefined> {
  let text: string;
  try {
    text = await readFile(pathOf(place), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  const parsed = schema.safeParse(fromJson(text));
  if (parsed.success) return parsed.data;
  throw new OperatorError(
    'COLO_E_MIGRATION_RECORD',
    `${pathOf(place)} is no record of a migration; remove it once you know which host has the guest`,
  );
}

/** The guest was moved away from here, or nobody knows whether it was, and it has not come back. */
export function hasDeparted(record: MigrationRecord | undefined): boolean {
  const what = record?.what;
  return what === 'given-up' || what === 'released' || record?.departed === true;
}

/** Durable when it resolves. */
export async function writeMigrationRecord(
  place: Place,
  migration: string,
  what: MigrationFact,
): Promise<void> {
  // A guest that was to come back and did not is still elsewhere.
  const comes = what === 'taking' || what === 'discarded';
  const departed = comes && hasDeparted(await readMigrationRecord(place));
  const record: MigrationRecord = { migration, what, ...(departed ? { departed } : {}) };
  await writeDurably(pathOf(place), `${JSON.stringify(record)}\n`);
}

/** The guest is this host's like any other from now on. */
export function removeMigrationRecord(place: Place): Promise<void> {
  return rm(pathOf(place), { force: true });
}

function pathOf({ stateDir, vm }: Place): string {
  return join(stateDir, `${vm}.migration`);
}

function fromJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}
