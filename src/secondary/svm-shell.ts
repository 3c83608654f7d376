/** The SVM, launched from what the primary's hello says. It starts paused and silent. */
import type { Configuration } from '../config/index.js';
import { StagingArea } from '../emulator/index.js';
import { type ReceivedGuest, type ReceiveOptions, receiveGuest } from '../guest/index.js';
import type { Hello } from '../replication/index.js';

/** A launched SVM. */
export interface Svm extends ReceivedGuest {
  /** Where the PVM's pages wait until their checkpoint is complete. */
  readonly staging: StagingArea;
}

/** Throws as `receiveGuest` does. */
export async function startSvm(
  configuration: Configuration,
  hello: Hello,
  parts: Pick<ReceiveOptions, 'log' | 'lease'>,
): Promise<Svm> {
  const received = await receiveGuest(configuration, hello, { ...parts, role: 'standby' });
  return { ...received, staging: new StagingArea(received.guest.emulator.ram.sizeBytes) };
}
