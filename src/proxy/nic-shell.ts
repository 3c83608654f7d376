/**
 * One guest NIC on one host: moves batches between the TAP in the host's bridge and QEMU's stream
 * socket. What may leave is decided by the output gate; this file has the descriptors, the queues
 * towards both sides, and the timers of the announcement.
 *
 * Around a checkpoint the primary calls, in this order:
 *   pauseInbound(); QMP stop; await drain(); save state; closeEpoch(N); epoch mark to the peer;
 *   resumeInbound(); QMP cont; ... after the commit: release(N).
 *
 * QEMU 7.2 does not reconnect a stream netdev: a dropped connection is a dead NIC until QEMU is
 * started again. At a `stop` QEMU discards what its own queue holds because the socket was full.
 */
import { lstat, readFile, unlink } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { describeError, type Logger, OperatorError, ProtocolError } from '../lib/index.js';
import { openTap, type Tap } from '../linux/index.js';
import { AddressLearner, type GuestAddress } from './address-learner.js';
import { encodeAnnouncement } from './announce-wire.js';
import { BatchDecoder, countFrames, forEachFrame } from './batch-wire.js';
import { LanQueue } from './lan-queue.js';
import {
  ANNOUNCE_DELAYS_MS,
  DRAIN_TURNS_MAX,
  FRAME_BYTES_MIN,
  GUEST_QUEUE_BYTES_MAX,
  LAN_FRAMES_PER_TURN,
} from './limits.js';
import { attachToBridge, bringUp } from './link-shell.js';
import { type GateCounters, type GateState, OutputGate } from './output-gate.js';

export interface NicOptions {
  /** Which of the guest's NICs this is; for the log. */
  readonly index: number;
  /** Must not exist yet. */
  readonly tapName: string;
  /** Without one the TAP stands alone. */
  readonly bridge?: string;
  /** Where QEMU connects to: `-netdev stream,server=off,addr.type=unix,addr.path=...`. */
  readonly socketPath: string;
  readonly mtu?: number;
  readonly log: Logger;
}

/** Frames and bytes since the start, except `*QueueBytes` and the gate's `held*`. */
export interface NicStats extends GateCounters {
  readonly state: GateState;
  readonly connected: boolean;
  readonly overBound: boolean;
  /** Delivered to the guest, from the LAN or injected. */
  readonly inboundFrames: number;
  readonly inboundBytes: number;
  /** Arrived at the TAP while silent. */
  readonly inboundSilentFrames: number;
  /** QEMU absent, or not reading. */
  readonly inboundDroppedFrames: number;
  readonly guestQueueBytes: number;
  /** Emitted by the guest, whatever the gate did with it. */
  readonly outputFrames: number;
  readonly outputBytes: number;
  /**
   * Released, but not taken by the TAP: no whole Ethernet header, link down, no kernel buffer, or
   * silenced in between.
   */
  readonly lanDroppedFrames: number;
  /** Released, not yet written to the TAP. */
  readonly lanQueueBytes: number;
  readonly refusedConnections: number;
  readonly protocolErrors: number;
  readonly announcementsSent: number;
}

export class Nic {
  readonly addresses = new AddressLearner();
  /** Every batch from the LAN that the guest was given, while live. */
  onInbound: ((batch: Buffer) => void) | undefined;
  /**
   * Every batch that the guest emitted, before the gate; also while silent. Returns true if it has
   * taken the batch, which then never reaches the gate by itself.
   */
  onOutput: ((batch: Buffer) => boolean) | undefined;
  /** What the guest gets in place of a batch from the LAN. */
  rewriteInbound: ((batch: Buffer) => Buffer) | undefined;
  /** The guest's queue has room again after `inject` had refused a batch. */
  onGuestReady: (() => void) | undefined;

  readonly #options: NicOptions;
  readonly #gate = new OutputGate();
  readonly #lanQueue = new LanQueue();
  #tap: Tap | undefined;
  #server: Server | undefined;
  #qemu: Socket | undefined;
  #draining = 0;
  #outputBlocked = false;
  #inboundBlocked = false;
  #pausedInbound = false;
  #flushScheduled = false;
  #tapIsDown = false;
  #announceTimers: NodeJS.Timeout[] = [];
  #stopping: Promise<void> | undefined;

  #bytesFromQemu = 0;
  #inboundFrames = 0;
  #inboundBytes = 0;
  #inboundSilentFrames = 0;
  #inboundDroppedFrames = 0;
  #outputFrames = 0;
  #lanDroppedFrames = 0;
  #refusedConnections = 0;
  #protocolErrors = 0;
  #announcementsSent = 0;

  constructor(options: NicOptions) {
    this.#options = options;
  }

  /** Creates the TAP and listens for QEMU. The gate is silent until told otherwise. */
  async start(): Promise<void> {
    const { tapName, bridge, mtu, socketPath } = this.#options;
    const tap = openTap({ name: tapName });
    this.#tap = tap;
    try {
      await bringUp(tapName, mtu);
      if (bridge !== undefined) await attachToBridge(tapName, bridge);
      this.#server = await listen(socketPath, (socket) => this.#accept(socket));
    } catch (error) {
      await this.stop();
      throw error;
    }
    tap.onReadable(() => this.#readTap(tap));
  }

  /** Closes everything and removes the TAP; output still held is dropped. Idempotent. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  get stats(): NicStats {
    return {
      ...this.#gate.counters,
      state: this.#gate.state,
      connected: this.#qemu !== undefined,
      overBound: this.#gate.overBound,
      inboundFrames: this.#inboundFrames,
      inboundBytes: this.#inboundBytes,
      inboundSilentFrames: this.#inboundSilentFrames,
      inboundDroppedFrames: this.#inboundDroppedFrames,
      guestQueueBytes: this.#qemu?.writableLength ?? 0,
      outputFrames: this.#outputFrames,
      outputBytes: this.#bytesFromQemu,
      lanDroppedFrames: this.#lanDroppedFrames,
      lanQueueBytes: this.#lanQueue.bytes,
      refusedConnections: this.#refusedConnections,
      protocolErrors: this.#protocolErrors,
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
    this.#updateReading();
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
    this.#pausedInbound = true;
    this.#updateReading();
  }

  /** As `pauseInbound`; resolves true once the guest's QEMU has read all that came before. */
  async quiesceInbound(_timeoutMs: number): Promise<boolean> {
    this.pauseInbound();
    return false;
  }

  resumeInbound(): void {
    this.#pausedInbound = false;
    this.#updateReading();
  }

  /**
   * Delivers a checked batch to the guest. False if there is no room: then `onGuestReady` is called
   * once there is.
   */
  inject(batch: Buffer): boolean {
    return this.#deliver(batch);
  }

  /**
   * Resolves once everything that QEMU had written before the call has been read, to the number of
   * frames. Meant for a paused guest; a running one is given up on after a bounded time.
   */
  async drain(): Promise<number> {
    const before = this.#outputFrames;
    this.#draining++;
    this.#updateBackPressure();
    // A first turn may begin after this loop iteration's poll; only later ones contain a whole
    // poll.
    await nextTurn();
    for (let turn = 0; turn < DRAIN_TURNS_MAX; turn++) {
      const bytes = this.#bytesFromQemu;
      await nextTurn();
      if (this.#bytesFromQemu === bytes) break;
    }
    this.#draining--;
    this.#updateBackPressure();
    return this.#outputFrames - before;
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

  async #stop(): Promise<void> {
    this.silence();
    this.#tap?.close();
    this.#qemu?.destroy();
    const server = this.#server;
    if (server !== undefined) await new Promise((resolve) => server.close(resolve));
  }

  #accept(socket: Socket): void {
    const { index, log } = this.#options;
    // Errors end in `close`; without a listener they would end the process.
    let reason = 'QEMU closed it';
    socket.on('error', (error) => {
      reason = describeError(error);
    });
    if (this.#qemu !== undefined) {
      this.#refusedConnections++;
      log.warn('A second connection to the NIC socket was refused', { nic: index });
      socket.destroy();
      return;
    }
    this.#qemu = socket;
    log.info('QEMU connected to the NIC socket', { nic: index });
    const decoder = new BatchDecoder();
    socket.on('data', (chunk) => {
      try {
        this.#bytesFromQemu += chunk.length;
        for (const batch of decoder.write(chunk)) this.#takeOutput(batch);
        this.#updateBackPressure();
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error;
        this.#protocolErrors++;
        reason = error.message;
        socket.destroy();
      }
    });
    socket.on('close', () => {
      this.#qemu = undefined;
      if (this.#stopping === undefined) {
        log.warn('The connection to the NIC socket ended', { nic: index, reason });
      }
    });
    this.#updateBackPressure();
  }

  #takeOutput(batch: Buffer): void {
    this.#outputFrames += countFrames(batch);
    forEachFrame(batch, (frame) => this.addresses.learn(frame));
    if (this.onOutput?.(batch) === true) return;
    if (this.#gate.push(batch) === 'passed') this.#send([batch]);
  }

  #readTap(tap: Tap): void {
    const batch = tap.readBatch();
    if (tap.failure !== undefined) this.#noteTapDown(describeError(tap.failure));
    if (batch === undefined) return;
    if (this.#gate.state === 'silent') this.#inboundSilentFrames += countFrames(batch);
    else if (this.#deliver(this.rewriteInbound?.(batch) ?? batch)) this.onInbound?.(batch);
  }

  /** False if there was no room or no guest, which is counted. */
  #deliver(batch: Buffer): boolean {
    const frames = countFrames(batch);
    const qemu = this.#qemu;
    if (qemu === undefined || qemu.writableLength + batch.length > GUEST_QUEUE_BYTES_MAX) {
      this.#inboundDroppedFrames += frames;
      return false;
    }
    this.#inboundFrames += frames;
    this.#inboundBytes += batch.length;
    qemu.write(batch);
    return true;
  }

  #send(batches: readonly Buffer[]): void {
    for (const batch of batches) this.#lanQueue.push(batch);
    if (!this.#flushScheduled) this.#flush();
  }

  /** Writes a bounded number of frames, then gives the event loop a turn. */
  #flush(): void {
    for (let count = 0; count < LAN_FRAMES_PER_TURN; count++) {
      const frame = this.#lanQueue.shift();
      if (frame === undefined) break;
      this.#writeTap(frame);
    }
    this.#flushScheduled = this.#lanQueue.bytes > 0;
    if (this.#flushScheduled) setImmediate(() => this.#flush());
    this.#updateBackPressure();
  }

  #writeTap(frame: Buffer): void {
    // No Ethernet frame, so no link that is down either: the kernel would refuse it.
    if (frame.length < FRAME_BYTES_MIN) {
      this.#lanDroppedFrames++;
      return;
    }
    const result = this.#tap?.writeFrame(frame) ?? 'down';
    if (result === 'ok') {
      this.#tapIsDown = false;
      return;
    }
    this.#lanDroppedFrames++;
    if (result === 'down') this.#noteTapDown('The link is down or the device is gone');
  }

  #noteTapDown(reason: string): void {
    if (this.#tapIsDown || this.#stopping !== undefined) return;
    this.#tapIsDown = true;
    const { index, tapName, log } = this.#options;
    log.error('The TAP takes no frames', { nic: index, tap: tapName, reason });
  }

  /**
   * Not reading lets the guest's transmit queue fill, as a slow wire does; nothing is lost here.
   */
  #updateBackPressure(): void {
    const qemu = this.#qemu;
    if (qemu === undefined) return;
    const wait =
      this.#draining === 0 && (this.#gate.full || this.#lanQueue.full || this.#outputBlocked);
    if (wait === qemu.isPaused()) return;
    if (wait) qemu.pause();
    else qemu.resume();
  }

  #updateReading(): void {
    if (this.#pausedInbound || this.#inboundBlocked) this.#tap?.pauseReading();
    else this.#tap?.resumeReading();
  }

  #sendAnnouncement(batch: Buffer): void {
    this.#announcementsSent++;
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

/** Listens on `path`, over the socket file that a killed predecessor may have left. */
async function listen(path: string, onConnection: (socket: Socket) => void): Promise<Server> {
  await removeStaleSocket(path);
  const server = createServer(onConnection);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => {
      server.off('error', reject);
      resolve();
    });
  });
  return server;
}

async function removeStaleSocket(path: string): Promise<void> {
  try {
    const found = await lstat(path);
    if (!found.isSocket()) {
      throw new OperatorError('COLO_E_SOCKET_PATH', `${path} exists and is no socket: remove it`);
    }
    await unlink(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}
