/**
 * The guest's network inside its thread: the NICs, made once, and the role that works on them. The
 * roles take turns on the same NICs:
 *
 *     live      a guest that boots here: source from the beginning, its output passes
 *     not live  target: silent, until `promote` makes it a source whose output passes
 *
 * A source is attached to a session, as often as there is one: from then on it mirrors, holds and
 * compares. What was translated before a failover is translated for the life of each connection,
 * between the LAN and everything else (`Nic.rewriteInbound`, `Nic.rewriteOutbound`): mirror,
 * comparison and gate know the guest's own numbers only, which a checkpoint makes the SVM's, too.
 */
import { type LeaseMemory, OutputLease } from '../../failover/index.js';
import { assert, type Logger } from '../../lib/index.js';
import { type GuestPortFds, OutputDeadline } from '../../linux/index.js';
import { FlowRewriter, Nic, VNET_HEADER_BYTES } from '../../proxy/index.js';
import type { GuestNic, NetworkLink, NicPlace } from './guest-nic.js';
import { QUIESCE_TIMEOUT_MS } from './limits.js';
import { type NetworkStats, NO_COMPARISON } from './network-stats.js';
import { type CompareReason, SourceRole } from './source-role-shell.js';
import { TargetRole } from './target-role-shell.js';

export interface NetworkOptions {
  readonly nics: readonly NicPlace[];
  /** So long a frame waits for the other guest before a checkpoint is asked for. */
  readonly compareTimeoutUs: number;
  /** The guest boots here and speaks at once; else it is made equal to another, and silent. */
  readonly live: boolean;
  /** The right to speak; undefined: it has no end. */
  readonly lease?: LeaseMemory | undefined;
  readonly log: Logger;
  /** A checkpoint is needed; `epoch` is the one in which the guests were compared. */
  readonly onCheckpointNeeded: (reason: CompareReason, epoch: number) => void;
}

/** No session has labelled what is held before the first one. */
const FIRST_EPOCH = 0;

/** What this guest is in a session; `epoch`: the running one. */
export type SessionRole =
  | { readonly role: 'source'; readonly epoch: number }
  | { readonly role: 'target' };

export class Network {
  readonly #options: NetworkOptions;
  readonly #nics: readonly GuestNic[];
  #source: SourceRole | undefined;
  #target: TargetRole | undefined;

  constructor(options: NetworkOptions) {
    this.#options = options;
    const { log, lease: memory } = options;
    const lease = memory && new OutputLease(memory);
    const deadlineFd = memory?.deadlineFd;
    const deadline = deadlineFd === undefined ? undefined : OutputDeadline.ofFd(deadlineFd);
    this.#nics = options.nics.map((place, index) => ({
      index,
      nic: new Nic({ index, ...place, ...(lease && { lease }), deadline, log }),
      rewriter: new FlowRewriter({ vnetBytes: VNET_HEADER_BYTES }),
    }));
    if (!options.live) this.#target = new TargetRole(this.#nics, log);
  }

  /** Creates TAPs and QEMU's ends; resolves to the latter. Live, output passes from then on. */
  async start(): Promise<GuestPortFds[]> {
    for (const { nic } of this.#nics) await nic.start();
    if (this.#options.live) this.#becomeSource({ translates: false, held: false });
    return this.#nics.map(({ nic }) => nic.qemuFds);
  }

  /** QEMU has inherited its ends. */
  closeQemuFds(): void {
    for (const { nic } of this.#nics) nic.closeQemuFds();
  }

  stop(): void {
    this.#source?.stop();
    for (const { nic } of this.#nics) nic.stop();
  }

  get stats(): NetworkStats {
    const source = this.#source;
    return {
      nics: this.#nics.map(({ nic, index }) => {
        const stats = nic.stats;
        if (source === undefined) return stats;
        const { heldFrames, heldBytes } = source.heldBack(index);
        return {
          ...stats,
          heldFrames: stats.heldFrames + heldFrames,
          heldBytes: stats.heldBytes + heldBytes,
        };
      }),
      compare: source?.compareStats ?? NO_COMPARISON,
    };
  }

  get source(): SourceRole {
    assert(this.#source !== undefined, 'This guest is a target');
    return this.#source;
  }

  get target(): TargetRole {
    assert(this.#target !== undefined, 'This guest is a source');
    return this.#target;
  }

  attach(link: NetworkLink, session: SessionRole): void {
    if (session.role === 'target') {
      this.target.attach(link);
      return;
    }
    this.#target?.end();
    this.#target = undefined;
    this.source.attach(link, session.epoch);
  }

  detach(): void {
    this.#target?.detach();
    this.#source?.detach();
  }

  /**
   * Before the guest is stopped: nothing more is delivered, and QEMU reads what is on its way. True
   * if it has read everything, so that the edge is exact.
   */
  async quiesce(): Promise<boolean> {
    this.#target?.standStill();
    const done = await Promise.all(
      this.#nics.map(({ nic }) => nic.quiesceInbound(QUIESCE_TIMEOUT_MS)),
    );
    return done.every((exact) => exact);
  }

  /**
   * The guest stands still: reads what it has said. False if so much was there that QEMU may have
   * waited for room: then it now sends more and writes guest RAM, and must be asked again.
   */
  drain(): boolean {
    return this.#nics.map(({ nic }) => nic.drain()).every((settled) => settled);
  }

  /**
   * The guest speaks from here now, without a session; to be called before it is resumed. `held`:
   * what it says waits for the source's `open`.
   */
  promote(output: 'open' | 'held' = 'open'): void {
    this.target.takeOver();
    this.#becomeSource({ translates: true, held: output === 'held' });
  }

  /**
   * The promoted guest executes: it gets what it has not had, the LAN hears where it is, and the
   * connections that waited meanwhile are woken.
   */
  goLive(options: { announce: boolean }): void {
    this.target.deliverRest();
    if (options.announce) this.announce();
    this.target.nudge();
  }

  announce(): void {
    for (const { nic } of this.#nics) nic.announce();
  }

  #becomeSource({ translates, held }: { translates: boolean; held: boolean }): void {
    const { compareTimeoutUs, log, onCheckpointNeeded } = this.#options;
    this.#source = new SourceRole({
      nics: this.#nics,
      compareTimeoutUs,
      translates,
      log,
      onCheckpointNeeded,
    });
    for (const { nic } of this.#nics) {
      nic.resumeInbound();
      if (held) nic.hold(FIRST_EPOCH);
      else nic.open();
    }
  }
}
