/**
 * What the migration matrix goes through: guests, methods and kinds of link; then stages of a
 * precopy at which a host is killed. Pure.
 */

export const GUESTS = ['idle', 'redis', 'scribble'] as const;
/** `scribble`: writes more random bytes each second than its migration may send. */
export type GuestKind = (typeof GUESTS)[number];

export const METHODS = ['precopy', 'postcopy', 'hybrid'] as const;
export type Method = (typeof METHODS)[number];

export const SECURITIES = ['plain', 'tls'] as const;
export type Security = (typeof SECURITIES)[number];

export interface Cell {
  readonly guest: GuestKind;
  readonly method: Method;
  readonly security: Security;
}

export const CELLS: readonly Cell[] = GUESTS.flatMap((guest) =>
  METHODS.flatMap((method) => SECURITIES.map((security) => ({ guest, method, security }))),
);

/** As in `--cells` and in the table. */
export function nameOf({ guest, method, security }: Cell): string {
  return `${guest}/${method}/${security}`;
}

export const METHOD_FLAGS: Readonly<Record<Method, readonly string[]>> = {
  precopy: [],
  postcopy: ['--postcopy'],
  hybrid: ['--hybrid'],
};

export const SIDES = ['source', 'destination'] as const;
export type Side = (typeof SIDES)[number];

/**
 * Stages of a precopy, and what is there when one has begun:
 *
 * | stage     | seen by                                                                        |
 * | --------- | ------------------------------------------------------------------------------ |
 * | greeting  | the source has said what it wants; the destination launches its QEMU           |
 * | precopy   | pages are sent, the guest runs at the source                                   |
 * | switching | the guest is paused or about to be, the last pages are sent                    |
 * | loading   | all is sent; the destination checks and loads it                               |
 * | given-up  | the source has written down that the guest is not its own; `run` is being said |
 * | owns      | the destination has written down that the guest is its own, and starts it      |
 */
export const STAGES = ['greeting', 'precopy', 'switching', 'loading', 'given-up', 'owns'] as const;
export type Stage = (typeof STAGES)[number];

export interface Kill {
  readonly side: Side;
  readonly stage: Stage;
}

export const KILLS: readonly Kill[] = SIDES.flatMap((side) =>
  STAGES.map((stage) => ({ side, stage })),
);

export function nameOfKill({ side, stage }: Kill): string {
  return `${side}/${stage}`;
}
