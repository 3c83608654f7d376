/** What a source brings together while its guest is paused. */
import { crc32c, type PageRange } from '../lib/index.js';
import { DEVICE_STATE_PIECE_BYTES, IMAGE_LOAD_RATE } from './limits.js';
import type { HelloSection, SourceSection, SwitchoverSection } from './messages.js';
import { pieces } from './section-codecs.js';

export interface Collected {
  /** The last scan is in. */
  readonly scanned: boolean;
  readonly devices: Buffer | undefined;
  readonly ramDigest: number | undefined;
  /** They hold all that the guest has written; what is sent does not wait for that. */
  readonly disks: boolean;
}

export const NOTHING_COLLECTED: Collected = {
  scanned: false,
  devices: undefined,
  ramDigest: undefined,
  disks: false,
};

/** Of a device state, as `switchover` has it. */
export function deviceDigest(bytes: Buffer): number {
  return crc32c(bytes);
}

/** What the destination gets of a paused guest, in this order; `unsent` only with postcopy. */
export function switchoverSections(
  unsent: readonly PageRange[],
  devices: Buffer,
  facts: Omit<SwitchoverSection, 'kind' | 'deviceStateBytes' | 'deviceStateDigest'>,
): SourceSection[] {
  const pending = facts.postcopy ? pieces(unsent) : [];
  const sections: SourceSection[] = pending.map((ranges) => ({ kind: 'pending', ranges }));
  for (let at = 0; at < devices.length; at += DEVICE_STATE_PIECE_BYTES) {
    const bytes = devices.subarray(at, at + DEVICE_STATE_PIECE_BYTES);
    sections.push({ kind: 'deviceState', bytes });
  }
  const [deviceStateBytes, deviceStateDigest] = [devices.length, deviceDigest(devices)];
  return [...sections, { kind: 'switchover', ...facts, deviceStateBytes, deviceStateDigest }];
}

/** How long a destination may take to load what it has kept of the guest, microseconds. */
export function imageLoadUs({ choices, ramSizeBytes }: HelloSection): number {
  return choices.assisted ? Math.ceil((ramSizeBytes * 1_000_000) / IMAGE_LOAD_RATE) : 0;
}

export function notConverging(estimateUs: number, limitUs: number): string {
  const ms = (us: number): number => Math.round(us / 1000);
  return (
    'The guest writes faster than its memory can be sent: ' +
    `the downtime would be ${ms(estimateUs)} ms, ${ms(limitUs)} ms are allowed`
  );
}
