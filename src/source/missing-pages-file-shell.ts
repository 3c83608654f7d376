/** The file of the pages that a destination may lack when the network does not come back. */
import { join } from 'node:path';
import type { Configuration } from '../config/index.js';
import type { GuestRam } from '../emulator/index.js';
import { describeError, type Logger, PAGE_SIZE_BYTES, type PageRange } from '../lib/index.js';
import { pageBitmapOf, type SourceInput, writeBackup } from '../migration/index.js';

export interface MissingPagesFile {
  readonly configuration: Configuration;
  readonly migration: string;
  readonly ram: GuestRam;
  readonly log: Logger;
}

/** In the state directory. Never rejects: what goes wrong is for the core. */
export async function writeMissingPages(
  { configuration, migration, ram, log }: MissingPagesFile,
  ranges: readonly PageRange[],
): Promise<SourceInput> {
  const path = join(configuration.stateDir, `${configuration.vm}.${migration}.pages`);
  try {
    const missing = pageBitmapOf(ram.sizeBytes / PAGE_SIZE_BYTES, ranges);
    const migrationId = Buffer.from(migration, 'hex');
    const { bytes } = await writeBackup({ path, migrationId, ram, missing });
    log.warn('The missing pages are in a file', { path, bytes });
    return { kind: 'backupWritten', path, bytes };
  } catch (error) {
    return { kind: 'backupFailed', reason: describeError(error) };
  }
}
