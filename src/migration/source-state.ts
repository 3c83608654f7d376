/** Inputs, outputs, states and options of the source's core (source-core.ts). */
import type { PageRange } from '../lib/index.js';
import type { DestinationSection, HelloSection, SourceSection } from './messages.js';

/** What the core hears: demands are the fault lane's (fault-lane.ts). */
export type PlainDestinationSection = Exclude<DestinationSection, { kind: 'demand' }>;

export type SourceInput =
  | { readonly kind: 'tick' }
  /** The first input: answered by `connect`. */
  | { readonly kind: 'start' }
  /** Answer to `connect`. The shell numbers sessions, ascending; of an old one nothing counts. */
  | { readonly kind: 'connected'; readonly session: number }
  | { readonly kind: 'connectFailed'; readonly reason: string }
  /** Also for a malformed section. */
  | { readonly kind: 'sessionLost'; readonly session: number; readonly reason: string }
  | {
      readonly kind: 'section';
      readonly session: number;
      readonly section: PlainDestinationSection;
    }
  /** Answer to `startTracking`: writes are noticed from now on. `ranges`: every page ever touched. */
  | { readonly kind: 'trackingStarted'; readonly ranges: readonly PageRange[] }
  /** Answer to `scan`: the pages written since the last one; ascending. */
  | { readonly kind: 'scanned'; readonly ranges: readonly PageRange[] }
  /** Answer to `compareImage`: these pages are equal in the destination's image. */
  | { readonly kind: 'imageCompared'; readonly same: readonly PageRange[] }
  /** Answer to `sendPages`: coded and on the link. `crc`: CRC-32C of the coded batch. */
  | {
      readonly kind: 'pagesSent';
      readonly session: number;
      readonly sequence: number;
      readonly bytes: number;
      readonly crc: number;
    }
  | { readonly kind: 'paused' }
  /** Answer to `captureDevices`. `ramDigest` in a `--verify` run. */
  | {
      readonly kind: 'devicesCaptured';
      readonly bytes: Buffer;
      readonly ramDigest: number | undefined;
    }
  /**
   * Answer to `settleDisks`: every write of the moved disks is on its link, flushed, marked; those
   * of the shared ones are durable.
   */
  | { readonly kind: 'disksSettled' }
  /** After `startTracking`: of the disks no more is to come than a pause may wait for. */
  | { readonly kind: 'disksReady' }
  /** Answer to `giveUp`. */
  | { readonly kind: 'gaveUp' }
  | { readonly kind: 'backupWritten'; readonly path: string; readonly bytes: number }
  | { readonly kind: 'backupFailed'; readonly reason: string }
  /** A scan, pause, capture, giving up or encoding went wrong here. */
  | { readonly kind: 'broken'; readonly reason: string }
  /** The guest is gone: powered off, or QEMU died. */
  | { readonly kind: 'guestGone'; readonly reason: string }
  | { readonly kind: 'operatorCancel' }
  /** Switch over now and send the rest afterwards; only where the hello said postcopy or hybrid. */
  | { readonly kind: 'operatorPostcopy' }
  | { readonly kind: 'operatorRecover'; readonly address: string | undefined }
  /** The destination is known to be silent, by an operator or a witness: go on here. */
  | { readonly kind: 'operatorForce'; readonly by: string }
  /** The guest lives at the destination (it was finished from the file), or is given up. */
  | { readonly kind: 'operatorRelease' }
  /** Undefined: unlimited. */
  | {
      readonly kind: 'adjust';
      readonly maxBandwidth?: number | undefined;
      readonly downtimeLimitUs?: number;
    };

export type SourceOutput =
  /** Undefined: where the destination was last. Answer with `connected` or `connectFailed`. */
  | { readonly kind: 'connect'; readonly address: string | undefined }
  /** Once what was put is sent, within a short while; answered by nothing. */
  | { readonly kind: 'closeSession'; readonly session: number; readonly reason: string }
  /** In order with `sendPages` on the link of the section (`LINK_OF`). */
  | { readonly kind: 'put'; readonly session: number; readonly section: SourceSection }
  | { readonly kind: 'startTracking' }
  /** What was written since the last scan, or since `trackingStarted`; never misses a write. */
  | { readonly kind: 'scan' }
  /** A section of digests came: compare these pages with RAM; the last one is to be answered. */
  | { readonly kind: 'compareImage'; readonly bytes: Buffer; readonly last: boolean }
  /** The destination's image is one of which this host knows what changed since. To be answered. */
  | { readonly kind: 'compareKnownImage'; readonly image: string }
  /** Code these pages as they are now and put them on their link, in the order of outputs. */
  | {
      readonly kind: 'sendPages';
      readonly session: number;
      readonly sequence: number;
      readonly ranges: readonly PageRange[];
    }
  /** Slow the guest down to `100 - percent` of its time; 0 lifts it. */
  | { readonly kind: 'throttle'; readonly percent: number }
  | { readonly kind: 'pause' }
  | { readonly kind: 'captureDevices' }
  | { readonly kind: 'settleDisks' }
  /**
   * Write down `given-up` while the guest still runs here; answered by `gaveUp` when it is durable.
   * A `record` takes it back. `run`, which may follow, is said once this side is silent.
   */
  | { readonly kind: 'giveUp' }
  /** Undo `pause`: the guest runs here again. */
  | { readonly kind: 'resumeGuest' }
  /** Durable before the next output. `given-up`: never run this guest without an operator. */
  | { readonly kind: 'record'; readonly what: SourceRecord }
  /** The pages that the destination has not confirmed. Answer with `backupWritten` or `-Failed`. */
  | { readonly kind: 'writeBackup'; readonly ranges: readonly PageRange[] }
  /** The destination has the guest: stop QEMU, free its memory, drop the role. */
  | { readonly kind: 'release' }
  | { readonly kind: 'alarm'; readonly message: string }
  | { readonly kind: 'commandRefused'; readonly command: string; readonly reason: string }
  /** The last output: dirty tracking ends, and pages that are not coded yet are forgotten. */
  | { readonly kind: 'ended'; readonly outcome: SourceOutcome };

export type SourceRecord = 'moving' | 'given-up' | 'taken-back' | 'released';

/**
 * - `moved`: the destination has the guest. - `kept`: the guest runs on here, for `reason`.
 * - `gone`: the guest does not exist any more.
 */
export type SourceOutcome =
  | { readonly kind: 'moved' }
  | {
      readonly kind: 'kept';
      readonly cause: 'cancelled' | 'refused' | 'failed';
      readonly reason: string;
    }
  | { readonly kind: 'gone'; readonly reason: string };

/** For status and a progress bar. */
export interface SourceProgress {
  readonly state: SourceState;
  readonly elapsedUs: number;
  readonly rounds: number;
  readonly pagesSent: number;
  readonly bytesSent: number;
  /** Of this round, or of postcopy: not on their way yet. */
  readonly pagesLeft: number;
  readonly demandedPages: number;
  /** Bytes each second; undefined before it is known. */
  readonly rate: number | undefined;
  /** Pages that the guest writes each second. */
  readonly dirtyRate: number;
  /** Percent of its time that the guest loses. */
  readonly throttle: number;
  /** The last rounds brought it no nearer to the downtime limit. */
  readonly stale: boolean;
  readonly downtimeEstimateUs: number | undefined;
  /** Until `pagesLeft` are sent. */
  readonly leftUs: number | undefined;
  readonly pausedAtUs: number | undefined;
}

export interface SourceOptions {
  readonly hello: HelloSection;
  /** Kept images of which this host knows what has changed since it left them. */
  readonly knownImages: readonly string[];
  /** Bytes each second; undefined: as much as the link takes. */
  readonly maxBandwidth: number | undefined;
  readonly downtimeLimitUs: number;
  readonly autoConverge: boolean;
  /** What precopy does when it does not get below the downtime limit. */
  readonly onNoConvergence: 'keep-going' | 'give-up' | 'postcopy';
  /** From the loss of the session until the backup file. */
  readonly recoverTimeoutUs: number;
  /** Nothing heard for so long in a session that owes an answer: it is taken for lost. */
  readonly silenceTimeoutUs: number;
  /** The guest writes to a disk, moved or shared: `settleDisks` is asked. */
  readonly settlesDisks: boolean;
  /** Some disk's content is sent. */
  readonly movesDisks: boolean;
}

/** `run` is sent: the guest is the destination's, and this side only helps. */
export interface HandedOver {
  readonly kind: 'handedOver';
  readonly postcopy: boolean;
  /**
   * - `asking`: `run` is sent and not answered. - `resuming`: `resume` is sent and not answered.
   * - `sending`: it runs there. - `lost`: no session. - `stuck`: an answer that needs an operator.
   */
  readonly link: 'asking' | 'resuming' | 'sending' | 'lost' | 'stuck';
  /** `running` was heard, in this or an earlier session. */
  readonly confirmed: boolean;
  /** Since the session was lost; undefined with one. */
  readonly lostAtUs: number | undefined;
  readonly backup: 'none' | 'writing' | 'written' | 'failed';
}

export type SourceState =
  | { readonly kind: 'idle' }
  /** Connects, says hello, waits for `accepted`; then for `trackingStarted`. */
  | { readonly kind: 'greeting'; readonly accepted: boolean }
  /** The destination's image is compared; `owed`: digests are still to come. */
  | { readonly kind: 'comparing'; readonly owed: boolean }
  | { readonly kind: 'precopy'; readonly round: number; readonly scanning: boolean }
  /** `pause` is asked; then the last scan, the devices and the disks, all at once. */
  | { readonly kind: 'switching'; readonly postcopy: boolean; readonly paused: boolean }
  /** `switchover` is sent; waits for `loaded`, and for the disks. */
  | { readonly kind: 'loading'; readonly postcopy: boolean; readonly loaded: boolean }
  | HandedOver
  | { readonly kind: 'ended'; readonly outcome: SourceOutcome };
