/** The output policies of a pair (`--mode`). */
export const MODES = ['checkpoint', 'colo'] as const;
export type Mode = (typeof MODES)[number];

/** Where nobody names one. */
export const DEFAULT_MODE: Mode = 'colo';

/** A default that depends on the mode, in words. */
export function perMode(values: Readonly<Record<Mode, number>>): string {
  return MODES.map((mode) => `${values[mode]} in mode ${mode}`).join(', ');
}
