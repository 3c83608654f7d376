/**
 * One guest NIC on one host: moves batches between the TAP in the host's bridge and QEMU. What may
 * leave is decided by the output gate; this file has the devices, the queues towards both sides,
 * and the timers of the announcement.
 *
 * Around a checkpoint the primary calls, in this order:
 *   pauseInbound() or quiesceInbound(); QMP stop; await drain(); save state; closeEpoch(N); epoch
 *   mark to the peer; resumeInbound(); QMP cont; ... after the commit: release(N).
 *
 * At a `stop` QEMU discards the one frame a NIC that it holds itself, because the socket was full
 * or the guest had given it no buffer.
 */
import { readFile } from 'node:fs/promises';
import { assert, describeError, type Logger } from '../lib/index.js';
import {
  bootTimeUs,
  GuestPort,
  type GuestPortFds,
  monotonicUs,
  type OutputDeadline,
  openTap,
  type Tap,
} from '../linux/index.js';
import { AddressLearner, type GuestAddress } from './address-learner.js';
import { encodeAnnouncement } from './announce-wire.js';
import { countFrames, LENGTH_BYTES } from './batch-wire.js';
import { FrameQueue } from './frame-queue.js';
import {
  ANNOUNCE_DELAYS_MS,
  DRAIN_BYTES_MAX,
  GUEST_QUEUE_BYTES_MAX,
  LAN_BYTES_PER_TURN,
  LAN_FRAMES_PER_TURN,
  LAN_QUEUE_BYTES_HARD,
  LEASE_FRAMES_PER_CHECK,
  SETTLED_BYTES_MAX,
  SETTLED_FRAMES_MAX,
  VNET_HEADER_BYTES,
} from './limits.js';
import { attachToBridge, bringUp } from './link-shell.js';
import { type GateCounters, type GateState, OutputGate } from './output-gate.js';

/** The right to speak (I4); `nowUs` of CLOCK_BOOTTIME, read right before asking. */
export interface OutputLeaseView {
  allows(nowUs: number): boolean;
}

export interface NicOptions {
  /** Which of the guest's NICs this is; for the log. */
  readonly index: number;
  /** Must not exist yet. */
  readonly tapName: string;
  /** Without one the TAP stands alone. */
  readonly bridge?: string;
  readonly mtu?: number;
  /** Without one the right to speak has no end. */
  readonly lease?: OutputLeaseView;
  /** The kernel's own look at the end of the lease, at each frame. */
  readonly deadline?: OutputDeadline | undefined;
  readonly log: Logger;
}

/** Frames and bytes since the start, except `*QueueBytes` and the gate's `held*`. */
export interface NicStats extends GateCounters {
  readonly state: GateState;
  readonly overBound: boolean;
  /** Delivered to the guest, from the LAN or injected. */
  readonly inboundFrames: number;
  readonly inboundBytes: number;
  /** Arrived at the TAP while silent. */
  readonly inboundSilentFrames: number;
  /** QEMU gone, or not reading. */
  readonly inboundDroppedFrames: number;
  /** Not taken by QEMU's socket yet. */
  readonly guestQueueBytes: number;
  /** Emitted by the guest, whatever the gate did with it. */
  readonly outputFrames: number;
  readonly outputBytes: number;
  /**
   * Released, but not taken by the TAP: malformed virtio_net_hdr, no whole Ethernet header, longer
   * than any frame, link down, no kernel buffer, or silenced in between.
   */
  readonly lanDroppedFrames: number;
  /** Released, but the right to speak was over. */
  readonly leaseDroppedFrames: number;
  /** Released, not yet written to the TAP. */
  readonly lanQueueBytes: number;
  readonly announcementsSent: number;
}

export class Nic {
  readonly addresses = new AddressLearner();
  /** Every batch from the LAN as the guest was given it, after `rewriteInbound`, while live. */
  onInbound: ((batch: Buffer) => void) | undefined;
  /**
   * Every batch that the guest emitted, before the gate; also while silent. Returns true if it has
   * taken the batch, which then never reaches the gate by itself.
   */
  onOutput: ((batch: Buffer) => boolean) | undefined;
  /** What the guest gets in place of a batch from the LAN. */
  rewriteInbound: ((batch: Buffer) => Buffer) | undefined;
  /** Output was dropped because the lease is over; told once, until it was allowed again. */
  onLeaseOver: (() => void) | undefined;
  /**
   * Changes, in place, a batch that leaves for the LAN. The only place where output is translated:
   * gate, comparison and mirror know the guest's own numbers. Nobody else keeps the batch by then.
   */
  rewriteOutbound: ((batch: Buffer) => void) | undefined;
  /** The guest's queue has room again after `inject` had refused a batch. */
  onGuestReady: (() => void) | undefined;

  readonly #options: NicOptions;
  readonly #gate = new OutputGate();
  readonly #lanQueue = new FrameQueue(LAN_QUEUE_BYTES_HARD);
  readonly #guestQueue = new FrameQueue(GUEST_QUEUE_BYTES_MAX);
  #tap: Tap | undefined;
  #port: GuestPort | undefined;
  #inboundPaused = false;
  #inboundBlocked = false;
  #outputBlocked = false;
  #injectRefused = false;
  /** Of the guest's output, since it was last known to be all read. */
  #unsettledFrames = 0;
  #unsettledBytes = 0;
  /** All, where no lease has to be looked at. */
  readonly #framesPerCheck: number;
  #flushScheduled = false;
  #tapIsDown = false;
  #announceTimers: NodeJS.Timeout[] = [];
  #stopped = false;

  #inboundFrames = 0;
  #inboundBytes = 0;
  #inboundSilentFrames = 0;
  #inboundDroppedFrames = 0;
  #outputFrames = 0;
  #outputBytes = 0;
  #lanDroppedFrames = 0;
  #leaseDroppedFrames = 0;
  #leaseIsOver = false;
  #announcementsSent = 0;

  constructor(options: NicOptions) {
    this.#options = options;
    this.#framesPerCheck =
      options.lease === undefined ? LAN_FRAMES_PER_TURN : LEASE_FRAMES_PER_CHECK;
  }

  /** Creates the TAP and the port for QEMU. The gate is silent until told otherwise. */
  async start(): Promise<void> {
    const { index, tapName, bridge, mtu } = this.#options;
    try {
      const tap = openTap({ name: tapName });
      this.#tap = tap;
      this.#attachDeadline();
      const port = new GuestPort(`the port of NIC ${index}`);
      this.#port = port;
      await bringUp(tapName, mtu);
      if (bridge !== undefined) await attachToBridge(tapName, bridge);
      tap.onReadable(() => this.#readTap(tap));
      port.onReadable(() => this.#readPort(port));
      port.onOffload((flags) => this.#setOffload(tap, flags));
    } catch (error) {
      this.stop();
      throw error;
    }
  }

  /** Before the TAP is up; a kernel that can't is made up for by our own look at the lease. */
  #attachDeadline(): void {
    const { index, tapName, deadline, log } = this.#options;
    try {
      deadline?.attach(tapName, index);
    } catch (error) {
      const reason = describeError(error);
      log.warn('The kernel does not look at the end of the lease', { nic: index, reason });
    }
  }

  /** What QEMU inherits as the NIC, good for any thread of this process until `closeQemuFds`. */
  get qemuFds(): GuestPortFds {
    assert(this.#port !== undefined, 'A NIC that was not started has no port');
    return this.#port.qemuFds;
  }

  /** QEMU has inherited them. Until this is called its end is not noticed. Idempotent. */
  closeQemuFds(): void {
    this.#port?.closeQemuFds();
  }

  /** Closes everything and removes the TAP; output still held is dropped. Idempotent. */
  stop(): void {
    this.#stopped = true;
    this.silence();
    this.#tap?.close();
    this.#port?.close();
  }

  /** So much output is held that a checkpoint is due. */
  get overBound(): boolean {
    return this.#gate.overBound;
  }

  get stats(): NicStats {
    const { index, deadline } = this.#options;
    return {
      ...this.#gate.counters,
      state: this.#gate.state,
      overBound: this.#gate.overBound,
      inboundFrames: this.#inboundFrames,
      inboundBytes: this.#inboundBytes,
      inboundSilentFrames: this.#inboundSilentFrames,
      inboundDroppedFrames: this.#inboundDroppedFrames + (this.#tap?.truncatedPackets ?? 0),
      guestQueueBytes: this.#guestQueue.bytes,
      outputFrames: this.#outputFrames,
      outputBytes: this.#outputBytes,
      lanDroppedFrames:
        this.#lanDroppedFrames +
        (this.#tap?.refusedPackets ?? 0) +
        (this.#port?.truncatedPackets ?? 0),
      leaseDroppedFrames: this.#leaseDroppedFrames + (deadline?.dropped(index) ?? 0),
      lanQueueBytes: this.#lanQueue.bytes,
      announcementsSent: this.#announcementsSent,
    };
  }

  /** Frames that the kernel dropped because its queue in front of us was full. */
  async kernelDroppedFrames(): Promise<number> {
    const table = await readFile('/proc/self/net/dev', 'utf8');
    const line = table
      .split('\n')
      .find((row) => row.trim().startsWith(`${this.#options.tapName}:`));
    // Eight receive columns, then transmit: bytes, packets, errors, drop. Transmit is towards us.
    const columns = line
      ?.slice(line.indexOf(':') + 1)
      .trim()
      .split(/\s+/);
    return Number(columns?.[11] ?? 0);
  }

  /** Live, and output is held from now on; `epoch` is the running one. */
  hold(epoch: number): void {
    this.#gate.hold(epoch);
  }

  /** With the guest paused and drained: what comes from now on belongs to `epoch` + 1. */
  closeEpoch(epoch: number): void {
    this.#gate.closeEpoch(epoch);
  }

  /** Checkpoint `epoch` + 1 is committed: sends the output of `epoch` and older. */
  release(epoch: number): void {
    this.#send(this.#gate.release(epoch));
  }

  /** Holds what `onOutput` had taken: it waits for its epoch's commit like all output. */
  holdBack(batch: Buffer): void {
    if (this.#gate.push(batch) === 'passed') this.#send([batch]);
  }

  /** Sends output that both guests have said in the running `epoch`; not while silent. */
  sendConfirmed(epoch: number, batch: Buffer): void {
    if (this.#gate.confirm(epoch, batch) === 'passed') this.#send([batch]);
  }

  /** While blocked, the guest's output is left in its socket, whatever the gate has room for. */
  set outputBlocked(blocked: boolean) {
    this.#outputBlocked = blocked;
    this.#updateBackPressure();
  }

  /** While blocked, frames from the LAN wait in the TAP's kernel queue. */
  set inboundBlocked(blocked: boolean) {
    this.#inboundBlocked = blocked;
    this.#updateInbound();
  }

  /** Live and unprotected: sends what is held, and output passes from now on. */
  open(): void {
    this.#send(this.#gate.open());
  }

  /** Not a frame leaves from now on, not even what was released but not yet written. */
  silence(): void {
    this.#gate.silence();
    this.#lanDroppedFrames += this.#lanQueue.clear();
    this.#cancelAnnouncement();
    this.#updateBackPressure();
  }

  /** The guest is about to be paused: frames from the LAN wait in the TAP's kernel queue. */
  pauseInbound(): void {
    this.#inboundPaused = true;
    this.#updateInbound();
  }

  resumeInbound(): void {
    this.#inboundPaused = false;
    this.#updateInbound();
  }

  /**
   * Pauses inbound and resolves to true once QEMU has read all that was delivered: at a stop right
   * after that, the guest has everything or it is lost for both guests. False if the guest does not
   * take it in time, as one that boots or is stopped.
   */
  async quiesceInbound(timeoutMs: number): Promise<boolean> {
    this.pauseInbound();
    this.#unsettledFrames = 0;
    this.#unsettledBytes = 0;
    const untilUs = monotonicUs() + timeoutMs * 1000;
    while (!this.#stopped) {
      if (this.#guestQueue.bytes === 0 && this.#port?.unreadBytes() === 0) return true;
      if (monotonicUs() >= untilUs) return false;
      await nextTurn();
    }
    return false;
  }

  /**
   * Delivers a checked batch to the guest. False if there is no room: then `onGuestReady` is called
   * once there is.
   */
  inject(batch: Buffer): boolean {
    const port = this.#port;
    if (port === undefined || port.ended) return this.#deliver(batch);
    this.#injectRefused = this.#guestQueue.bytes + batch.length > GUEST_QUEUE_BYTES_MAX;
    return !this.#injectRefused && this.#deliver(batch);
  }

  /**
   * Takes everything that QEMU has written into the gate, whatever the bounds say. Meant for a
   * paused guest; a running one is given up on after a bounded number of bytes.
   *
   * False if so much has come since `quiesceInbound`, or since this was last called, that QEMU may
   * have waited for room: then reading has let it go on, and it sends more and writes guest RAM,
   * although the guest is stopped.
   */
  drain(): boolean {
    const until = this.#outputBytes + DRAIN_BYTES_MAX;
    while (this.#outputBytes < until) {
      const batch = this.#port?.readBatch();
      if (batch === undefined) break;
      this.#takeOutput(batch);
    }
    this.#updateBackPressure();
    const settled =
      this.#unsettledFrames <= SETTLED_FRAMES_MAX && this.#unsettledBytes <= SETTLED_BYTES_MAX;
    this.#unsettledFrames = 0;
    this.#unsettledBytes = 0;
    return settled;
  }

  /** Tells the network where the guest is now, several times. Without effect while silent. */
  announce(addresses: readonly GuestAddress[] = this.addresses.announceable()): void {
    this.#cancelAnnouncement();
    const batch = encodeAnnouncement(addresses);
    if (batch.length === 0 || this.#gate.state === 'silent') return;
    for (const delayMs of ANNOUNCE_DELAYS_MS) {
      if (delayMs === 0) this.#sendAnnouncement(batch);
      else this.#announceTimers.push(setTimeout(() => this.#sendAnnouncement(batch), delayMs));
    }
  }

  /** What the agent itself has to say to the LAN. Without effect while silent. */
  speak(batch: Buffer): void {
    if (this.#gate.state !== 'silent') this.#send([batch]);
  }

  #readPort(port: GuestPort): void {
    const batch = port.readBatch();
    if (batch !== undefined) this.#takeOutput(batch);
    this.#updateBackPressure();
    if (port.ended || port.failure !== undefined) {
      const { index, log } = this.#options;
      const reason = port.failure === undefined ? 'QEMU closed it' : describeError(port.failure);
      log.warn("The guest's port ended", { nic: index, reason });
    }
  }

  #takeOutput(batch: Buffer): void {
    this.#outputBytes += batch.length;
    this.#unsettledBytes += batch.length;
    for (let at = 0; at < batch.length; ) {
      const start = at + LENGTH_BYTES;
      at = start + batch.readUInt32BE(at);
      this.addresses.learn(batch, start + VNET_HEADER_BYTES, at);
      this.#outputFrames++;
      this.#unsettledFrames++;
    }
    if (this.onOutput?.(batch) === true) return;
    if (this.#gate.push(batch) === 'passed') this.#send([batch]);
  }

  #setOffload(tap: Tap, flags: number): void {
    const { index, log } = this.#options;
    log.debug('The guest takes frames unfinished', { nic: index, flags });
    if (tap.setOffload(flags)) return;
    tap.setOffload(0);
    log.warn('The guest gets finished frames only', { nic: index, flags });
  }

  #readTap(tap: Tap): void {
    const batch = tap.readBatch();
    if (tap.failure !== undefined) this.#noteTapDown(describeError(tap.failure));
    if (batch === undefined) return;
    if (this.#gate.state === 'silent') {
      this.#inboundSilentFrames += countFrames(batch);
      return;
    }
    const given = this.rewriteInbound?.(batch) ?? batch;
    if (this.#deliver(given)) this.onInbound?.(given);
  }

  /** False if there was no room or no guest, which is counted. */
  #deliver(batch: Buffer): boolean {
    const frames = countFrames(batch);
    const port = this.#port;
    const queue = this.#guestQueue;
    if (port === undefined || port.ended || queue.bytes + batch.length > GUEST_QUEUE_BYTES_MAX) {
      this.#inboundDroppedFrames += frames;
      return false;
    }
    this.#inboundFrames += frames;
    this.#inboundBytes += batch.length;
    const waits = queue.bytes > 0;
    queue.push(batch);
    if (!waits) this.#flushToGuest(port);
    return true;
  }

  #flushToGuest(port: GuestPort): void {
    const queue = this.#guestQueue;
    for (let batch = queue.front; batch !== undefined; batch = queue.front) {
      const { end, result } = port.writeBatch(batch, queue.offset);
      queue.advance(end);
      if (result === 'down') this.#inboundDroppedFrames += queue.clear();
      if (result === 'full') {
        port.onceWritable(() => this.#flushToGuest(port));
        break;
      }
    }
    this.#updateInbound();
    if (!this.#injectRefused || queue.bytes > 0) return;
    this.#injectRefused = false;
    this.onGuestReady?.();
  }

  /** While a batch waits for the guest, more of the LAN's frames wait in the kernel. */
  #updateInbound(): void {
    const wait = this.#inboundPaused || this.#inboundBlocked || this.#guestQueue.bytes > 0;
    if (wait) this.#tap?.pauseReading();
    else this.#tap?.resumeReading();
  }

  #send(batches: readonly Buffer[]): void {
    for (const batch of batches) {
      this.rewriteOutbound?.(batch);
      this.#lanQueue.push(batch);
    }
    if (!this.#flushScheduled) this.#flushToLan();
  }

  /** Writes a bounded number of frames, then gives the event loop a turn. */
  #flushToLan(): void {
    const queue = this.#lanQueue;
    const bytesAtStart = queue.bytes;
    let frames = LAN_FRAMES_PER_TURN;
    for (let batch = queue.front; batch !== undefined; batch = queue.front) {
      if (frames === 0 || bytesAtStart - queue.bytes >= LAN_BYTES_PER_TURN) break;
      if (!this.#mayWrite()) break;
      frames -= this.#writeToLan(batch, Math.min(frames, this.#framesPerCheck));
    }
    this.#flushScheduled = queue.bytes > 0;
    if (this.#flushScheduled) setImmediate(() => this.#flushToLan());
    this.#updateBackPressure();
  }

  /** Right before each piece of output: the time may have passed since the last one. */
  #mayWrite(): boolean {
    const { lease, index, log } = this.#options;
    const allowed = lease === undefined || lease.allows(bootTimeUs());
    if (!allowed) this.#leaseDroppedFrames += this.#lanQueue.clear();
    if (allowed !== this.#leaseIsOver) return allowed;
    this.#leaseIsOver = !allowed;
    if (!allowed) {
      log.error('The right to speak is over: output is dropped', { nic: index });
      this.onLeaseOver?.();
    }
    return allowed;
  }

  #writeToLan(batch: Buffer, framesMax: number): number {
    const queue = this.#lanQueue;
    const written = this.#tap?.writeBatch(batch, queue.offset, framesMax);
    if (written !== undefined && written.end > queue.offset) {
      this.#tapIsDown = false;
      queue.advance(written.end);
    }
    if (written === undefined || written.result !== 'ok') {
      if (written?.result !== 'full') this.#noteTapDown('The link is down or the device is gone');
      this.#lanDroppedFrames += queue.clear();
    }
    return written?.packets ?? 0;
  }

  #noteTapDown(reason: string): void {
    if (this.#tapIsDown || this.#stopped) return;
    this.#tapIsDown = true;
    const { index, tapName, log } = this.#options;
    log.error('The TAP takes no frames', { nic: index, tap: tapName, reason });
  }

  /**
   * Not reading lets the guest's transmit queue fill, as a slow wire does; nothing is lost here.
   */
  #updateBackPressure(): void {
    const wait = this.#gate.full || this.#lanQueue.full || this.#outputBlocked;
    if (wait) this.#port?.pauseReading();
    else this.#port?.resumeReading();
  }

  #sendAnnouncement(batch: Buffer): void {
    this.#announcementsSent++;
    // Sent several times, but nothing in it is ever translated.
    this.#send([batch]);
  }

  #cancelAnnouncement(): void {
    for (const timer of this.#announceTimers) clearTimeout(timer);
    this.#announceTimers = [];
  }
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
