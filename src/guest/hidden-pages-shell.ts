/**
 * A guest that was an SVM, or has come by a migration, runs on a private mapping of its RAM file:
 * what it has written since is its own copy, and the page of the file under it is never seen again.
 * Unless these are freed, a guest needs twice its memory some time after it has taken over, on a
 * host that may not have it.
 *
 * Part by part, for as long as it lives: each is a moment's work, and what the guest writes for the
 * first time is freed within a pass.
 */
import { type Emulator, QemuError } from '../emulator/index.js';
import { describeError, type Logger } from '../lib/index.js';
import { HIDDEN_PART_BYTES, HIDDEN_PART_MS, HIDDEN_REST_MS } from './limits.js';

type Hiding = Pick<Emulator, 'ram' | 'releaseHidden' | 'exited'>;

/** The guest goes on here for good: it is not made equal to another any more. */
export function releaseHiddenPages(emulator: Hiding, log: Logger): void {
  const { sizeBytes } = emulator.ram;
  let offset = 0;
  let passBytes = 0;
  let timer: NodeJS.Timeout | undefined;
  const again = (delayMs: number): void => {
    timer = setTimeout(step, delayMs);
  };
  const step = (): void => {
    const length = Math.min(HIDDEN_PART_BYTES, sizeBytes - offset);
    try {
      const bytes = emulator.releaseHidden({ offset, length });
      if (bytes === undefined) return;
      passBytes += bytes;
    } catch (error) {
      // One that has just ended has no pages. Anything else costs memory, and not the guest.
      if (error instanceof QemuError) return;
      log.warn('Hidden pages of RAM are not freed', { reason: describeError(error) });
      return;
    }
    offset += length;
    if (offset < sizeBytes) {
      again(HIDDEN_PART_MS);
      return;
    }
    if (passBytes > 0) log.debug('Hidden pages are freed', { bytes: passBytes });
    offset = 0;
    passBytes = 0;
    again(HIDDEN_REST_MS);
  };
  void emulator.exited.then(() => clearTimeout(timer));
  again(HIDDEN_PART_MS);
}
