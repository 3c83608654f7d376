/**
 * Keeps the RAM of a guest that has left, for the day it comes back. The migration's id names the
 * image, so that both hosts know it, and salts its digests: 16 random bytes that the guest never
 * sees.
 */
import { type KeptRamPlace, keptRamStore, roomForKeptRam } from '../guest/index.js';
import { describeError, type Logger } from '../lib/index.js';
import { monotonicUs } from '../linux/index.js';
import type { DepartedRam } from '../migration/index.js';
import { KEEP_REPORT_US } from './limits.js';

export interface KeepRamOptions {
  readonly configuration: KeptRamPlace;
  readonly log: Logger;
  /** In hexadecimal. */
  readonly migration: string;
  /** That ended with this state. */
  readonly epoch: number;
  /** Nobody writes it any more. */
  readonly ram: DepartedRam;
  /** Ends it; nothing is kept then. */
  readonly signal: AbortSignal;
}

/** Resolves when it is kept, or is not; never rejects: the guest is well where it is. */
export async function keepRam(options: KeepRamOptions): Promise<void> {
  const { configuration, log, migration, epoch, ram, signal } = options;
  const startUs = monotonicUs();
  let toldUs = startUs;
  const onProgress = (done: number, total: number): void => {
    const nowUs = monotonicUs();
    if (nowUs - toldUs < KEEP_REPORT_US) return;
    toldUs = nowUs;
    log.info("The guest's memory is being kept", { percent: Math.floor((done * 100) / total) });
  };
  try {
    const store = keptRamStore(configuration, await roomForKeptRam(configuration));
    const id = Buffer.from(migration, 'hex');
    const saved = await store.save({
      ...{ vm: configuration.vm, imageId: id, salt: id, epoch, ram, signal, onProgress },
    });
    const ms = Math.round((monotonicUs() - startUs) / 1000);
    if (saved.kept) log.info("The guest's memory is kept", { image: migration, ...saved, ms });
    else log.info("The guest's memory is not kept", { reason: saved.reason });
  } catch (error) {
    const reason = signal.aborted ? String(signal.reason) : describeError(error);
    log.warn("The guest's memory is not kept", { reason });
  }
}
