/** The primary's shell in the simulation: carries out what the production core says, on models. */
import {
  PrimaryCore,
  type PrimaryInput,
  type PrimaryOutput,
  type PrimaryState,
} from '../../src/primary/index.js';
import { type GoodbyeKind, isDeaf } from '../../src/replication/index.js';
import type { Checker, Departure } from './checker.js';
import { BLOCKS, type DeviceState, type Frame, type ModelGuest, type Request } from './guest.js';
import { SimHeldOutput } from './held-output.js';
import { HAS_RAM, SimComparison } from './kept-ram.js';
import { ForwardedDisk, TrackedRam } from './layers.js';
import { type Message, otherSide, type SimOffer, type SimSession } from './network.js';
import { PrimarySpeech } from './primary-speech.js';
import { PvmNetwork } from './pvm-network.js';
import {
  type PrimaryStart,
  type RoleEnd,
  type RoleHost,
  type RoleParts,
  SimRole,
  type Step,
} from './role.js';
import {
  guarded,
  nothingSent,
  PAGE_BYTES,
  PAGE_COUNTS,
  type Sent,
  shipPages,
  shipRest,
} from './shipping.js';

/** Blocks in one round of the first disk copy. */
const COPY_BLOCKS = 8;
const HELLO_TIMEOUT_US = 2_000_000;
/** For the peer to read the last message and close the session. */
const GOODBYE_TIMEOUT_US = 2_000_000;

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
  #comparison: SimComparison | 'offered' | undefined;
  readonly #held: SimHeldOutput;
  #offer: SimOffer | undefined;
  readonly #speech: PrimarySpeech;
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
    this.#speech = new PrimarySpeech(host.speech);
    this.#checker = parts.checker;
    this.core = new PrimaryCore({
      ...start.policy,
      minIntervalUs: parts.options.minIntervalUs,
      peerTimeoutUs: habits.peerTimeoutUs,
      holdLimitUs: parts.options.holdLimitUs,
      heartbeatUs: habits.heartbeatUs,
      hasWitness: host.speech !== undefined,
      firstEpoch: start.firstEpoch,
    });
    this.#before = this.core.state;
    this.#epoch = this.core.epoch;
    this.#sent = nothingSent(this.#parts.options.disks);
    this.guest = guest;
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
      later: (delayUs, run) => this.laterNet(delayUs, run),
      send: (message) => this.#send('network', message),
      toGuest: (request) => this.guest.receive(request),
      leave: (frame, way) => this.#leave(frame, way),
      checkpointNeeded: (trigger, epoch) =>
        this.deliver(() => this.input({ kind: 'checkpointRequested', trigger, epoch })),
      totals: host.outputTotals,
      arrived,
    });
    this.#held = new SimHeldOutput({
      lan: this.lan,
      records: host.records,
      rng: this.rng,
      breakage: parts.breakage,
      nowUs: () => this.nowLocalUs,
      later: (delayUs, run) => this.later(delayUs, run),
      isOver: () => this.left || (parts.breakage === 'stale-hold' && this.session !== undefined),
      failed: () => {
        if (this.#diskBroken) this.input({ kind: 'diskFailed', reason: 'A disk failed' });
        return this.#diskBroken;
      },
    });
    const emit = (frame: Frame): void => this.deliverNet(() => this.lan.fromGuest(frame));
    guest.moveTo({ ram: this.#ram, disks: this.#disks, emit }, arrived);
    this.later(1, () => {
      this.input({ kind: 'tick' });
      this.#listenToSpeech();
    });
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
    this.deliverNet(() => this.lan.fromLan(request));
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
  diskFails(fails = true): void {
    this.#diskBroken = fails;
    if (!fails) return;
    this.deliver(() => {
      if (this.core.state.kind !== 'session')
        this.input({ kind: 'diskFailed', reason: 'A disk failed' });
    });
  }

  #listenToSpeech(): void {
    const { speech } = this.host;
    if (speech === undefined || this.over) return;
    const onFenced = (reason: string): void => this.input({ kind: 'fenced', reason });
    speech.hooks = { onAlone: () => this.input({ kind: 'granted' }), onFenced };
    if (speech.fenced !== undefined) onFenced(speech.fenced);
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
        this.#send('control', output);
        return;
      case 'syncRound':
        this.#syncRound(output.epoch, output.first);
        return;
      case 'presendRound':
        this.#presendRound(output.epoch);
        return;
      case 'capture':
        this.#speech.onceProtecting(() => this.#capture(output));
        return;
      case 'release':
        this.host.records.committed(output.epoch);
        this.#held.release(output.epoch, () =>
          this.input({ kind: 'released', epoch: output.epoch }),
        );
        return;
      case 'startCompare':
        this.#held.startCompare(output.epoch);
        return;
      case 'endSession':
        this.#endedId = this.session?.id;
        this.#endSession();
        return;
      case 'runAlone':
        this.#sessionOver(output.reason);
        this.#held.open();
        return;
      case 'askAlone':
        this.#sessionOver(output.reason);
        this.host.speech?.peerLost(output);
        // A sabotage: the witness's answer is not awaited.
        if (this.#parts.breakage === 'open-unasked') this.#held.open();
        return;
      case 'open':
        this.#held.open();
        return;
      case 'protecting':
        this.#speech.protect(this.#offer?.session);
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
        this.#speech.silence();
        return;
      case 'sendYielded':
        this.#speech.onceSilent(() => this.#send('control', { kind: 'yielded' }));
        return;
      case 'sendGoodbye': {
        const { goodbye, reason } = output;
        this.#speech.onceSilent(() => this.#send('control', { kind: 'goodbye', goodbye, reason }));
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
    else if (this.session === undefined) this.#speech.onceSilent(() => this.#finish());
    else {
      this.#speech.onceSilent(() => this.later(GOODBYE_TIMEOUT_US, () => this.#finish()));
    }
  }

  #sessionOver(reason: string): void {
    this.#checker.ranAlone(this.#joined ? this.session?.id : this.#endedId, reason);
    [this.#endedId, this.#peerInstance] = [undefined, undefined];
    this.#held.sessionOver();
    this.#endSession();
  }

  #finish(): void {
    if (this.#leaving === undefined || this.over) return;
    if (this.#parts.breakage === 'demoted-speaks') {
      const emit = (frame: Frame): void => this.#leave(frame, 'gate');
      this.guest.moveTo({ ram: this.#ram, disks: this.#disks, emit }, 0);
    } else this.guest.kill();
    this.#endSession();
    if (this.#leaving.kind === 'demoted') this.host.leftRam = [...this.#ram.pages];
    this.end(this.#leaving);
  }

  #leave(frame: Frame, way: Departure['way']): void {
    const { state } = this.core;
    const synced = this.#held.synced;
    if (!this.host.mayLeave()) return;
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
    const refuse = (reason: string, delayUs: number): void => {
      this.#offer = undefined;
      this.later(delayUs, () => this.input({ kind: 'peerRefused', reason }));
    };
    const { speech } = this.host;
    if (speech !== undefined && this.#offer === undefined) {
      speech.offer((offer) => {
        if (this.over || this.left) return;
        this.#offer = offer;
        this.#connect();
      });
      return;
    }
    this.later(2 * network.delayUs(), () => {
      if (this.left) return;
      if (!network.reaches(side) || !network.reaches(otherSide(side))) {
        refuse('The peer does not answer', 300_000);
      } else if (!peer.alive) {
        refuse('The peer refused', 1);
      } else {
        const { mode, setting: period } = this.core.pace;
        const policy = { mode, period };
        const { image } = this.host.records;
        const has = { epoch: this.core.epoch, offer: this.#offer };
        const session = network.open(side, { ...has, instance, policy, image });
        this.session = session;
        session.attach(side, {
          message: (channel, message) => {
            if (channel === 'network') this.deliverNet(() => this.#packet(session, message));
            else this.deliver(() => this.#message(session, message));
          },
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
    this.#comparison = undefined;
    this.#offer = undefined;
    this.lan.detach();
  }

  #packet(session: SimSession, message: Message): void {
    if (this.session !== session) return;
    this.deliver(() => this.session === session && this.input({ kind: 'heard', isDeaf: false }));
    if (message.kind === 'svmOutput') this.lan.fromSvm(message.epoch, message.frame);
  }

  #message(session: SimSession, message: Message): void {
    if (this.session !== session) return;
    this.input({ kind: 'heard', isDeaf: isDeaf(message) });
    switch (message.kind) {
      case 'helloReply':
        if (this.left) return;
        this.#comparison = message.json === HAS_RAM ? 'offered' : undefined;
        this.#epoch = this.core.epoch;
        if (message.json === 'ok' || message.json === HAS_RAM) {
          this.#joined = true;
          this.#peerInstance = session.secondaryInstance;
          this.#held.peering();
          if (this.#offer !== undefined) this.host.speech?.meet(this.#offer.key);
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
      case 'takeover':
        this.input({ kind: 'takeoverRequested' });
        return;
      case 'ramDigests':
        if (typeof this.#comparison === 'object') this.#comparison.add(message);
        return;
      default:
        return;
    }
  }

  #shipPages(epoch: number, pages: readonly number[], sent: Sent): Step[] {
    const copies = pages.map((page) => [page, this.#ram.get(page)] as const);
    return shipPages({ epoch, copies, sent }, (message) => this.#send('ram', message));
  }

  #forward(disk: number, block: number, value: number): void {
    if (!this.#replicating) return;
    const sent = this.#sent.disks[disk];
    if (sent !== undefined) sent.operations += 1;
    this.#send('disk', { kind: 'diskWrite', epoch: this.#epoch, disk, block, value });
  }

  /** Scan, then copy and send; the guest runs on meanwhile. `done` gets what is written by then. */
  #round(name: string, epoch: number, done: (pages: number) => void) {
    const { session } = this;
    let pages: number[] = [];
    const scan = (): void => {
      pages = this.#ram.scan();
    };
    const copy = (): void => {
      for (const [, ship] of this.#shipPages(epoch, pages, this.#sent)) ship();
    };
    const steps: [Step, Step] = [
      ['scan', scan],
      ['copy', copy],
    ];
    const sending = guarded(() => this.session === session, steps);
    this.run(name, [...sending, ['report', () => done(pages.length)]]);
  }

  #syncRound(epoch: number, first: boolean): void {
    const { session } = this;
    const done = (): void => {
      const remainingBytes = this.#ram.dirty.size * PAGE_BYTES;
      this.input({ kind: 'syncRound', remainingBytes });
    };
    const compares = first && this.#comparison !== undefined;
    if (first) {
      const steps: Step[] = [['track', () => this.#startReplicating(session, epoch)]];
      for (let block = 0; block < BLOCKS; block += COPY_BLOCKS) {
        steps.push(['disk', () => this.#copyBlocks(session, block)]);
      }
      if (compares) steps.push(['compare', () => this.session === session && this.#compare(done)]);
      this.run('sync', steps);
    }
    if (!compares) this.#round('sync', epoch, done);
  }

  #compare(done: () => void): void {
    const send = (message: Message): void => this.#send('ram', message);
    const has = { epoch: this.#epoch, ram: this.#ram, sent: this.#sent, done };
    this.#comparison = new SimComparison({ ...has, send, breakage: this.#parts.breakage });
  }

  #startReplicating(session: SimSession | undefined, epoch: number): boolean {
    if (this.session !== session) return false;
    this.#epoch = epoch;
    this.#ram.markAll();
    this.#sent = nothingSent(this.#parts.options.disks);
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
    this.#round('presend', epoch, (pages) =>
      this.input({ kind: 'presendRound', pages: pages * PAGE_COUNTS }),
    );
  }

  #capture({ epoch, svmRuns }: Extract<PrimaryOutput, { kind: 'capture' }>): void {
    const { session, guest } = this;
    if (this.over || this.core.epoch !== epoch) return;
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
        this.#held.captured(this.#parts.options.slowestSyncUs);
        this.input({ kind: 'captured', epoch, atUs: this.nowLocalUs });
        const early = this.#start.promoted ? 'promoted-releases' : 'release-early';
        if ([early, 'release-early'].includes(this.#parts.breakage ?? '')) this.lan.release(epoch);
        this.run(
          'ship',
          guarded(
            () => this.session === session,
            [
              ...ship,
              ...shipRest({ epoch, sent, device, svmRuns }, (channel, message) =>
                this.#send(channel, message),
              ),
            ],
          ),
        );
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
    this.#sent = nothingSent(this.#parts.options.disks);
    for (const disk of this.#disks.keys()) this.#send('disk', { kind: 'diskEnd', epoch, disk });
    this.lan.edge(epoch, { exact: edge.exact, compares: edge.svmRuns });
  }
}
