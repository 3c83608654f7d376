/** Inputs, outputs, states and options of the destination's core (destination-core.ts). */
import type { PageRange } from '../lib/index.js';
import type {
  DestinationSection,
  Difference,
  HelloSection,
  ImageId,
  SourceSection,
} from './messages.js';

/** Sections that the shell hands over decoded further: see `batch`. */
export type PlainSourceSection = Exclude<SourceSection, { kind: 'pages' | 'demanded' }>;

export type DestinationInput =
  | { readonly kind: 'tick' }
  /** Also for a malformed section or batch. */
  | { readonly kind: 'sessionLost'; readonly session: number; readonly reason: string }
  /**
   * The shell numbers sessions. A session becomes this migration's with its first section: the
   * `hello`, or a `resume` that names it, which takes the place of the session before.
   */
  | {
      readonly kind: 'section';
      readonly session: number;
      readonly section: PlainSourceSection;
    }
  /** A `pages` section whose batch is decoded and checked. `ranges`: ascending. */
  | {
      readonly kind: 'batch';
      readonly session: number;
      readonly sequence: number;
      readonly ranges: readonly PageRange[];
      /** As it came: coded bytes and their CRC-32C. */
      readonly batch: Buffer;
      readonly crc: number;
    }
  /** Answer to `prepare`: QEMU is there, paused. `image`: loaded into its RAM. */
  | {
      readonly kind: 'prepared';
      readonly host: string;
      readonly qemuVersion: string;
      readonly image: ImageId | undefined;
      readonly verdictsJson: string;
    }
  /** Answer to `prepare`. */
  | { readonly kind: 'unable'; readonly differences: readonly Difference[] }
  /** Answer to `readDigests`, in order. */
  | { readonly kind: 'digests'; readonly bytes: Buffer; readonly last: boolean }
  /** Answer to `apply`: the pages are in the guest's RAM. */
  | {
      readonly kind: 'applied';
      readonly session: number;
      readonly sequence: number;
    }
  /** All writes of the moved disks up to the source's mark are here, and can be committed. */
  | { readonly kind: 'disksStaged' }
  /** Answer to `load`. */
  | { readonly kind: 'guestLoaded' }
  /** Answer to `start`: vCPUs run. */
  | { readonly kind: 'guestRuns' }
  /** Answer to `speak`: disks are this host's, TAPs open. */
  | { readonly kind: 'guestSpeaks' }
  /** Something of the above went wrong. `ran`: the guest may have run, and been heard. */
  | { readonly kind: 'broken'; readonly reason: string; readonly ran: boolean }
  /** Postcopy: vCPUs or devices wait for these pages, which the fault lane has asked for. */
  | { readonly kind: 'fault'; readonly offsets: readonly number[] }
  /** These pages came by the fault lane and are in RAM. `waitsUs`: of those that wait no more. */
  | {
      readonly kind: 'placed';
      readonly ranges: readonly PageRange[];
      readonly waitsUs: readonly number[];
    }
  /** Answer to `applyBackup`. `ranges`: what was placed. */
  | { readonly kind: 'backupApplied'; readonly ranges: readonly PageRange[] }
  | { readonly kind: 'backupRefused'; readonly reason: string }
  | { readonly kind: 'guestGone'; readonly reason: string }
  /** The guest powered itself off: it needs nothing any more, and nobody is to run it again. */
  | { readonly kind: 'poweredOff'; readonly reason: string }
  | { readonly kind: 'operatorCancel' }
  /** The source is known to be silent (by an operator or a witness): run what is loaded. */
  | { readonly kind: 'operatorForce'; readonly by: string }
  | { readonly kind: 'operatorFinish'; readonly path: string };

export type DestinationOutput =
  | { readonly kind: 'put'; readonly session: number; readonly section: DestinationSection }
  | { readonly kind: 'closeSession'; readonly session: number; readonly reason: string }
  /** Compare with what this host has; launch QEMU paused, ready for postcopy where asked. */
  | { readonly kind: 'prepare'; readonly hello: HelloSection }
  | { readonly kind: 'readDigests'; readonly image: ImageId }
  /**
   * Put these pages of the batch, and no other, into the guest's RAM. `place`: by userfaultfd, for
   * a guest that may run, where a page that is there already stays as it is; otherwise by writing.
   * In order. `ranges` may be empty; it is answered all the same.
   */
  | {
      readonly kind: 'apply';
      readonly session: number;
      readonly sequence: number;
      readonly batch: Buffer;
      readonly ranges: readonly PageRange[];
      readonly place: boolean;
    }
  /** These pages are to come: make them absent, so that a touch of them is a `fault`. */
  | { readonly kind: 'expectPages'; readonly ranges: readonly PageRange[] }
  /**
   * Load the devices; the guest stays paused. RAM is checked by `ramDigest`, where there is one:
   * before it, and where pages are expected when all of them are here.
   */
  | { readonly kind: 'load'; readonly deviceState: Buffer; readonly ramDigest: number | undefined }
  /** Durable before the next output; may be begun beside those before it. */
  | { readonly kind: 'record'; readonly what: DestinationRecord }
  /**
   * Commit the disks in memory and run. What the guest says is held, and its flushes are not
   * answered: a crash may undo all that it does until `speak`. Answer `guestRuns`.
   */
  | { readonly kind: 'start' }
  /** Make the disks this host's, open the TAPs, tell the neighbours. Answer `guestSpeaks`. */
  | { readonly kind: 'speak' }
  /** Every page is there: userfaultfd can go. */
  | { readonly kind: 'allPagesHere' }
  /** Place the file's pages within `missing`, as `apply` does. Answer `backupApplied` or `backupRefused`. */
  | { readonly kind: 'applyBackup'; readonly path: string; readonly missing: readonly PageRange[] }
  /** Kill QEMU, forget RAM and staged disks. */
  | { readonly kind: 'discard'; readonly reason: string }
  | { readonly kind: 'alarm'; readonly message: string }
  | { readonly kind: 'commandRefused'; readonly command: string; readonly reason: string }
  /** The session stays until the source closes it, within a short while. */
  | { readonly kind: 'ended'; readonly outcome: DestinationOutcome };

/**
 * What outlives the process, next to the migration's id. `taking`: the guest has never run here.
 * `owns`: it may have. `discarded`: it has not and never will.
 */
export type DestinationRecord = 'taking' | 'owns' | 'discarded';

/**
 * - `completed`: the guest runs here and lacks nothing. The core still answers a `resume`.
 * - `discarded`: it never ran here. - `lost`: it ran here and does not any more.
 * - `poweredOff`: it ran here to its own end. The core still answers a `resume`.
 */
export type DestinationOutcome =
  | { readonly kind: 'completed' }
  | { readonly kind: 'discarded'; readonly reason: string }
  | { readonly kind: 'lost'; readonly reason: string }
  | { readonly kind: 'poweredOff'; readonly reason: string };

export interface DestinationOptions {
  /** A session that owes something and is silent for so long is taken for lost. */
  readonly silenceTimeoutUs: number;
  /** From the loss of the session until an operator is called. */
  readonly recoverTimeoutUs: number;
  /** What an earlier process of this host wrote down, for answering a `resume`. */
  readonly recorded: { readonly migration: string; readonly what: DestinationRecord } | undefined;
}

export type DestinationState =
  | { readonly kind: 'waiting' }
  | { readonly kind: 'preparing'; readonly hello: HelloSection }
  /** Pages come. */
  | { readonly kind: 'receiving'; readonly hello: HelloSection }
  /** All that `switchover` names is here, but perhaps disks that are still stored; `load` is asked. */
  | { readonly kind: 'loading'; readonly hello: HelloSection; readonly postcopy: boolean }
  /** Waits for `run`, with or without a session: it may have been sent. */
  | {
      readonly kind: 'loaded';
      readonly hello: HelloSection;
      readonly postcopy: boolean;
      readonly lostAtUs: number | undefined;
    }
  /** `run` was received: the guest is ours. It may run, and is not heard. */
  | {
      readonly kind: 'starting';
      readonly hello: HelloSection;
      readonly postcopy: boolean;
      readonly runAtUs: number;
    }
  /** Runs, and pages are missing. */
  | {
      readonly kind: 'running';
      readonly hello: HelloSection;
      readonly lostAtUs: number | undefined;
    }
  | { readonly kind: 'ended'; readonly migration: string; readonly outcome: DestinationOutcome };
