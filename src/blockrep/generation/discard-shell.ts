/** What `colo discard-image` does: an operator gives the data of one image up, on its host. */

import { randomUUID } from 'node:crypto';
import { link } from 'node:fs/promises';
import { dirname } from 'node:path';
import { OperatorError } from '../../lib/index.js';
import { syncDirectory } from '../../linux/index.js';
import type { ImageFormat } from '../image-open-shell.js';
import { ImageFile } from '../image-shell.js';
import { beginFirst, discarded } from './record.js';
import {
  generationPath,
  identifyImage,
  readBootId,
  readRecord,
  writeRecord,
} from './record-file-shell.js';

export interface DiscardOptions {
  readonly stateDir: string;
  readonly vm: string;
  readonly disk: string;
  readonly host: string;
  readonly imagePath: string;
  /** Not given: raw. */
  readonly format?: ImageFormat;
}

export interface DiscardedImage {
  readonly recordPath: string;
  /** Where the record is that the image had; undefined if it had none. */
  readonly keptPath: string | undefined;
}

/**
 * Marks the image, so that the next synchronisation may overwrite it; nothing in it is changed.
 * Throws OperatorError while an agent has it open, or if it can't be opened.
 */
export async function discardImage(options: DiscardOptions): Promise<DiscardedImage> {
  const { stateDir, vm, disk, host, imagePath } = options;
  const image = await ImageFile.open({ path: imagePath, format: options.format });
  try {
    const { sizeBytes } = image;
    const recordPath = generationPath(stateDir, vm, disk);
    const at = new Date().toISOString();
    const identity = await identifyImage(imagePath);
    const origin = { vm, disk, sizeBytes, image: identity, bootId: await readBootId() };
    const record = await readOrNothing(recordPath, { vm, disk, sizeBytes });
    const keptPath = await keep(recordPath, at);
    const fresh = () => beginFirst(origin, { generation: randomUUID(), host, at });
    await writeRecord(recordPath, discarded(record ?? fresh()));
    return { recordPath, keptPath };
  } finally {
    await image.close();
  }
}

/** A damaged record is one of the things that this command is for. */
async function readOrNothing(path: string, owner: Parameters<typeof readRecord>[1]) {
  try {
    return await readRecord(path, owner);
  } catch (error) {
    if (error instanceof OperatorError) return undefined;
    throw error;
  }
}

async function keep(path: string, at: string): Promise<string | undefined> {
  const kept = `${path}.discarded-${at.replaceAll(/[:.]/g, '-')}`;
  try {
    await link(path, kept);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  await syncDirectory(dirname(path));
  return kept;
}
