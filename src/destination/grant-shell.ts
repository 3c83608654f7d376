/** The right to speak, of a guest that has been handed over. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Speech } from '../guest/index.js';
import type { Logger } from '../lib/index.js';
import { monotonicUs } from '../linux/index.js';
import type { SpeechOffer } from '../replication/index.js';
import { GRANT_PAUSE_MS, GRANT_WARNING_MS } from './limits.js';

/**
 * The source has left: the witness gives the right to whoever asks. Resolves when this host has it,
 * or `isStopping`; at once without a witness.
 */
export async function waitForGrant(
  speech: Speech | undefined,
  parts: { offer: SpeechOffer | null; log: Logger; isStopping: () => boolean },
): Promise<void> {
  const { offer, log, isStopping } = parts;
  if (speech === undefined || offer === null) return;
  speech.arrived(offer);
  const sinceUs = monotonicUs();
  let warned = false;
  while (!speech.isAlone && !isStopping()) {
    if (!warned && monotonicUs() - sinceUs > GRANT_WARNING_MS * 1000) {
      warned = true;
      log.error('The guest waits: the witness does not let it speak here');
    }
    await delay(GRANT_PAUSE_MS);
  }
}
