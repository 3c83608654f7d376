/**
 * `colo verify` of one disk in one session: passes at the edges of epochs until every cluster was
 * compared; then, if asked for, what differs is marked to be sent, and all is compared once more.
 */
import {
  type DigestAnswer,
  DiskVerifier,
  type ReplicatedDisk,
  type ResyncLink,
  type VerifyResult,
} from '../../blockrep/index.js';

/** What came of it. */
export interface VerifyReport {
  readonly found: VerifyResult;
  /** Sent once more, bytes. */
  readonly repairedBytes: number;
  /** The comparison after a repair. */
  readonly afterwards: VerifyResult | undefined;
}

/** How far it is. */
export interface VerifyProgress {
  readonly disk: number;
  /** Clusters of 64 KiB: with a verdict by the end of the last pass, and all. */
  readonly compared: number;
  readonly clusters: number;
  readonly differing: number;
  readonly repairing: boolean;
}

export interface VerificationOptions {
  readonly index: number;
  readonly disk: ReplicatedDisk;
  readonly link: ResyncLink;
  readonly repair: boolean;
}

export class DiskVerification {
  /** Rejects when the session ends or a disk fails. */
  readonly done: Promise<VerifyReport>;
  readonly #options: VerificationOptions;
  #verifier: DiskVerifier;
  #found: VerifyResult | undefined;
  #repairedBytes = 0;
  #running = false;
  #resolve: (report: VerifyReport) => void = () => undefined;
  #reject: (error: unknown) => void = () => undefined;

  constructor(options: VerificationOptions) {
    this.#options = options;
    this.#verifier = new DiskVerifier(options);
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  get progress(): VerifyProgress {
    const { clusters, differing, notCompared } = this.#verifier.result;
    const compared = clusters - notCompared;
    const repairing = this.#found !== undefined;
    return { disk: this.#options.index, compared, clusters, differing, repairing };
  }

  /** `epoch` ends now: the guest is paused, and the epoch's last message was sent. */
  atEdge(epoch: number): void {
    // A repair that is not all on its way would be found as differences again.
    if (this.#running || this.#options.disk.dirtyBytes > 0) return;
    this.#running = true;
    const verifier = this.#verifier;
    verifier.beginPass(epoch);
    // The search for holes is not the pause's business: what is written by then is left out.
    setImmediate(() => {
      verifier.run().then(
        () => this.#passed(),
        (error) => this.#reject(error),
      );
    });
  }

  /** Throws ProtocolError when nobody asked for it. */
  onMessage(answer: DigestAnswer): void {
    this.#verifier.onMessage(answer);
  }

  /** The session is over. */
  fail(error: Error): void {
    this.#verifier.fail(error);
    this.#reject(error);
  }

  #passed(): void {
    this.#running = false;
    if (this.#verifier.wantsPass) return;
    const { result } = this.#verifier;
    const found = this.#found;
    if (found !== undefined) {
      this.#resolve({ found, repairedBytes: this.#repairedBytes, afterwards: result });
      return;
    }
    if (!this.#options.repair || result.differing === 0) {
      this.#resolve({ found: result, repairedBytes: 0, afterwards: undefined });
      return;
    }
    this.#found = result;
    this.#repairedBytes = this.#verifier.repair();
    this.#verifier = new DiskVerifier(this.#options);
  }
}
