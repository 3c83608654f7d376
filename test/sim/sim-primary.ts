/**
 * The primary's shell in the simulation: carries out what the production core says, on models.
 */
import type { Prng } from '../../src/lib/index.js';
import {
  PrimaryCore,
  type PrimaryInput,
  type PrimaryOptions,
  type PrimaryOutput,
} from '../../src/primary/index.js';
import type { EndRecord, GoodbyeKind } from '../../src/replication/index.js';
import { type Breakage, type Checker, type Departure, digestPages } from './checker.js';
import {
  BLOCKS,
  type DeviceState,
  type Frame,
  type GuestHabits,
  ModelGuest,
  type Request,
} from './guest.js';
import { ForwardedDisk, TrackedRam } from './layers.js';
import type { Message, SimSession } from './network.js';
import { type NodeParts, SimNode, type Step } from './node.js';
import { PvmNetwork } from './pvm-network.js';

/** Pages in one RAM frame, blocks in one round of the first disk copy. */
const FRAME_PAGES = 6;
const COPY_BLOCKS = 8;
/** So many bytes and real pages stand behind one page of the model, for the core's thresholds. */
const PAGE_STANDS_FOR_BYTES = 1024 * 1024;
const PAGE_STANDS_FOR_PAGES = 50;
const HELLO_TIMEOUT_US = 2_000_000;
/** As in the production shell: for the peer to read the last message and close the session. */
const GOODBYE_TIMEOUT_US = 2_000_000;

export interface PrimaryParts extends NodeParts {
  readonly core: PrimaryOptions;
  readonly checker: Checker;
  readonly disks: number;
  readonly guest: GuestHabits;
  readonly guestRng: Prng;
  readonly captureFailureRate: number;
  /** How often the guest has not read all its input when it is stopped. */
  readonly inexactRate: number;
  readonly compareTimeoutUs: number;
  /** Of an image, when its disk is busy. */
  readonly slowestSyncUs: number;
  readonly breakage: Breakage | undefined;
  /** The secondary hears of a new connection. */
  readonly onSession: (session: SimSession) => void;
  /** A frame reaches the LAN. */
  readonly toLan: (frame: Frame) => void;
}

/** What has been sent of the running epoch. */
interface Sent {
  frames: number;
  pages: number;
  digest: number;
  readonly disks: { operations: number }[];
}

/** What a capture leaves to be sent. */
interface Shipment {
  readonly epoch: number;
  readonly session: SimSession | undefined;
  readonly sent: Sent;
  readonly ship: readonly Step[];
  readonly device: DeviceState;
  readonly svmRuns: boolean;
}

/** Until it is done, on this node's clock, the images lack what the guest was told that they hold. */
interface Sync {
  readonly doneAtUs: number;
  readonly waiting: (() => void)[];
}

export class SimPrimary extends SimNode<PrimaryInput, PrimaryOutput> {
  readonly core: PrimaryCore;
  readonly guest: ModelGuest;
  readonly lan: PvmNetwork;
  readonly #parts: PrimaryParts;
  readonly #checker: Checker;
  readonly #ram = new TrackedRam();
  readonly #disks: ForwardedDisk[];
  session: SimSession | undefined;
  #joined = false;
  /** The session that the core ended by itself, before it ran alone. */
  #endedId: number | undefined;
  #replicating = false;
  /** The epoch that disk writes belong to. */
  #epoch: number;
  #sent: Sent;
  #heartbeats = 0;
  #sync: Sync = { doneAtUs: 0, waiting: [] };
  #diskBroken = false;
  checkpointsDone = 0;
  /** An operator waits for the answer to a checkpoint. */
  operatorWaits = false;

  constructor(parts: PrimaryParts) {
    super('primary', parts);
    this.#parts = parts;
    this.#checker = parts.checker;
    this.core = new PrimaryCore(parts.core);
    this.#epoch = this.core.epoch;
    this.#sent = this.#nothingSent();
    this.#disks = Array.from(
      { length: parts.disks },
      (_, disk) => new ForwardedDisk((block, value) => this.#forward(disk, block, value)),
    );
    this.lan = new PvmNetwork({
      history: parts.checker.history,
      compareTimeoutUs: parts.compareTimeoutUs,
      breakage: parts.breakage,
      nowUs: () => this.nowLocalUs,
      later: (delayUs, run) => this.later(delayUs, run),
      send: (message) => this.#send('network', message),
      toGuest: (request) => this.guest.receive(request),
      leave: (frame, way) => this.#leave(frame, way),
      checkpointNeeded: (trigger, epoch) =>
        this.input({ kind: 'checkpointRequested', trigger, epoch }),
    });
    this.guest = new ModelGuest({
      name: 'PVM',
      world: parts.world,
      history: parts.checker.history,
      rng: parts.guestRng,
      ram: this.#ram,
      disks: this.#disks,
      habits: parts.guest,
      emit: (frame) => this.deliver(() => this.lan.fromGuest(frame)),
    });
    this.guest.resume();
    this.later(1, () => this.input({ kind: 'tick' }));
  }

  get probeAnswer(): 'serving' {
    return 'serving';
  }

  get left(): boolean {
    return this.core.state.kind === 'left';
  }

  /** A client's frame at this host's TAP. */
  receive(request: Request): void {
    this.deliver(() => this.lan.fromLan(request));
  }

  checkpoint(): void {
    this.deliver(() => {
      if (this.left) return;
      this.operatorWaits = true;
      this.input({ kind: 'checkpointRequested', trigger: 'operator' });
    });
  }

  /** A step that fails because of it is not told; its end is, a moment later. */
  guestEnds(goodbye: GoodbyeKind): void {
    this.guest.kill();
    this.abortJobs();
    this.later(this.rng.nextInt(1, 5_000), () =>
      this.input({ kind: 'guestEnded', goodbye, reason: `Guest ends: ${goodbye}` }),
    );
  }

  /** The image can't be synced any more: told by the next sync, or at once when none is due. */
  diskFails(): void {
    this.#diskBroken = true;
    this.deliver(() => {
      if (this.core.state.kind !== 'session') this.#diskFailed();
    });
  }

  #diskFailed(): void {
    this.input({ kind: 'diskFailed', reason: 'A disk failed' });
  }

  freezeGuest(frozen: boolean): void {
    this.guest.frozen = frozen;
  }

  protected died(): void {
    this.#checker.primaryDied(this.core.isProtected);
    this.guest.kill();
    if (this.powered) this.session?.close('primary', false);
    else this.session?.vanish('primary');
  }

  protected perform(output: PrimaryOutput): void {
    switch (output.kind) {
      case 'connect':
        this.#connect();
        return;
      case 'probe':
        this.network.probe('primary', (result) => this.input({ kind: 'probed', result }));
        return;
      case 'heartbeat':
        this.#heartbeats += 1;
        this.#send('control', { kind: 'heartbeat', sequence: this.#heartbeats });
        return;
      case 'syncRound':
        this.#syncRound(output.epoch, output.first);
        return;
      case 'presendRound':
        this.#presendRound(output.epoch);
        return;
      case 'capture':
        this.#capture(output);
        return;
      case 'release':
        this.#whenSynced(() => {
          this.lan.release(output.epoch);
          this.input({ kind: 'released', epoch: output.epoch });
        });
        return;
      case 'startCompare':
        if (this.#parts.breakage === 'compare-unsynced') this.lan.startCompare(output.epoch);
        else this.#whenSynced(() => this.lan.startCompare(output.epoch));
        return;
      case 'endSession':
        this.#endedId = this.session?.id;
        this.#endSession();
        return;
      case 'runAlone':
        this.#checker.ranAlone(this.#joined ? this.session?.id : this.#endedId, output.reason);
        this.#endedId = undefined;
        this.#endSession();
        this.#openWhenSynced();
        return;
      case 'checkpointDone':
        this.checkpointsDone += 1;
        this.operatorWaits = false;
        return;
      case 'checkpointFailed':
        this.operatorWaits = false;
        return;
      case 'silence':
        if (this.#parts.breakage !== 'ignore-silence') this.lan.silence();
        return;
      case 'sendYielded':
        this.#send('control', { kind: 'yielded' });
        return;
      case 'sendGoodbye':
        this.#send('control', {
          kind: 'goodbye',
          goodbye: output.goodbye,
          reason: output.reason,
        });
        return;
      case 'demote':
      case 'exit':
        if (this.#parts.breakage === 'ignore-silence') {
          this.#endSession();
          return;
        }
        if (this.session === undefined) {
          this.die();
          return;
        }
        this.#replicating = false;
        this.later(GOODBYE_TIMEOUT_US, () => this.die());
        return;
    }
  }

  /** Once what the output may tell of is durable here too; in the order of the calls. */
  #whenSynced(run: () => void): void {
    const sync = this.#sync;
    sync.waiting.push(run);
    if (sync.waiting.length === 1) this.#awaitSync(sync);
  }

  #awaitSync(sync: Sync): void {
    this.later(Math.max(0, sync.doneAtUs - this.nowLocalUs), () => {
      if (this.nowLocalUs < sync.doneAtUs) this.#awaitSync(sync);
      else if (this.#diskBroken) this.#diskFailed();
      else for (const run of sync.waiting.splice(0)) run();
    });
  }

  #openWhenSynced(): void {
    this.#whenSynced(() => {
      const begun = this.#parts.breakage === 'stale-hold' && this.session !== undefined;
      if (!this.left && !begun) this.lan.open();
    });
  }

  #leave(frame: Frame, way: Departure['way']): void {
    const { state } = this.core;
    const synced = this.nowLocalUs >= this.#sync.doneAtUs;
    this.#checker.leftPrimary(frame, { state, way, synced });
    this.#parts.toLan(frame);
  }

  #send(channel: 'control' | 'ram' | 'disk' | 'network', message: Message): void {
    this.session?.send('primary', channel, message);
  }

  #connect(): void {
    const { network } = this;
    if (this.#parts.breakage === 'connect-once' && network.session !== undefined) return;
    const refuse = (reason: string, delayUs: number): void =>
      this.later(delayUs, () => this.input({ kind: 'peerRefused', reason }));
    this.later(2 * network.delayUs(), () => {
      if (!network.reaches('primary') || !network.reaches('secondary')) {
        refuse('The peer does not answer', 300_000);
      } else if (!network.hosts.secondary.alive || network.hosts.secondary.left) {
        refuse('The peer refused', 1);
      } else {
        const session = network.open();
        this.session = session;
        session.attach('primary', {
          message: (_, message) => this.#message(message),
          lost: (reason) => this.#lost(session, reason),
        });
        this.#parts.onSession(session);
        this.later(HELLO_TIMEOUT_US, () => {
          if (this.session === session && !this.#joined) this.#lost(session, 'No answer to hello');
        });
      }
    });
  }

  #lost(session: SimSession, reason: string): void {
    if (this.session !== session) return;
    if (this.left) {
      this.die();
      return;
    }
    if (this.#joined) {
      this.input({ kind: 'linkLost', reason });
      return;
    }
    this.#endSession();
    this.input({ kind: 'peerRefused', reason });
  }

  #endSession(): void {
    this.session?.close('primary', false);
    this.session = undefined;
    this.#joined = false;
    this.#replicating = false;
    this.lan.detach();
  }

  #message(message: Message): void {
    this.input({ kind: 'heard' });
    switch (message.kind) {
      case 'helloReply':
        if (this.left) return;
        this.#joined = message.json === 'ok';
        this.#epoch = this.core.epoch;
        if (this.#joined) {
          this.lan.attach(this.#epoch);
          this.input({ kind: 'peerConnected' });
          return;
        }
        this.#endSession();
        this.input({ kind: 'peerRefused', reason: message.json });
        return;
      case 'committed':
        this.input({ kind: 'committed', epoch: message.epoch });
        return;
      case 'applied':
        this.input({ kind: 'applied', epoch: message.epoch });
        return;
      case 'unfit':
        this.input({ kind: 'peerUnfit', reason: message.reason });
        return;
      case 'svmOutput':
        this.lan.fromSvm(message.epoch, message.frame);
        return;
      case 'takeover':
        this.input({ kind: 'takeoverRequested' });
        return;
      default:
        return;
    }
  }

  #nothingSent(): Sent {
    return {
      frames: 0,
      pages: 0,
      digest: 0,
      disks: Array.from({ length: this.#parts.disks }, () => ({ operations: 0 })),
    };
  }

  #forward(disk: number, block: number, value: number): void {
    if (!this.#replicating) return;
    const sent = this.#sent.disks[disk];
    if (sent !== undefined) sent.operations += 1;
    this.#send('disk', { kind: 'diskWrite', epoch: this.#epoch, disk, block, value });
  }

  /** Steps that send copies of these pages, as they are now, under `epoch`. */
  #shipPages(epoch: number, pages: readonly number[], sent: Sent): Step[] {
    const copies = pages.map((page) => [page, this.#ram.get(page)] as const);
    const steps: Step[] = [];
    for (let at = 0; at < copies.length; at += FRAME_PAGES) {
      const frame = copies.slice(at, at + FRAME_PAGES);
      steps.push([
        'ram',
        () => {
          sent.frames += 1;
          sent.pages += frame.length;
          sent.digest = digestPages(sent.digest, frame);
          this.#send('ram', { kind: 'ramPages', epoch, pages: frame });
        },
      ]);
    }
    return steps;
  }

  /** Scan, then copy and send; the guest runs on meanwhile. `done` gets what is written by then. */
  #round(
    name: string,
    epoch: number,
    session: SimSession | undefined,
    done: (pages: number) => void,
  ) {
    let pages: number[] = [];
    this.run(name, [
      [
        'scan',
        () => {
          pages = this.#ram.scan();
          return this.session === session;
        },
      ],
      [
        'copy',
        () => {
          const steps = this.session === session ? this.#shipPages(epoch, pages, this.#sent) : [];
          for (const [, ship] of steps) ship();
          return this.session === session;
        },
      ],
      ['report', () => done(pages.length)],
    ]);
  }

  #syncRound(epoch: number, first: boolean): void {
    const { session } = this;
    if (first) {
      const steps: Step[] = [['track', () => this.#startReplicating(session, epoch)]];
      for (let block = 0; block < BLOCKS; block += COPY_BLOCKS) {
        steps.push(['disk', () => this.#copyBlocks(session, block)]);
      }
      this.run('sync', steps);
    }
    this.#round('sync', epoch, session, () =>
      this.input({
        kind: 'syncRound',
        remainingBytes: this.#ram.dirty.size * PAGE_STANDS_FOR_BYTES,
      }),
    );
  }

  #startReplicating(session: SimSession | undefined, epoch: number): boolean {
    if (this.session !== session) return false;
    this.#epoch = epoch;
    this.#ram.markAll();
    this.#sent = this.#nothingSent();
    this.#replicating = true;
    return true;
  }

  #copyBlocks(session: SimSession | undefined, from: number): boolean {
    if (this.session !== session) return false;
    for (const [disk, cells] of this.#disks.entries()) {
      for (let block = from; block < from + COPY_BLOCKS; block += 1) {
        this.#forward(disk, block, cells.get(block));
      }
    }
    return true;
  }

  #presendRound(epoch: number): void {
    this.#round('presend', epoch, this.session, (pages) =>
      this.input({ kind: 'presendRound', pages: pages * PAGE_STANDS_FOR_PAGES }),
    );
  }

  #capture({ epoch, svmRuns }: Extract<PrimaryOutput, { kind: 'capture' }>): void {
    const { session, guest } = this;
    const sent = this.#sent;
    const exact = !this.rng.chance(this.#parts.inexactRate);
    let ship: Step[] = [];
    let device: DeviceState = guest.saveDevice(exact);
    const failsAt = this.rng.chance(this.#parts.captureFailureRate)
      ? this.rng.pick(['pause', 'save', 'scan'])
      : undefined;
    const resume = (): void => {
      guest.resume();
      this.lan.resume();
    };
    const step = (name: string, run: () => unknown): Step => [
      name,
      () => {
        if (guest.dead) return false;
        if (name !== failsAt) return run();
        resume();
        this.input({ kind: 'captureFailed', reason: `QMP failed at ${name}` });
        return false;
      },
    ];
    this.run('capture', [
      step('quiesce', () => this.lan.quiesce()),
      step('pause', () => guest.pause()),
      step('save', () => {
        device = guest.saveDevice(exact);
      }),
      step('scan', () => {
        const pages = this.#parts.breakage === 'skip-final-scan' ? [] : this.#ram.scan();
        ship = this.#shipPages(epoch, pages, sent);
        this.#checker.captured(epoch, guest.snapshot(device));
      }),
      step('edge', () => this.#edge(epoch, { session, exact, svmRuns })),
      step('resume', () => {
        resume();
        this.#sync = { doneAtUs: this.nowLocalUs + this.#syncUs(), waiting: [] };
        this.input({ kind: 'captured', epoch, atUs: this.nowLocalUs });
        if (this.#parts.breakage === 'release-early') this.lan.release(epoch);
        this.run('ship', this.#shipSteps({ epoch, session, sent, ship, device, svmRuns }));
      }),
    ]);
  }

  /** With the guest paused: what comes from now on is of the next epoch. */
  #edge(
    epoch: number,
    edge: { session: SimSession | undefined; exact: boolean; svmRuns: boolean },
  ): void {
    if (this.session !== edge.session || !this.#joined || this.left) return;
    this.#epoch = epoch + 1;
    this.#sent = this.#nothingSent();
    for (const disk of this.#disks.keys()) this.#send('disk', { kind: 'diskEnd', epoch, disk });
    this.lan.edge(epoch, { exact: edge.exact, compares: edge.svmRuns });
  }

  /** Most syncs are quick, some are not. */
  #syncUs(): number {
    return this.rng.nextInt(0, this.rng.chance(0.1) ? this.#parts.slowestSyncUs : 500);
  }

  #shipSteps(shipment: Shipment): Step[] {
    const { epoch, session, sent, device, svmRuns } = shipment;
    const guarded = ([name, run]: Step): Step => [
      name,
      () => {
        if (this.session !== session) return false;
        run();
        return true;
      },
    ];
    const rest: Step[] = [
      ['device', () => this.#send('ram', { kind: 'deviceState', epoch, device })],
      ['ramEnd', () => this.#send('ram', { kind: 'ramEnd', epoch })],
      [
        'endRecord',
        () => {
          const record: EndRecord = {
            epoch,
            ramFrames: sent.frames,
            ramPages: sent.pages,
            ramDigest: sent.digest,
            deviceStateBytes: 1,
            disks: sent.disks.map(({ operations }) => ({ operations, bytes: operations })),
            svmRuns,
            sinceResumeUs: 0,
          };
          this.#send('control', { kind: 'endRecord', record });
        },
      ],
    ];
    return [...shipment.ship, ...rest].map(guarded);
  }
}
