/**
 * The guest that serves the clients: what it hears goes to the other guest too, and what it says
 * leaves when the other guest implies it.
 *
 *     LAN -> Nic -> guest, and the same batch -> link (`inbound`)
 *     guest -> Nic -> mode checkpoint: the gate holds it
 *                  -> mode colo: Comparer <- link (`svmOutput`) <- SVM
 *                       confirmed -> Nic -> LAN
 *                       a new connection's SYN: `openedFlow` -> link, `flowsKnown` <- link, then so
 *                       the rest, at the epoch's edge -> the gate
 *
 * The epoch's edge is made with the guest standing still and its input consumed: what both guests
 * get between two edges is the same, frame for frame. SVM output that names another epoch than the
 * one that is compared is discarded, and so is what the secondary knows of flows of another one.
 *
 * A guest that has taken over is translated at the Nic, on the side of the LAN. The link is told of
 * each change (`translations`) before the frame that brings it leaves.
 */
import type { CaptureOptions, CommandResult } from '../../config/index.js';
import { type Logger, ProtocolError } from '../../lib/index.js';
import { monotonicUs } from '../../linux/index.js';
import {
  type CapturePoint,
  type CaptureTap,
  Comparer,
  type ComparerCounters,
  type ComparerSink,
  checkBatch,
  encodeAddresses,
  encodeOpenedFlow,
  encodeTranslations,
  type Mismatch,
  runCapture,
  TRANSLATION_RECORDS_MAX,
  TRANSLATION_SWEEP_MS,
  type TranslationRecord,
  VNET_HEADER_BYTES,
} from '../../proxy/index.js';
import {
  decodeNetwork,
  type EncodedMessage,
  encodeAddresses as encodeAddressesMessage,
  encodeEpochMark,
  encodeInbound,
  encodeOpenedFlowMessage,
  encodeTranslationsMessage,
} from '../../replication/index.js';
import type { Frame } from '../../transport/index.js';
import type { GuestNic, NetworkLink } from './guest-nic.js';
import {
  BOUND_CHECK_MS,
  COMPARE_HELD_BYTES_HARD,
  EARLY_OUTPUT_BYTES_MAX,
  ROUND_TRIP_US_MAX,
  ROUND_TRIPS,
} from './limits.js';
import type { CompareStats } from './network-stats.js';

/** Why a comparison wants a checkpoint. */
export type CompareReason = 'divergence' | 'timeout' | 'bound';

export interface SourceRoleOptions {
  readonly nics: readonly GuestNic[];
  readonly compareTimeoutUs: number;
  /** The guest has taken over: its connections may be translated. */
  readonly translates: boolean;
  readonly log: Logger;
  /** A checkpoint is needed; `epoch` is the one in which the guests were compared. */
  readonly onCheckpointNeeded: (reason: CompareReason, epoch: number) => void;
}

/** A NIC and what belongs to it while the guest is the source. */
interface SourceNic extends GuestNic {
  readonly comparer: Comparer;
  /** Told to the comparer; has a `verdict` while a capture wants to know. */
  readonly sink: ComparerSink;
  capture: CaptureTap | undefined;
  /** From the order to the end of the last write. */
  captured: boolean;
  sentAddresses: Buffer | undefined;
  timer: NodeJS.Timeout | undefined;
}

export class SourceRole {
  readonly #options: SourceRoleOptions;
  readonly #nics: readonly SourceNic[];
  #link: NetworkLink | undefined;
  /** The running epoch; label of what is mirrored. */
  #epoch = 0;
  #edgeUs = 0;
  /** The SVM executes in the running epoch, or will as soon as the checkpoint is applied. */
  #compares = false;
  /** It does: what it says is compared. */
  #started = false;
  /** This session has reached the edge of an epoch: from there on it holds the guest's output. */
  #holds = false;
  #staleFrames = 0;
  /** What the SVM has said in the running epoch before the comparison could start. */
  #early: { readonly nic: SourceNic; readonly batch: Buffer }[] = [];
  #earlyBytes = 0;
  readonly #boundCheck: NodeJS.Timeout;
  readonly #sweep: NodeJS.Timeout | undefined;

  /** Takes the NICs over from whoever worked on them before. */
  constructor(options: SourceRoleOptions) {
    this.#options = options;
    this.#nics = options.nics.map((guestNic) => this.#takeNic(guestNic));
    this.#boundCheck = setInterval(() => this.#checkBounds(), BOUND_CHECK_MS);
    if (!options.translates) return;
    for (const guestNic of this.#nics) this.#translate(guestNic);
    this.#sweep = setInterval(() => {
      for (const { rewriter } of this.#nics) rewriter.sweep();
    }, TRANSLATION_SWEEP_MS);
  }

  stop(): void {
    clearInterval(this.#boundCheck);
    clearInterval(this.#sweep);
    for (const { timer } of this.#nics) clearTimeout(timer);
  }

  /** What waits to be confirmed on one NIC. */
  heldBack(nic: number): Pick<ComparerCounters, 'heldFrames' | 'heldBytes'> {
    const { heldFrames = 0, heldBytes = 0 } = this.#nics[nic]?.comparer.counters ?? {};
    return { heldFrames, heldBytes };
  }

  get compareStats(): CompareStats {
    const counters = this.#nics.map(({ comparer }) => comparer.counters);
    const sum = (pick: (of: ComparerCounters) => number): number =>
      counters.reduce((total, of) => total + pick(of), 0);
    return {
      comparing: this.#started,
      flows: sum((of) => of.flows),
      confirmedFrames: sum((of) => of.releasedFrames),
      divergences: sum((of) => of.divergences),
      timeouts: sum((of) => of.timeouts),
      staleFrames: this.#staleFrames,
    };
  }

  /** A session begins: LAN input is mirrored from now on, as part of `epoch`. */
  attach(link: NetworkLink, epoch: number): void {
    this.#link = link;
    this.#holds = false;
    for (const sourceNic of this.#nics) sourceNic.sentAddresses = undefined;
    link.onFrame((frame) => {
      // What comes late of a session that is over is about a guest that is no more.
      if (this.#link === link) this.#onFrame(frame);
    });
    for (const { index, rewriter } of this.#nics) this.#sendTranslations(index, rewriter.records());
    this.#mark(epoch, false);
  }

  /** The session is over; what is held stays held until `open`, or a later session's commit. */
  detach(): void {
    this.#link = undefined;
    this.#stopComparing();
    this.#holds = false;
    for (const { nic } of this.#nics) nic.inboundBlocked = false;
  }

  /**
   * The PVM stands still at the end of `epoch`, and has been drained: what it has said until now,
   * and is not confirmed, waits for the commit; `compares` tells whether the SVM executes in the
   * next.
   */
  edge(epoch: number, options: { exact: boolean; compares: boolean }): void {
    this.#stopComparing();
    for (const { nic } of this.#nics) {
      // What an earlier session still holds stays held, and leaves with this one's first release.
      if (this.#holds) nic.closeEpoch(epoch);
      else nic.hold(epoch + 1);
    }
    this.#holds = true;
    this.#compares = options.compares;
    this.#edgeUs = monotonicUs();
    this.#mark(epoch + 1, options.exact);
  }

  /** The pause is over, whether it has reached the edge or not. */
  resume(): void {
    for (const { nic } of this.#nics) nic.resumeInbound();
  }

  /** The SVM executes `epoch` from now on. */
  startCompare(epoch: number): void {
    if (!this.#compares || epoch !== this.#epoch) return;
    this.#started = true;
    const nowUs = monotonicUs();
    const roundTripUs = Math.min(this.#link?.roundTripUs ?? 0, ROUND_TRIP_US_MAX);
    this.#options.log.debug('Comparing', { epoch, sinceEdgeUs: nowUs - this.#edgeUs, roundTripUs });
    for (const { comparer, capture } of this.#nics) {
      capture?.edge('start', epoch, nowUs);
      comparer.start(nowUs, ROUND_TRIPS * roundTripUs);
    }
    for (const { nic, batch } of this.#early) {
      nic.capture?.frame('secondary', batch, nowUs);
      nic.comparer.secondary(batch, nowUs);
    }
    this.#forgetEarly();
    for (const sourceNic of this.#nics) this.#afterCompare(sourceNic);
  }

  /** Writes what both guests of one NIC say, and the verdicts, to files; see runCapture. */
  async capture(options: CaptureOptions): Promise<CommandResult> {
    const sourceNic = this.#nics[options.nic];
    if (sourceNic === undefined) {
      const reason = `NIC ${options.nic} of a guest that has ${this.#nics.length}`;
      return { ok: false, code: 'COLO_E_CAPTURE', reason };
    }
    if (sourceNic.captured) {
      const reason = `A capture of NIC ${options.nic} is running`;
      return { ok: false, code: 'COLO_E_CAPTURE', reason };
    }
    sourceNic.captured = true;
    const point: CapturePoint = {
      vnetBytes: VNET_HEADER_BYTES,
      epoch: this.#epoch,
      attach: (tap) => {
        sourceNic.capture = tap;
        sourceNic.sink.verdict = (...verdict) => tap.verdict(...verdict);
        return () => {
          sourceNic.capture = undefined;
          delete sourceNic.sink.verdict;
        };
      },
    };
    try {
      return await runCapture(options, point);
    } finally {
      sourceNic.captured = false;
    }
  }

  /** Checkpoint `epoch` + 1 is committed. */
  release(epoch: number): void {
    for (const { nic } of this.#nics) nic.release(epoch);
  }

  /**
   * Unprotected: everything held leaves, and output passes from now on. Not if a new session holds
   * by now: its first release covers it. Only this thread knows in time: it has made the edge.
   */
  open(): void {
    if (this.#holds) return;
    this.#stopComparing();
    for (const { nic } of this.#nics) nic.open();
  }

  /** Not a frame leaves from now on; what was not confirmed is dropped by the gate. */
  silence(): void {
    for (const { nic } of this.#nics) nic.silence();
    this.#stopComparing();
  }

  #takeNic(guestNic: GuestNic): SourceNic {
    const { nic, index } = guestNic;
    const sink: ComparerSink = {
      release: (batch, start, end) => nic.sendConfirmed(this.#epoch, batch.subarray(start, end)),
      opened: (flow) =>
        this.#send(encodeOpenedFlowMessage(this.#epoch, index, encodeOpenedFlow(flow))),
      checkpoint: (reason, explain) => this.#needCheckpoint(index, reason, explain),
    };
    const { compareTimeoutUs } = this.#options;
    const comparer = new Comparer(
      { vnetBytes: VNET_HEADER_BYTES, compareTimeoutUs, awaitsFlowsKnown: true },
      sink,
    );
    const sourceNic: SourceNic = {
      ...guestNic,
      comparer,
      sink,
      capture: undefined,
      captured: false,
      sentAddresses: undefined,
      timer: undefined,
    };
    nic.onInbound = (batch) => {
      sourceNic.capture?.frame('inbound', batch, monotonicUs());
      // It must know of every connection from its SYN on, in whatever mode that came.
      comparer.inbound(batch);
      this.#mirror(index, batch);
    };
    nic.onOutput = (batch) => {
      if (!this.#compares) return false;
      const nowUs = monotonicUs();
      sourceNic.capture?.frame('primary', batch, nowUs);
      comparer.primary(batch, nowUs);
      this.#afterCompare(sourceNic);
      return true;
    };
    return sourceNic;
  }

  #translate({ nic, rewriter, index }: GuestNic): void {
    nic.rewriteInbound = (batch) => rewriter.inbound(batch);
    nic.rewriteOutbound = (batch) => rewriter.outbound(batch);
    rewriter.onChange = (record) => this.#sendTranslations(index, [record]);
  }

  #onFrame(frame: Frame): void {
    const message = decodeNetwork(frame.type, frame.payload, this.#nics.length);
    if (message.kind !== 'svmOutput' && message.kind !== 'flowsKnown') {
      throw new ProtocolError(`A secondary does not send ${message.kind}`);
    }
    const sourceNic = this.#nics[message.nic];
    if (sourceNic === undefined) return;
    const isCurrent = this.#compares && message.epoch === this.#epoch;
    if (message.kind === 'flowsKnown') {
      // Of an epoch that is over here: what waited for it waits for the commit.
      if (!isCurrent) return;
      sourceNic.comparer.flowsKnown(message.count);
      this.#afterCompare(sourceNic);
      return;
    }
    const { batch } = message;
    const frames = checkBatch(batch);
    if (!isCurrent) {
      this.#staleFrames += frames;
      return;
    }
    if (!this.#started) {
      this.#keepEarly(sourceNic, batch, frames);
      return;
    }
    const nowUs = monotonicUs();
    sourceNic.capture?.frame('secondary', batch, nowUs);
    sourceNic.comparer.secondary(batch, nowUs);
    this.#afterCompare(sourceNic);
  }

  /** The SVM may be heard before `applied` is: they come over different connections. */
  #keepEarly(nic: SourceNic, batch: Buffer, frames: number): void {
    if (this.#earlyBytes + batch.length > EARLY_OUTPUT_BYTES_MAX) {
      this.#staleFrames += frames;
      return;
    }
    this.#early.push({ nic, batch });
    this.#earlyBytes += batch.length;
  }

  #forgetEarly(): void {
    this.#early = [];
    this.#earlyBytes = 0;
  }

  /** Room in the comparer is the guest's to fill; its deadline is the timer's. */
  #afterCompare(sourceNic: SourceNic): void {
    sourceNic.nic.outputBlocked = sourceNic.comparer.heldBytes >= COMPARE_HELD_BYTES_HARD;
    if (this.#started) this.#schedule(sourceNic);
  }

  /** One timer at a time: a deadline only moves to a later frame, or another is made on firing. */
  #schedule(sourceNic: SourceNic): void {
    if (sourceNic.timer !== undefined) return;
    const deadlineUs = sourceNic.comparer.deadlineUs();
    if (deadlineUs === undefined) return;
    const delayMs = Math.max(1, Math.ceil((deadlineUs - monotonicUs()) / 1000));
    sourceNic.timer = setTimeout(() => {
      sourceNic.timer = undefined;
      if (!this.#started) return;
      sourceNic.comparer.tick(monotonicUs());
      this.#schedule(sourceNic);
    }, delayMs);
  }

  #stopComparing(): void {
    for (const sourceNic of this.#nics) {
      clearTimeout(sourceNic.timer);
      sourceNic.timer = undefined;
      sourceNic.capture?.edge('close', this.#epoch, monotonicUs());
      for (const batch of sourceNic.comparer.closeEpoch()) sourceNic.nic.holdBack(batch);
      sourceNic.nic.outputBlocked = false;
    }
    this.#compares = false;
    this.#started = false;
    this.#forgetEarly();
  }

  #checkBounds(): void {
    const over = this.#nics.some(({ nic }) => nic.overBound);
    if (over) this.#options.onCheckpointNeeded('bound', this.#epoch);
  }

  #needCheckpoint(nic: number, reason: CompareReason, explain: () => Mismatch): void {
    const epoch = this.#epoch;
    this.#options.log.info('The guests are to be made equal', {
      nic,
      reason,
      epoch,
      ...describeMismatch(explain()),
    });
    this.#options.onCheckpointNeeded(reason, epoch);
  }

  /** While the link is full the LAN waits: what one guest gets, the other must get too. */
  #mirror(index: number, batch: Buffer): void {
    const link = this.#link;
    if (link === undefined) return;
    this.#send(encodeInbound(this.#epoch, index, batch));
    if (link.writable) return;
    for (const { nic } of this.#nics) nic.inboundBlocked = true;
    link.drained().then(
      () => this.#unblock(link),
      () => this.#unblock(link),
    );
  }

  #unblock(link: NetworkLink): void {
    if (this.#link !== link) return;
    for (const { nic } of this.#nics) nic.inboundBlocked = false;
  }

  /** Begins `epoch` on the link, with what is new of the guest's addresses. */
  #mark(epoch: number, exact: boolean): void {
    this.#epoch = epoch;
    this.#send(encodeEpochMark(epoch, exact));
    for (const [index, sourceNic] of this.#nics.entries()) {
      const table = encodeAddresses(sourceNic.nic.addresses.addresses());
      if (sourceNic.sentAddresses?.equals(table) === true) continue;
      sourceNic.sentAddresses = table;
      this.#send(encodeAddressesMessage(index, table));
    }
  }

  /** With what is translated the next secondary can take over in its turn. */
  #sendTranslations(nic: number, records: readonly TranslationRecord[]): void {
    if (this.#link === undefined) return;
    for (let at = 0; at < records.length; at += TRANSLATION_RECORDS_MAX) {
      const part = records.slice(at, at + TRANSLATION_RECORDS_MAX);
      this.#send(encodeTranslationsMessage(nic, encodeTranslations(part)));
    }
  }

  #send(message: EncodedMessage): void {
    this.#link?.send(message.type, message.parts);
  }
}

/** For the log: a guest's bytes are nobody's business there beyond the first difference. */
function describeMismatch(mismatch: Mismatch): Record<string, unknown> {
  const { flow, kind, offset, note } = mismatch;
  return { flow, what: kind, offset, ...(note === '' ? {} : { note }) };
}
