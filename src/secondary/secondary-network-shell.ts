/**
 * The secondary's network: all NICs of the SVM, what the LAN said to the PVM, and the network link
 * to the primary. Runs in a thread of its own: secondary-network-thread-shell.ts has
 * its door, secondary-network-client-shell.ts the main thread's.
 *
 *     link (`inbound`)    -> InboundLog -> FlowRewriter -> Nic -> SVM
 *     link (`openedFlow`) -> FlowRewriter
 *     SVM -> Nic -> link (`svmOutput`), labelled with the epoch that the SVM executes
 *
 * After a failover (`promote`) the NICs speak for themselves, through the rewriter for the life of
 * the connections that the PVM had opened with other numbers.
 *
 * The SVM gets the inbound of epoch N only while it executes epoch N: what belongs to the next one
 * waits for the checkpoint that begins it, or for a failover. Around an apply the node calls
 *
 *     quiesce(); pause the SVM; drain(); rewind(); load the checkpoint; run(N + 1); resume the SVM
 */
import { type Logger, ProtocolError } from '../lib/index.js';
import { type GuestPortFds, monotonicUs } from '../linux/index.js';
import {
  decodeAddresses,
  decodeOpenedFlow,
  FlowRewriter,
  InboundLog,
  Nic,
  type NicStats,
  VNET_HEADER_BYTES,
} from '../proxy/index.js';
import { decodeNetwork, encodeSvmOutput } from '../replication/index.js';
import type { Frame, Link } from '../transport/index.js';
import { QUIESCE_TIMEOUT_MS } from './limits.js';

/** What the network has done since the start. */
export interface NetworkStats {
  readonly nics: readonly NicStats[];
}

/** One NIC of the guest and what it is connected to on this host. */
export interface NicPlace {
  readonly tapName: string;
  readonly bridge?: string;
}

export interface SecondaryNetworkOptions {
  readonly nics: readonly NicPlace[];
  readonly log: Logger;
}

interface SecondaryNic {
  readonly nic: Nic;
  readonly inbound: InboundLog;
  readonly rewriter: FlowRewriter;
}

export class SecondaryNetwork {
  readonly #nics: readonly SecondaryNic[];
  #link: Link | undefined;
  /** The epoch that the SVM executes; undefined while it stands still. */
  #running: number | undefined;
  /** After a failover: everything is delivered, and the guest's output leaves. */
  #live = false;

  constructor(options: SecondaryNetworkOptions) {
    this.#nics = options.nics.map((place, index) => {
      const nic = new Nic({ index, ...place, log: options.log });
      const side: SecondaryNic = {
        nic,
        inbound: new InboundLog(),
        rewriter: new FlowRewriter({ vnetBytes: VNET_HEADER_BYTES }),
      };
      nic.onOutput = (batch) => this.#takeOutput(index, side, batch);
      nic.onGuestReady = () => this.#deliver(side);
      return side;
    });
  }

  /** Creates TAPs and QEMU's ends; resolves to the latter. Nothing leaves before `promote`. */
  async start(): Promise<GuestPortFds[]> {
    for (const { nic } of this.#nics) await nic.start();
    return this.#nics.map(({ nic }) => nic.qemuFds);
  }

  /** QEMU has inherited its ends. */
  closeQemuFds(): void {
    for (const { nic } of this.#nics) nic.closeQemuFds();
  }

  async stop(): Promise<void> {
    for (const { nic } of this.#nics) await nic.stop();
  }

  get stats(): NetworkStats {
    return { nics: this.#nics.map(({ nic }) => nic.stats) };
  }

  attach(link: Link): void {
    this.#link = link;
    link.onFrame((frame) => this.#onFrame(frame));
  }

  /** The session is over: what the SVM says until a promotion is lost, as on a broken wire. */
  detach(): void {
    this.#link = undefined;
    for (const { nic } of this.#nics) nic.outputBlocked = false;
  }

  /** Nothing more is delivered; resolves when the SVM's QEMU has read what was. */
  async quiesce(): Promise<void> {
    this.#running = undefined;
    await Promise.all(this.#nics.map(({ nic }) => nic.quiesceInbound(QUIESCE_TIMEOUT_MS)));
  }

  /**
   * The SVM stands still: what it has said is void. False if so much was there that QEMU may have
   * waited for room: then it now sends more and writes guest RAM, and must be drained again.
   */
  drain(): boolean {
    return this.#nics.map(({ nic }) => nic.drain()).every((settled) => settled);
  }

  /** The SVM stands still, is drained, and is about to become another. */
  rewind(): void {
    for (const { nic, inbound, rewriter } of this.#nics) {
      rewriter.forget();
      inbound.rewind();
      nic.resumeInbound();
    }
  }

  /** The SVM is about to execute `epoch`, on the inbound of that epoch; before it is resumed. */
  run(epoch: number): void {
    this.#running = epoch;
    for (const side of this.#nics) this.#deliver(side);
  }

  /** Epoch `epoch` is committed: its inbound is part of the checkpoint. */
  committed(epoch: number): void {
    for (const { inbound } of this.#nics) inbound.committed(epoch + 1);
  }

  /** The guest speaks from here now; to be called before it is resumed. */
  promote(): void {
    this.#live = true;
    for (const { nic, inbound, rewriter } of this.#nics) {
      rewriter.takeOver(inbound.remaining());
      nic.rewriteInbound = (batch) => rewriter.inbound(batch);
      nic.resumeInbound();
      nic.open();
    }
  }

  /** The promoted guest executes: it gets what it has not had, and the LAN hears where it is. */
  goLive(options: { announce: boolean }): void {
    for (const side of this.#nics) {
      this.#deliver(side);
      if (options.announce) side.nic.announce();
    }
  }

  #onFrame(frame: Frame): void {
    const message = decodeNetwork(frame.type, frame.payload, this.#nics.length);
    switch (message.kind) {
      case 'inbound': {
        const side = this.#nics[message.nic];
        side?.inbound.push(message.epoch, message.batch, monotonicUs());
        if (side !== undefined) this.#deliver(side);
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
        // One of an epoch that is over here has become part of the checkpoint.
        if (message.epoch !== this.#running) return;
        this.#nics[message.nic]?.rewriter.open(decodeOpenedFlow(message.flow));
        return;
      }
      case 'svmOutput':
        throw new ProtocolError('A primary does not send svmOutput');
    }
  }

  #deliver({ nic, inbound, rewriter }: SecondaryNic): void {
    const epochMax = this.#live ? Number.POSITIVE_INFINITY : this.#running;
    if (epochMax === undefined) return;
    for (;;) {
      const batch = inbound.peek(epochMax);
      if (batch === undefined) break;
      if (!nic.inject(rewriter.inbound(batch))) return;
      inbound.delivered();
    }
    if (this.#live) inbound.clear();
  }

  /** True: taken. Live, the gate passes it on. */
  #takeOutput(index: number, { nic, rewriter }: SecondaryNic, batch: Buffer): boolean {
    if (this.#live) {
      rewriter.outbound(batch);
      return false;
    }
    const link = this.#link;
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
