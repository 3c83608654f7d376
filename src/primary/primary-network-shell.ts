/**
 * The primary's network: all NICs of the PVM, the comparison of what both guests say, and the
 * network link to the secondary. Runs in a thread of its own: primary-network-thread-shell.ts has
 * its door, primary-network-client-shell.ts the main thread's.
 *
 *     LAN -> Nic -> PVM, and the same batch -> link (`inbound`)
 *     PVM -> Nic -> mode checkpoint: the gate holds it
 *                -> mode colo: Comparer <- link (`svmOutput`) <- SVM
 *                     confirmed -> Nic -> LAN, after `openedFlow` has been put on the link
 *                     the rest, at the epoch's edge -> the gate
 *
 * The epoch's edge is made with the PVM standing still and its input consumed (`quiesce`): what both
 * guests get between two edges is the same, frame for frame. SVM output that names another epoch
 * than the one that is compared is discarded.
 */
import type { CaptureOptions, CommandResult } from '../config/index.js';
import { type Logger, ProtocolError } from '../lib/index.js';
import { type GuestPortFds, monotonicUs } from '../linux/index.js';
import {
  type CapturePoint,
  type CaptureTap,
  Comparer,
  type ComparerSink,
  checkBatch,
  encodeAddresses,
  encodeOpenedFlow,
  type Mismatch,
  Nic,
  type NicStats,
  runCapture,
  VNET_HEADER_BYTES,
} from '../proxy/index.js';
import {
  decodeNetwork,
  type EncodedMessage,
  encodeAddresses as encodeAddressesMessage,
  encodeEpochMark,
  encodeInbound,
  encodeOpenedFlowMessage,
} from '../replication/index.js';
import type { Frame, Link } from '../transport/index.js';
import {
  BOUND_CHECK_MS,
  COMPARE_HELD_BYTES_HARD,
  EARLY_OUTPUT_BYTES_MAX,
  QUIESCE_TIMEOUT_MS,
} from './limits.js';

/** Why a comparison wants a checkpoint. */
export type CompareReason = 'divergence' | 'timeout' | 'bound';

/** One NIC of the guest and what it is connected to on this host. */
export interface NicPlace {
  readonly tapName: string;
  readonly bridge?: string;
}

export interface PrimaryNetworkOptions {
  readonly nics: readonly NicPlace[];
  readonly compareTimeoutUs: number;
  readonly log: Logger;
  /** A checkpoint is needed; `epoch` is the one in which the guests were compared. */
  readonly onCheckpointNeeded: (reason: CompareReason, epoch: number) => void;
}

/** What the network has done since the start. */
export interface NetworkStats {
  readonly nics: readonly NicStats[];
  readonly compare: CompareStats;
}

/** What the comparison has done since the start. */
export interface CompareStats {
  readonly comparing: boolean;
  readonly flows: number;
  readonly confirmedFrames: number;
  readonly divergences: number;
  readonly timeouts: number;
  /** SVM output that belonged to no epoch that is compared. */
  readonly staleFrames: number;
}

interface PrimaryNic {
  readonly nic: Nic;
  readonly comparer: Comparer;
  /** Told to the comparer; has a `verdict` while a capture wants to know. */
  readonly sink: ComparerSink;
  capture: CaptureTap | undefined;
  /** From the order to the end of the last write. */
  captured: boolean;
  sentAddresses: Buffer | undefined;
  timer: NodeJS.Timeout | undefined;
}

export class PrimaryNetwork {
  readonly #options: PrimaryNetworkOptions;
  readonly #nics: readonly PrimaryNic[];
  #link: Link | undefined;
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
  #early: { readonly nic: PrimaryNic; readonly batch: Buffer }[] = [];
  #earlyBytes = 0;
  #boundCheck: NodeJS.Timeout | undefined;

  constructor(options: PrimaryNetworkOptions) {
    this.#options = options;
    this.#nics = options.nics.map((place, index) => this.#makeNic(place, index));
  }

  /** Creates TAPs and QEMU's ends; resolves to the latter. The guest's output passes from then on. */
  async start(): Promise<GuestPortFds[]> {
    for (const { nic } of this.#nics) {
      await nic.start();
      nic.open();
    }
    this.#boundCheck = setInterval(() => this.#checkBounds(), BOUND_CHECK_MS);
    return this.#nics.map(({ nic }) => nic.qemuFds);
  }

  /** QEMU has inherited its ends. */
  closeQemuFds(): void {
    for (const { nic } of this.#nics) nic.closeQemuFds();
  }

  async stop(): Promise<void> {
    clearInterval(this.#boundCheck);
    for (const { nic, timer } of this.#nics) {
      clearTimeout(timer);
      await nic.stop();
    }
  }

  get stats(): NetworkStats {
    const counters = this.#nics.map(({ comparer }) => comparer.counters);
    const sum = (pick: (of: (typeof counters)[number]) => number): number =>
      counters.reduce((total, of) => total + pick(of), 0);
    return {
      nics: this.#nics.map(({ nic, comparer }) => {
        const { heldFrames, heldBytes } = comparer.counters;
        const stats = nic.stats;
        return {
          ...stats,
          heldFrames: stats.heldFrames + heldFrames,
          heldBytes: stats.heldBytes + heldBytes,
        };
      }),
      compare: {
        comparing: this.#started,
        flows: sum((of) => of.flows),
        confirmedFrames: sum((of) => of.releasedFrames),
        divergences: sum((of) => of.divergences),
        timeouts: sum((of) => of.timeouts),
        staleFrames: this.#staleFrames,
      },
    };
  }

  /** A session begins: LAN input is mirrored from now on, as part of `epoch`. */
  attach(link: Link, epoch: number): void {
    this.#link = link;
    this.#holds = false;
    for (const primaryNic of this.#nics) primaryNic.sentAddresses = undefined;
    link.onFrame((frame) => this.#onFrame(frame));
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
   * Before the PVM is stopped: the LAN waits, and QEMU reads what is on its way. True if it has
   * read everything, so that the edge is exact.
   */
  async quiesce(): Promise<boolean> {
    const done = await Promise.all(
      this.#nics.map(({ nic }) => nic.quiesceInbound(QUIESCE_TIMEOUT_MS)),
    );
    return done.every((exact) => exact);
  }

  /**
   * The PVM stands still: reads what it has said. False if so much was there that QEMU may have
   * waited for room: then it now sends more and writes guest RAM, and must be asked again.
   */
  drain(): boolean {
    return this.#nics.map(({ nic }) => nic.drain()).every((settled) => settled);
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
    this.#options.log.debug('Comparing', { epoch, sinceEdgeUs: nowUs - this.#edgeUs });
    for (const { comparer, capture } of this.#nics) {
      capture?.edge('start', epoch, nowUs);
      comparer.start(nowUs);
    }
    for (const { nic, batch } of this.#early) {
      nic.capture?.frame('secondary', batch, nowUs);
      nic.comparer.secondary(batch, nowUs);
    }
    this.#forgetEarly();
    for (const primaryNic of this.#nics) this.#afterCompare(primaryNic);
  }

  /** Writes what both guests of one NIC say, and the verdicts, to files; see runCapture. */
  async capture(options: CaptureOptions): Promise<CommandResult> {
    const primaryNic = this.#nics[options.nic];
    if (primaryNic === undefined) {
      const reason = `NIC ${options.nic} of a guest that has ${this.#nics.length}`;
      return { ok: false, code: 'COLO_E_CAPTURE', reason };
    }
    if (primaryNic.captured) {
      const reason = `A capture of NIC ${options.nic} is running`;
      return { ok: false, code: 'COLO_E_CAPTURE', reason };
    }
    primaryNic.captured = true;
    const point: CapturePoint = {
      vnetBytes: VNET_HEADER_BYTES,
      epoch: this.#epoch,
      attach: (tap) => {
        primaryNic.capture = tap;
        primaryNic.sink.verdict = (...verdict) => tap.verdict(...verdict);
        return () => {
          primaryNic.capture = undefined;
          delete primaryNic.sink.verdict;
        };
      },
    };
    try {
      return await runCapture(options, point);
    } finally {
      primaryNic.captured = false;
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

  /** Not a frame leaves from now on. */
  silence(): void {
    for (const { nic, comparer } of this.#nics) {
      comparer.clear();
      nic.silence();
    }
    this.#compares = false;
    this.#started = false;
  }

  #makeNic(place: NicPlace, index: number): PrimaryNic {
    const nic = new Nic({ index, ...place, log: this.#options.log });
    const sink: ComparerSink = {
      release: (batch, start, end) => nic.sendConfirmed(this.#epoch, batch.subarray(start, end)),
      opened: (flow) =>
        this.#send(encodeOpenedFlowMessage(this.#epoch, index, encodeOpenedFlow(flow))),
      checkpoint: (reason, explain) => this.#needCheckpoint(index, reason, explain),
    };
    const { compareTimeoutUs } = this.#options;
    const comparer = new Comparer({ vnetBytes: VNET_HEADER_BYTES, compareTimeoutUs }, sink);
    const primaryNic: PrimaryNic = {
      nic,
      comparer,
      sink,
      capture: undefined,
      captured: false,
      sentAddresses: undefined,
      timer: undefined,
    };
    nic.onInbound = (batch) => {
      primaryNic.capture?.frame('inbound', batch, monotonicUs());
      // It must know of every connection from its SYN on, in whatever mode that came.
      comparer.inbound(batch);
      this.#mirror(index, batch);
    };
    nic.onOutput = (batch) => {
      if (!this.#compares) return false;
      const nowUs = monotonicUs();
      primaryNic.capture?.frame('primary', batch, nowUs);
      comparer.primary(batch, nowUs);
      this.#afterCompare(primaryNic);
      return true;
    };
    return primaryNic;
  }

  #onFrame(frame: Frame): void {
    const message = decodeNetwork(frame.type, frame.payload, this.#nics.length);
    if (message.kind !== 'svmOutput') {
      throw new ProtocolError(`A secondary does not send ${message.kind}`);
    }
    const frames = checkBatch(message.batch);
    const primaryNic = this.#nics[message.nic];
    const { batch } = message;
    if (!this.#compares || message.epoch !== this.#epoch || primaryNic === undefined) {
      this.#staleFrames += frames;
      return;
    }
    if (!this.#started) {
      this.#keepEarly(primaryNic, batch, frames);
      return;
    }
    const nowUs = monotonicUs();
    primaryNic.capture?.frame('secondary', batch, nowUs);
    primaryNic.comparer.secondary(batch, nowUs);
    this.#afterCompare(primaryNic);
  }

  /** The SVM may be heard before `applied` is: they come over different connections. */
  #keepEarly(nic: PrimaryNic, batch: Buffer, frames: number): void {
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
  #afterCompare(primaryNic: PrimaryNic): void {
    primaryNic.nic.outputBlocked = primaryNic.comparer.heldBytes >= COMPARE_HELD_BYTES_HARD;
    if (this.#started) this.#schedule(primaryNic);
  }

  /** One timer at a time: a deadline only moves to a later frame, or another is made on firing. */
  #schedule(primaryNic: PrimaryNic): void {
    if (primaryNic.timer !== undefined) return;
    const deadlineUs = primaryNic.comparer.deadlineUs();
    if (deadlineUs === undefined) return;
    const delayMs = Math.max(1, Math.ceil((deadlineUs - monotonicUs()) / 1000));
    primaryNic.timer = setTimeout(() => {
      primaryNic.timer = undefined;
      if (!this.#started) return;
      primaryNic.comparer.tick(monotonicUs());
      this.#schedule(primaryNic);
    }, delayMs);
  }

  #stopComparing(): void {
    for (const primaryNic of this.#nics) {
      clearTimeout(primaryNic.timer);
      primaryNic.timer = undefined;
      primaryNic.capture?.edge('close', this.#epoch, monotonicUs());
      for (const batch of primaryNic.comparer.closeEpoch()) primaryNic.nic.holdBack(batch);
      primaryNic.nic.outputBlocked = false;
    }
    this.#compares = false;
    this.#started = false;
    this.#forgetEarly();
  }

  #checkBounds(): void {
    const over = this.#nics.some(({ nic }) => nic.stats.overBound);
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

  #unblock(link: Link): void {
    if (this.#link !== link) return;
    for (const { nic } of this.#nics) nic.inboundBlocked = false;
  }

  /** Begins `epoch` on the link, with what is new of the guest's addresses. */
  #mark(epoch: number, exact: boolean): void {
    this.#epoch = epoch;
    this.#send(encodeEpochMark(epoch, exact));
    for (const [index, primaryNic] of this.#nics.entries()) {
      const table = encodeAddresses(primaryNic.nic.addresses.addresses());
      if (primaryNic.sentAddresses?.equals(table) === true) continue;
      primaryNic.sentAddresses = table;
      this.#send(encodeAddressesMessage(index, table));
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
