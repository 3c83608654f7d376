/**
 * The guest that is made equal to another: it hears what that one hears, and is not heard.
 *
 *     link (`inbound`)       -> InboundLog -> FlowRewriter -> Nic -> SVM
 *     link (`openedFlow`)    -> FlowRewriter; `flowsKnown` -> link
 *     link (`translations`)  -> FlowRewriter, kept aside for a failover
 *     SVM -> Nic -> link (`svmOutput`), labelled with the epoch that the SVM executes
 *
 * After a failover (`takeOver`) the NICs belong to the source role; this one then delivers the rest
 * of what was mirrored, wakes the connections that were heard last (`nudge`), and is ended when the
 * next session begins.
 *
 * The SVM gets the inbound of epoch N only while it executes epoch N: what belongs to the next one
 * waits for the checkpoint that begins it, or for a failover. Around an apply the node calls
 *
 *     quiesce(); pause the SVM; drain(); rewind(); load the checkpoint; run(N + 1); resume the SVM
 */
import { type Logger, ProtocolError } from '../../lib/index.js';
import { monotonicUs } from '../../linux/index.js';
import {
  decodeAddresses,
  decodeOpenedFlow,
  decodeTranslations,
  encodeNudge,
  InboundLog,
  type OpenedFlow,
  RecentFlows,
  RecentOutput,
} from '../../proxy/index.js';
import { decodeNetwork, encodeFlowsKnown, encodeSvmOutput } from '../../replication/index.js';
import type { Frame } from '../../transport/index.js';
import type { GuestNic, NetworkLink } from './guest-nic.js';

interface TargetNic extends GuestNic {
  readonly inbound: InboundLog;
  readonly recent: RecentFlows;
  readonly said: RecentOutput;
  /** Flows taken from the link in the running epoch, and how many of them the primary was told. */
  flowsTaken: number;
  flowsTold: number;
}

export class TargetRole {
  readonly #nics: readonly TargetNic[];
  readonly #log: Logger;
  #link: NetworkLink | undefined;
  /** The epoch that the SVM executes; undefined while it stands still. */
  #running: number | undefined;
  /** After a failover: everything is delivered. */
  #live = false;
  #ended = false;

  constructor(nics: readonly GuestNic[], log: Logger) {
    this.#log = log;
    this.#nics = nics.map((guestNic) => {
      const { nic } = guestNic;
      const inbound = new InboundLog();
      const last = { recent: new RecentFlows(), said: new RecentOutput() };
      const side: TargetNic = { ...guestNic, inbound, ...last, flowsTaken: 0, flowsTold: 0 };
      nic.onOutput = (batch) => this.#takeOutput(side, batch);
      nic.onGuestReady = () => this.#deliver(side);
      return side;
    });
  }

  attach(link: NetworkLink): void {
    this.#link = link;
    for (const { rewriter } of this.#nics) rewriter.dropKept();
    link.onFrame((frame) => {
      if (!this.#ended) this.#onFrame(frame);
    });
  }

  /** The session is over: what the SVM says until a promotion is lost, as on a broken wire. */
  detach(): void {
    this.#link = undefined;
    for (const { nic } of this.#nics) nic.outputBlocked = false;
  }

  /** Nothing more is delivered until `run`. */
  standStill(): void {
    this.#running = undefined;
  }

  /** The SVM stands still, is drained, and is about to become another. */
  rewind(): void {
    for (const { nic, inbound, rewriter, said } of this.#nics) {
      rewriter.forget();
      said.clear();
      inbound.rewind();
      nic.resumeInbound();
    }
  }

  /** The SVM is about to execute `epoch`, on the inbound of that epoch; before it is resumed. */
  run(epoch: number): void {
    this.#running = epoch;
    for (const side of this.#nics) {
      side.flowsTaken = 0;
      side.flowsTold = 0;
      this.#deliver(side);
    }
  }

  /** Epoch `epoch` is committed: its inbound is part of the checkpoint. */
  committed(epoch: number): void {
    for (const { inbound } of this.#nics) inbound.committed(epoch + 1);
  }

  /** The guest speaks from here now: what it was mirrored is what the remote ends have seen. */
  takeOver(): void {
    this.#live = true;
    for (const { index, inbound, rewriter } of this.#nics) {
      rewriter.takeOver(inbound.remaining());
      const { lostFlows } = rewriter.counters;
      if (lostFlows > 0) this.#log.warn('Connections are lost', { nic: index, lostFlows });
    }
  }

  /** The promoted guest executes: it gets what it has not had, also what comes late on the link. */
  deliverRest(): void {
    for (const side of this.#nics) this.#deliver(side);
  }

  /**
   * The guest executes and the LAN knows where it is: what the guest has said and nobody has heard
   * is said again, and connections need not wait for timers that have backed off meanwhile. What
   * finds no room is lost, like any packet.
   */
  nudge(): void {
    for (const { index, nic, recent, said, rewriter } of this.#nics) {
      const again = said.segments();
      if (again.length > 0) nic.speak(again);
      said.clear();
      const flows = recent.flows();
      for (const flow of flows) {
        const { toRemote, toGuest } = encodeNudge(flow);
        nic.speak(toRemote);
        nic.inject(rewriter.mirrored(toGuest));
      }
      if (flows.length > 0) {
        this.#log.info('Connections are woken', { nic: index, flows: flows.length });
      }
    }
  }

  /** The guest has a session of its own: what it has not taken by now, it will not get. */
  end(): void {
    this.#ended = true;
    for (const { index, nic, inbound, rewriter } of this.#nics) {
      const { batches } = inbound.counters;
      if (batches > 0) this.#log.warn('The guest has not taken all input', { nic: index, batches });
      inbound.clear();
      rewriter.forget();
      nic.onGuestReady = undefined;
    }
  }

  #onFrame(frame: Frame): void {
    const message = decodeNetwork(frame.type, frame.payload, this.#nics.length);
    switch (message.kind) {
      case 'inbound': {
        const side = this.#nics[message.nic];
        if (side === undefined) return;
        side.inbound.push(message.epoch, message.batch, monotonicUs());
        side.recent.note(message.batch);
        this.#deliver(side);
        return;
      }
      case 'addresses':
        this.#nics[message.nic]?.nic.addresses.merge(decodeAddresses(message.table));
        return;
      case 'epochMark':
        for (const side of this.#nics) {
          side.inbound.mark(message.epoch, monotonicUs(), message.exact);
          this.#deliver(side);
        }
        return;
      case 'openedFlow': {
        // One of an epoch that is over here has become part of the checkpoint. One that comes after
        // a failover was not acknowledged, so nobody has been told its numbers.
        if (this.#live || message.epoch !== this.#running) return;
        const side = this.#nics[message.nic];
        if (side !== undefined) this.#takeFlow(side, decodeOpenedFlow(message.flow));
        return;
      }
      case 'translations':
        // After a failover the guest translates by itself.
        if (this.#live) return;
        for (const record of decodeTranslations(message.records)) {
          this.#nics[message.nic]?.rewriter.keep(record);
        }
        return;
      case 'svmOutput':
      case 'flowsKnown':
        throw new ProtocolError(`A primary does not send ${message.kind}`);
    }
  }

  /** The primary is told once for all that came in one read: by the next read it is told more. */
  #takeFlow(side: TargetNic, flow: OpenedFlow): void {
    side.rewriter.open(flow);
    side.flowsTaken++;
    if (side.flowsTaken === side.flowsTold + 1) queueMicrotask(() => this.#tellFlows(side));
  }

  #tellFlows(side: TargetNic): void {
    // The SVM may stand still, or be another one, by now.
    if (this.#running === undefined || side.flowsTold === side.flowsTaken) return;
    side.flowsTold = side.flowsTaken;
    const { type, parts } = encodeFlowsKnown(this.#running, side.index, side.flowsTaken);
    this.#link?.send(type, parts);
  }

  #deliver({ nic, inbound, rewriter }: TargetNic): void {
    const epochMax = this.#live ? Number.POSITIVE_INFINITY : this.#running;
    if (epochMax === undefined) return;
    for (;;) {
      const batch = inbound.peek(epochMax);
      if (batch === undefined) break;
      if (!nic.inject(rewriter.mirrored(batch))) return;
      inbound.delivered();
    }
    if (this.#live) inbound.clear();
  }

  /** True: taken. */
  #takeOutput({ nic, index, said }: TargetNic, batch: Buffer): boolean {
    const link = this.#link;
    // Also without a link: it is about to take over, or to be given up.
    if (this.#running !== undefined) said.note(batch);
    if (link === undefined || this.#running === undefined) return true;
    const { type, parts } = encodeSvmOutput(this.#running, index, batch);
    link.send(type, parts);
    if (!link.writable) {
      nic.outputBlocked = true;
      const unblock = (): void => {
        nic.outputBlocked = false;
      };
      link.drained().then(unblock, unblock);
    }
    return true;
  }
}
