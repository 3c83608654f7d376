/** The primary's shell in the simulation: carries out what the production core says, on models. */
import {
  PrimaryCore,
  type PrimaryInput,
  type PrimaryOutput,
  type PrimaryState,
} from '../../src/primary/index.js';
import type { EndRecord, GoodbyeKind } from '../../src/replication/index.js';
import { type Checker, type Departure, digestPages } from './checker.js';
import { DiskSync } from './disk-sync.js';
import { BLOCKS, type DeviceState, type Frame, type ModelGuest, type Request } from './guest.js';
import { ForwardedDisk, TrackedRam } from './layers.js';
import { type Message, otherSide, type SimPolicy, type SimSession } from './network.js';
import { PvmNetwork } from './pvm-network.js';
import { type RoleEnd, type RoleHost, type RoleParts, SimRole, type Step } from './role.js';

/** Pages in one RAM frame, blocks in one round of the first disk copy. */
const FRAME_PAGES = 6;
const COPY_BLOCKS = 8;
/** So many bytes and real pages stand behind one page of the model, for the core's thresholds. */
const PAGE_STANDS_FOR_BYTES = 1024 * 1024;
const PAGE_STANDS_FOR_PAGES = 50;
const HELLO_TIMEOUT_US = 2_000_000;
/** As in the production shell: for the peer to read the last message and close the session. */
const GOODBYE_TIMEOUT_US = 2_000_000;

export interface PrimaryStart {
  /** It runs already if it was promoted. */
  readonly guest: ModelGuest;
  readonly promoted: boolean;
  readonly firstEpoch: number;
  readonly policy: SimPolicy;
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

export class SimPrimary extends SimRole<PrimaryInput, PrimaryOutput> {
  readonly core: PrimaryCore;
  readonly guest: ModelGuest;
  readonly lan: PvmNetwork;
  readonly #start: PrimaryStart;
  readonly #parts: RoleParts;
  readonly #checker: Checker;
  readonly #ram: TrackedRam;
  readonly #disks: ForwardedDisk[];
  session: SimSession | undefined;
  /** The secondary's, of the session that the core has or has just ended. */
  #peerInstance: number | undefined;
  #joined = false;
  /** The session that the core ended by itself, before it ran alone. */
  #endedId: number | undefined;
  #replicating = false;
  /** The epoch that disk writes belong to. */
  #epoch: number;
  #sent: Sent;
  #heartbeats = 0;
  readonly #sync = new DiskSync({
    nowUs: () => this.nowLocalUs,
    later: (delayUs, run) => this.later(delayUs, run),
    failed: () => {
      if (this.#diskBroken) this.input({ kind: 'diskFailed', reason: 'A disk failed' });
      return this.#diskBroken;
    },
  });
  #diskBroken = false;
  #leaving: RoleEnd | undefined;
  /** The core's state when the last input came. */
  #before: PrimaryState;
  /** An operator waits for the answer to a checkpoint. */
  operatorWaits = false;

  constructor(host: RoleHost, start: PrimaryStart) {
    super(host);
    const { parts, habits } = host;
    const { guest } = start;
    this.#start = start;
    this.#parts = parts;
    this.#checker = parts.checker;
    this.core = new PrimaryCore({
      ...start.policy,
      minIntervalUs: parts.options.minIntervalUs,
      peerTimeoutUs: habits.peerTimeoutUs,
      heartbeatUs: habits.heartbeatUs,
      hasWitness: false,
      firstEpoch: start.firstEpoch,
    });
    this.#before = this.core.state;
    this.#epoch = this.core.epoch;
    this.#sent = this.#nothingSent();
    this.guest = guest;
    host.standing = 'leading';
    this.#ram = new TrackedRam([...guest.snapshot().pages]);
    this.#disks = host.images.map(
      (image, disk) =>
        new ForwardedDisk(image, (block, value) => this.#forward(disk, block, value)),
    );
    const arrived = guest.received ?? 0;
    this.lan = new PvmNetwork({
      history: parts.checker.history,
      compareTimeoutUs: parts.options.compareTimeoutUs,
      breakage: parts.breakage,
      nowUs: () => this.nowLocalUs,
      later: (delayUs, run) => this.later(delayUs, run),
      send: (message) => this.#send('network', message),
      toGuest: (request) => this.guest.receive(request),
      leave: (frame, way) => this.#leave(frame, way),
      checkpointNeeded: (trigger, epoch) =>
        this.input({ kind: 'checkpointRequested', trigger, epoch }),
      totals: host.outputTotals,
      arrived,
    });
    const emit = (frame: Frame): void => this.deliver(() => this.lan.fromGuest(frame));
    guest.moveTo({ ram: this.#ram, disks: this.#disks, emit }, arrived);
    this.later(1, () => this.input({ kind: 'tick' }));
  }

  get probeAnswer(): 'holding' | 'serving' {
    return this.left ? 'holding' : 'serving';
  }

  get left(): boolean {
    return this.core.state.kind === 'left';
  }

  get speaks(): boolean {
    return this.lan.gate.state !== 'silent';
  }

  accept(): string {
    return 'This node runs the guest';
  }

  onSession(): void {}

  leave(reason: string): void {
    this.input({ kind: 'stopRequested', reason });
  }

  override input(input: PrimaryInput | { kind: 'tick' }): void {
    this.#before = this.core.state;
    super.input(input);
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
    if (this.guest.dead) return;
    if (!this.left) this.#checker.guestEnds(goodbye, this.core.state);
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
      if (this.core.state.kind !== 'session')
        this.input({ kind: 'diskFailed', reason: 'A disk failed' });
    });
  }

  protected died(): void {
    if (!this.left && !this.guest.dead) this.#checker.guestEnds('handover', this.core.state);
    this.guest.kill();
    this.lan.silence();
    if (this.host.powered) this.session?.close(this.host.side, false);
    else this.session?.vanish(this.host.side);
  }

  protected perform(output: PrimaryOutput): void {
    switch (output.kind) {
      case 'connect':
        this.#connect();
        return;
      case 'probe':
        this.network.probe(this.host.side, this.#peerInstance, (result) =>
          this.deliver(() => this.input({ kind: 'probed', result })),
        );
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
        this.#sync.whenDone(() => {
          this.lan.release(output.epoch);
          this.input({ kind: 'released', epoch: output.epoch });
        });
        return;
      case 'startCompare':
        if (this.#parts.breakage === 'compare-unsynced') this.lan.startCompare(output.epoch);
        else this.#sync.whenDone(() => this.lan.startCompare(output.epoch));
        return;
      case 'endSession':
        this.#endedId = this.session?.id;
        this.#endSession();
        return;
      case 'runAlone':
        this.#checker.ranAlone(this.#joined ? this.session?.id : this.#endedId, output.reason);
        [this.#endedId, this.#peerInstance] = [undefined, undefined];
        this.host.standing = 'leading';
        this.#endSession();
        this.#openWhenSynced();
        return;
      case 'checkpointDone':
        this.host.checkpointsDone += 1;
        this.operatorWaits = false;
        return;
      case 'checkpointFailed':
      case 'parted':
        this.operatorWaits = false;
        return;
      case 'silence':
        if (!this.guest.dead) this.#checker.guestGivenUp(this.#before);
        if (this.#parts.breakage !== 'ignore-silence') this.lan.silence();
        return;
      case 'sendYielded':
        this.#send('control', { kind: 'yielded' });
        return;
      case 'sendGoodbye': {
        const { goodbye, reason } = output;
        this.#send('control', { kind: 'goodbye', goodbye, reason });
        return;
      }
      case 'demote':
        this.#leaveRole({ kind: 'demoted' });
        return;
      case 'exit':
        this.#leaveRole({ kind: 'left', code: output.code });
        return;
    }
  }

  /** Silent already; the peer closes the session once it has read the last message. */
  #leaveRole(end: RoleEnd): void {
    this.#leaving = end;
    this.#replicating = false;
    if (this.#parts.breakage === 'ignore-silence') this.#endSession();
    else if (this.session === undefined) this.#finish();
    else this.later(GOODBYE_TIMEOUT_US, () => this.#finish());
  }

  #finish(): void {
    if (this.#leaving === undefined) return;
    if (this.#parts.breakage === 'demoted-speaks') {
      const emit = (frame: Frame): void => this.#leave(frame, 'gate');
      this.guest.moveTo({ ram: this.#ram, disks: this.#disks, emit }, 0);
    } else this.guest.kill();
    this.#endSession();
    this.end(this.#leaving);
  }

  #openWhenSynced(): void {
    this.#sync.whenDone(() => {
      const begun = this.#parts.breakage === 'stale-hold' && this.session !== undefined;
      if (!this.left && !begun) this.lan.open();
    });
  }

  #leave(frame: Frame, way: Departure['way']): void {
    const { state } = this.core;
    const synced = this.#sync.done;
    this.#checker.leftPrimary(this.host.side, frame, { state, way, synced });
    this.#parts.toLan(frame);
  }

  #send(channel: 'control' | 'ram' | 'disk' | 'network', message: Message): void {
    this.session?.send(this.host.side, channel, message);
  }

  #connect(): void {
    const { network } = this;
    if (this.#parts.breakage === 'connect-once' && network.session !== undefined) return;
    const { side, instance } = this.host;
    const peer = network.hosts[otherSide(side)];
    const refuse = (reason: string, delayUs: number): void =>
      this.later(delayUs, () => this.input({ kind: 'peerRefused', reason }));
    this.later(2 * network.delayUs(), () => {
      if (!network.reaches(side) || !network.reaches(otherSide(side))) {
        refuse('The peer does not answer', 300_000);
      } else if (!peer.alive) {
        refuse('The peer refused', 1);
      } else {
        const { mode, periodSetting: period } = this.core;
        const policy = { mode, period };
        const session = network.open(side, { epoch: this.core.epoch, instance, policy });
        this.session = session;
        session.attach(side, {
          message: (_, message) => this.deliver(() => this.#message(session, message)),
          lost: (reason) => this.deliver(() => this.#lost(session, reason)),
        });
        peer.deliver(() => peer.onSession(session));
        this.later(HELLO_TIMEOUT_US, () => {
          if (this.session === session && !this.#joined) this.#lost(session, 'No answer to hello');
        });
      }
    });
  }

  #lost(session: SimSession, reason: string): void {
    if (this.session !== session) return;
    if (this.left) {
      this.#finish();
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
    this.session?.close(this.host.side, false);
    this.session = undefined;
    this.#joined = false;
    this.#replicating = false;
    this.lan.detach();
  }

  #message(session: SimSession, message: Message): void {
    if (this.session !== session) return;
    this.input({ kind: 'heard' });
    switch (message.kind) {
      case 'helloReply':
        if (this.left) return;
        this.#joined = message.json === 'ok';
        this.#epoch = this.core.epoch;
        if (this.#joined) {
          this.#peerInstance = session.secondaryInstance;
          this.host.standing = 'shared';
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
      disks: Array.from({ length: this.#parts.options.disks }, () => ({ operations: 0 })),
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
    const exact = !this.rng.chance(this.#parts.options.inexactRate);
    let ship: Step[] = [];
    let device: DeviceState = guest.saveDevice(exact);
    const failsAt = this.rng.chance(this.#parts.options.captureFailureRate)
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
        this.#sync.begin(this.#syncUs());
        this.input({ kind: 'captured', epoch, atUs: this.nowLocalUs });
        const early = this.#start.promoted ? 'promoted-releases' : 'release-early';
        if ([early, 'release-early'].includes(this.#parts.breakage ?? '')) this.lan.release(epoch);
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
    return this.rng.nextInt(0, this.rng.chance(0.1) ? this.#parts.options.slowestSyncUs : 500);
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
