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

const WHATS = ['given-up', 'taken-back', 'released', 'taking', 'owns', 'discarded'] as const;
export type MigrationFact = (typeof WHATS)[number];

const schema = z.strictObject({
  migration: z.string().regex(/^[0-9a-f]{32}$/),
  what: z.enum(WHATS),
});

/** Where the record of a VM is. */
interface Place {
  readonly stateDir: string;
  readonly vm: string;
}

/** Undefined: no migration has come so far. Throws OperatorError for a file that is none. */
export async function readMigrationRecord(
  place: Place,
): Promise<{ readonly migration: string; readonly what: MigrationFact } | undefined> {
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

/** Durable when it resolves. */
export function writeMigrationRecord(
  place: Place,
  migration: string,
  what: MigrationFact,
): Promise<void> {
  return writeDurably(pathOf(place), `${JSON.stringify({ migration, what })}\n`);
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
