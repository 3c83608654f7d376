/** What one seed draws: the guest, the link, the migration, the faults. */
import { PAGE_SIZE_BYTES, type Prng } from '../../../src/lib/index.js';
import type { MigrationMode } from '../../../src/migration/index.js';

/**
 * Rules that a run can be made to break, each by a shell that does not do what the core says.
 * - `resume-after-run`: a source that loses the session after `run` goes on by itself.
 * - `run-unasked`: a destination runs as soon as the guest is loaded.
 * - `overwrite`: pages are placed over those that are there.
 * - `lose-write`: a scan misses a page now and then.
 * - `early-release`: the source frees the guest's RAM with `run`.
 * - `forget-missing`: the destination's list of missing pages is not sent whole.
 * - `no-record`: the destination does not write down that the guest is its own.
 * - `speak-early`: what the guest says leaves the destination before that is written down.
 * - `resume-unrecorded`: a source that takes the guest back does not write that down.
 * - `run-unrecorded`: `run` is said before it is written down that it may be.
 * - `disk-kept-open`: `run` is said before the source has closed its shared disk.
 */
export const BREAKAGES = [
  ...(['resume-after-run', 'run-unasked', 'overwrite', 'lose-write', 'early-release'] as const),
  ...(['forget-missing', 'no-record', 'speak-early', 'resume-unrecorded'] as const),
  ...(['run-unrecorded', 'disk-kept-open'] as const),
];
export type Breakage = (typeof BREAKAGES)[number];

export const FAULTS = ['cut', 'kill-source', 'kill-destination', 'cancel', 'stall'] as const;
export type Fault = (typeof FAULTS)[number];

export interface MigrationSimOptions {
  readonly mode: MigrationMode;
  readonly background: boolean;
  readonly pages: number;
  /** Pages that had content before. */
  readonly touched: number;
  /** Microseconds between two writes of the guest, and among how many pages. */
  readonly writeUs: number;
  readonly hotPages: number;
  readonly latencyUs: number;
  readonly bytesPerUs: number;
  readonly maxBandwidth: number | undefined;
  readonly autoConverge: boolean;
  readonly onNoConvergence: 'keep-going' | 'give-up' | 'postcopy';
  readonly movesDisks: boolean;
  /** Some are of both hosts: to be open at one of them only, and written where the guest is. */
  readonly sharesDisks: boolean;
  readonly image: 'none' | 'unknown' | 'known';
  /** The source sends more pages than it was asked for. */
  readonly chatty: boolean;
  readonly refuses: boolean;
  readonly faults: readonly { readonly kind: Fault; readonly atUs: number; readonly us: number }[];
  /** The network does not come back after its last cut. */
  readonly networkLost: boolean;
  /** The destination dies so long after it was told to start the guest. */
  readonly killStartingUs: number | undefined;
  /** Operator commands, twice each: most come at a bad time. */
  readonly commands: readonly { readonly command: Command; readonly atUs: number }[];
}

export const COMMANDS = ['postcopy', 'recover', 'release', 'force', 'adjust'] as const;
export type Command = (typeof COMMANDS)[number];

export function drawOptions(random: Prng): MigrationSimOptions {
  const pages = random.pick([64, 300, 1000]);
  const touched = random.nextInt(1, pages);
  const bytesPerUs = random.pick([2, 10, 100]);
  const transferUs = (touched * PAGE_SIZE_BYTES) / bytesPerUs;
  const spanUs = 100_000 + 3 * transferUs;
  const faults = [];
  for (const kind of FAULTS) {
    if (!random.chance(kind === 'cut' ? 0.6 : 0.15)) continue;
    const count = kind === 'cut' ? random.nextInt(1, 4) : 1;
    for (let i = 0; i < count; i += 1) {
      const us = random.pick([1000, 200_000, 3_000_000, 20_000_000]);
      faults.push({ kind, atUs: random.nextInt(0, Math.round(spanUs)), us });
    }
  }
  const commands = [];
  for (const command of COMMANDS) {
    if (!random.chance(0.25)) continue;
    commands.push({ command, atUs: random.nextInt(0, Math.round(spanUs)) });
  }
  return {
    mode: random.pick(['precopy', 'postcopy', 'hybrid']),
    background: random.chance(0.85),
    pages,
    touched,
    writeUs: random.pick([100, 500, 5000]),
    hotPages: random.nextInt(1, touched),
    latencyUs: random.pick([50, 500, 10_000]),
    bytesPerUs,
    maxBandwidth: random.chance(0.3) ? random.pick([1_000_000, 20_000_000]) : undefined,
    autoConverge: random.chance(0.5),
    onNoConvergence: random.pick(['keep-going', 'give-up', 'postcopy']),
    movesDisks: random.chance(0.5),
    sharesDisks: random.chance(0.5),
    image: random.pick(['none', 'none', 'unknown', 'known']),
    chatty: random.chance(0.3),
    refuses: random.chance(0.03),
    faults,
    networkLost: random.chance(0.2),
    commands,
    killStartingUs: random.chance(0.1) ? random.nextInt(0, 40_000) : undefined,
  };
}
