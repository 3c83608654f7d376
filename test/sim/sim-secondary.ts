/**
 * The secondary's shell in the simulation: carries out what the production core says, on models.
 *
 * Outputs that change the SVM or what is staged are done one after the other (`commit` before
 * `sendCommitted` before `apply`, `dropStaged` before `promote`); only `discard` overtakes, since
 * it kills what the others work on.
 */
import type { ProbeResult } from '../../src/failover/index.js';
import type { Prng } from '../../src/lib/index.js';
import {
  SecondaryCore,
  type SecondaryInput,
  type SecondaryOptions,
  type SecondaryOutput,
} from '../../src/secondary/index.js';
import { type Breakage, type Checker, digestPages } from './checker.js';
import {
  type DeviceState,
  type Frame,
  type GuestHabits,
  type GuestState,
  ModelGuest,
  PAGES,
  type Request,
} from './guest.js';
import { BufferedDisk, Gate, LayeredCells } from './layers.js';
import type { Message, SimSession } from './network.js';
import { type NodeParts, SimNode, type Step } from './node.js';
import { SvmNetwork } from './svm-network.js';

export interface SecondaryParts extends NodeParts {
  readonly core: SecondaryOptions;
  readonly checker: Checker;
  readonly disks: number;
  readonly guest: GuestHabits;
  readonly guestRng: Prng;
  readonly breakage: Breakage | undefined;
  readonly toLan: (frame: Frame) => void;
}

/** What has arrived of RAM and devices of one epoch. */
interface Arrived {
  readonly pages: Map<number, number>;
  epoch: number | undefined;
  frames: number;
  pageCount: number;
  digest: number;
  device: DeviceState | undefined;
}

/** The SVM with everything that belongs to it; a new one for each session. */
interface Svm {
  readonly guest: ModelGuest;
  readonly ram: LayeredCells;
  readonly disks: readonly BufferedDisk[];
  readonly lan: SvmNetwork;
  arrived: Arrived;
  /** Committed and not applied yet. */
  committed: { readonly epoch: number; readonly arrived: Arrived } | undefined;
  /** The newest epoch that is whole in RAM cache, image and devices. */
  appliedEpoch: number | undefined;
  applying: boolean;
  /** The device state that was loaded last; a running SVM has its own by now. */
  appliedDevice: DeviceState;
  /** It has executed since the last apply. */
  ran: boolean;
}

export class SimSecondary extends SimNode<SecondaryInput, SecondaryOutput> {
  core: SecondaryCore;
  readonly gate = new Gate('silent');
  readonly #parts: SecondaryParts;
  readonly #checker: Checker;
  session: SimSession | undefined;
  svm: Svm | undefined;
  #heartbeats = 0;
  /** Something ran in this process since the checkers last looked. */
  touched = false;

  constructor(parts: SecondaryParts) {
    super('secondary', parts);
    this.#parts = parts;
    this.#checker = parts.checker;
    this.core = new SecondaryCore(parts.core);
  }

  get probeAnswer(): ProbeResult {
    const answer = this.core.probeAnswer;
    return answer === 'idle' ? 'alive' : answer;
  }

  get left(): boolean {
    return this.core.state.kind === 'left';
  }

  get serving(): boolean {
    const { kind } = this.core.state;
    return kind === 'promoting' || kind === 'active';
  }

  /** An operator waits for the answer to a failover. */
  operatorWaits = false;
  /** It has gone live once, dead or not. */
  ranGuest = false;

  override deliver(run: () => void): void {
    this.touched = true;
    super.deliver(run);
  }

  freezeGuest(frozen: boolean): void {
    if (this.svm !== undefined) this.svm.guest.frozen = frozen;
  }

  /** RAM cache, image and devices while the SVM stands by; undefined while they change. */
  standbyState(): { epoch: number; state: GuestState } | undefined {
    const { svm } = this;
    if (!this.alive || svm?.appliedEpoch === undefined || svm.applying) return undefined;
    if (this.serving) return undefined;
    const state = {
      pages: svm.ram.bases,
      device: svm.ran ? svm.appliedDevice : svm.guest.saveDevice(true),
      disks: svm.disks.map((disk) => disk.bases),
    };
    return { epoch: svm.appliedEpoch, state };
  }

  /** What a failover would continue from; undefined if nothing is applied. */
  get survivor(): { appliedEpoch: number; flowHead(flow: number): number } | undefined {
    const { svm } = this;
    if (!this.alive || svm?.appliedEpoch === undefined) return undefined;
    const { appliedEpoch, guest } = svm;
    return { appliedEpoch, flowHead: (flow) => guest.flowHead(flow) };
  }

  /** A new, empty process in place of a dead one. */
  restart(): void {
    this.trace(() => 'RESTARTED');
    this.core = new SecondaryCore(this.#parts.core);
    this.operatorWaits = false;
    this.session = undefined;
    this.svm = undefined;
    this.born();
  }

  /** A client's frame at this host's TAP; the TAP of a standby is deaf. */
  receive(request: Request): void {
    if (this.gate.state === 'open') this.deliver(() => this.svm?.guest.receive(request));
  }

  failover(force: boolean): void {
    this.deliver(() => {
      if (this.left) return;
      this.operatorWaits = true;
      this.#checker.operatorAskedForFailover(force);
      this.input({ kind: 'operatorFailover', force });
    });
  }

  guestEnds(): void {
    if (this.svm === undefined) return;
    this.#checker.secondaryLost();
    this.svm.guest.kill();
    this.abortJobs();
    this.input({ kind: 'broken', reason: 'The SVM died' });
  }

  /** The hello of a new connection. */
  join(session: SimSession): void {
    this.deliver(() => {
      // For a standby a hello proves nothing yet: a primary that booted afresh says it too.
      if (this.core.state.kind === 'waitingForOperator') this.#provenAlive();
      if (this.core.state.kind !== 'waiting') {
        session.attach('secondary', { message: () => {}, lost: () => {} });
        this.input({ kind: 'peerReturned' });
        this.#refuse(session, `The secondary is ${this.core.state.kind}`);
        return;
      }
      this.session = session;
      session.attach('secondary', {
        message: (channel, message) => this.#message(session, channel, message),
        lost: (reason) => {
          if (this.session === session) this.input({ kind: 'linkLost', reason });
        },
      });
      this.run('launch', [['svm', () => this.#launch(session)]]);
    });
  }

  protected died(): void {
    this.#checker.secondaryLost();
    this.svm?.guest.kill();
    this.gate.silence();
    if (this.powered) this.session?.close('secondary', false);
    else this.session?.vanish('secondary');
    this.session = undefined;
  }

  protected perform(output: SecondaryOutput): void {
    switch (output.kind) {
      case 'heartbeat':
        this.#heartbeats += 1;
        this.#send({ kind: 'heartbeat', sequence: this.#heartbeats });
        return;
      case 'probe':
        this.network.probe('secondary', (result) => {
          const told = this.#parts.breakage === 'probe-lies' ? 'refused' : result;
          const answers = result === 'alive' || result === 'serving';
          if (answers && this.#sessionIsOver) this.#provenAlive();
          this.input({ kind: 'probed', result: told });
        });
        return;
      case 'commit':
        this.#commit(output.epoch);
        return;
      case 'sendCommitted':
        this.run('commit', [['send', () => this.#sendCommitted(output.epoch)]]);
        return;
      case 'apply':
        this.#apply(output.epoch, output.svmRuns);
        return;
      case 'sendApplied':
        this.#checker.sentApplied(output.epoch, this.svm?.appliedEpoch);
        if (this.#parts.breakage === 'lose-applied') return;
        this.#send({ kind: 'applied', epoch: output.epoch, durationUs: output.durationUs });
        return;
      case 'sendUnfit':
        this.#send({ kind: 'unfit', reason: output.reason });
        return;
      case 'dropStaged':
        this.run('drop', [['staged', () => this.#dropStaged()]]);
        return;
      case 'closeSession':
        this.session?.close('secondary', true);
        this.session = undefined;
        return;
      case 'discard':
        this.#discard();
        return;
      case 'sendTakeover':
        this.#send({ kind: 'takeover' });
        return;
      case 'promote':
        this.#promote();
        return;
      case 'alarm':
        return;
      case 'failoverDone':
      case 'failoverRefused':
        this.operatorWaits = false;
        return;
      case 'exit':
        this.session?.close('secondary', true);
        this.session = undefined;
        this.die();
        return;
    }
  }

  #send(message: Message): void {
    this.session?.send('secondary', 'control', message);
  }

  #leave(frame: Frame): void {
    this.#checker.leftSecondary(frame);
    this.#parts.toLan(frame);
  }

  /** A primary that answers while its session stands has given up nothing. */
  get #sessionIsOver(): boolean {
    return this.core.peerSuspected || this.core.state.kind === 'waitingForOperator';
  }

  /** From here on, unless it has decided before, it must not promote. */
  #provenAlive(): void {
    const { state } = this.core;
    const undecided = state.kind === 'standby' && state.next === undefined;
    if (undecided || state.kind === 'waitingForOperator') this.#checker.peerProvenAlive();
  }

  #refuse(session: SimSession, reason: string): void {
    session.send('secondary', 'control', { kind: 'helloReply', json: reason });
    session.close('secondary', true);
  }

  #launch(session: SimSession): void {
    if (this.core.state.kind !== 'waiting' || this.session !== session) {
      this.#refuse(session, 'Busy');
      return;
    }
    const ram = new LayeredCells(PAGES);
    const disks = Array.from({ length: this.#parts.disks }, () => new BufferedDisk());
    const guest = new ModelGuest({
      name: 'SVM',
      world: this.world,
      history: this.#checker.history,
      rng: this.#parts.guestRng,
      ram,
      disks,
      habits: this.#parts.guest,
      emit: (frame) => this.deliver(() => lan.fromGuest(frame)),
    });
    const lan = new SvmNetwork(guest, {
      checker: this.#checker,
      gate: this.gate,
      breakage: this.#parts.breakage,
      nowUs: () => this.nowLocalUs,
      send: (message) => this.session?.send('secondary', 'network', message),
      leave: (frame) => this.#leave(frame),
    });
    this.svm = {
      guest,
      ram,
      disks,
      lan,
      arrived: nothingArrived(),
      committed: undefined,
      appliedEpoch: undefined,
      applying: false,
      appliedDevice: guest.saveDevice(true),
      ran: false,
    };
    this.#checker.sessionOpened(session.id);
    session.send('secondary', 'control', { kind: 'helloReply', json: 'ok' });
    this.input({ kind: 'peerConnected' });
  }

  #message(session: SimSession, channel: string, message: Message): void {
    if (this.session !== session) return;
    if (channel === 'control') this.input({ kind: 'heard' });
    const { svm } = this;
    if (svm === undefined) return;
    switch (message.kind) {
      case 'endRecord':
        this.input({ kind: 'endRecord', record: message.record });
        return;
      case 'yielded':
        this.input({ kind: 'yielded' });
        return;
      case 'goodbye':
        this.input(message);
        return;
      case 'diskWrite':
        svm.disks[message.disk]?.buffer(message.epoch, message.block, message.value);
        return;
      case 'diskEnd': {
        if (this.#parts.breakage === 'drop-overlay-early')
          this.#checker.diskBuffersDropped(message.epoch);
        const operations = svm.disks[message.disk]?.operations(message.epoch) ?? 0;
        const disk = { epoch: message.epoch, disk: message.disk, operations, bytes: operations };
        this.input({ kind: 'diskStaged', disk });
        return;
      }
      case 'inbound':
        svm.lan.inbound(message.epoch, message.request);
        return;
      case 'epochMark':
        svm.lan.mark(message.epoch, message.exact);
        return;
      default:
        this.#ramMessage(svm, message);
        return;
    }
  }

  #ramMessage(svm: Svm, message: Message): void {
    const { arrived } = svm;
    if (message.kind !== 'ramPages' && message.kind !== 'deviceState' && message.kind !== 'ramEnd')
      return;
    if (arrived.epoch !== undefined && arrived.epoch !== message.epoch) {
      const reason = `RAM of epoch ${message.epoch} follows that of ${arrived.epoch}`;
      this.input({ kind: 'broken', reason });
      return;
    }
    arrived.epoch = message.epoch;
    if (message.kind === 'ramPages') {
      arrived.frames += 1;
      arrived.pageCount += message.pages.length;
      arrived.digest = digestPages(arrived.digest, message.pages);
      for (const [page, value] of message.pages) {
        arrived.pages.set(page, value);
        if (this.#parts.breakage === 'apply-uncommitted') svm.ram.writeBase(page, value);
      }
    } else if (message.kind === 'deviceState') {
      arrived.device = message.device;
    } else {
      const { frames, pageCount, digest } = arrived;
      const deviceStateBytes = arrived.device === undefined ? 0 : 1;
      const ram = { epoch: message.epoch, frames, pages: pageCount, digest, deviceStateBytes };
      this.input({ kind: 'ramStaged', ram });
    }
  }

  #commit(epoch: number): void {
    const { svm } = this;
    if (svm === undefined) return;
    this.run('commit', [
      [
        'seal',
        () => {
          svm.committed = { epoch, arrived: svm.arrived };
          svm.arrived = nothingArrived();
          svm.lan.committed(epoch);
          this.#checker.committed(epoch, prospect(svm, epoch));
        },
      ],
    ]);
  }

  #sendCommitted(epoch: number): void {
    this.#checker.sentCommitted(epoch);
    this.#send({ kind: 'committed', epoch });
  }

  #apply(epoch: number, svmRuns: boolean): void {
    const { svm } = this;
    if (svm === undefined) return;
    const startedUs = this.nowLocalUs;
    const { arrived } = svm.committed ?? { arrived: nothingArrived() };
    const pages = () => [...(svm.committed?.arrived.pages ?? arrived.pages)];
    const write = (part: number) => (): void => {
      for (const [page, value] of pages()) if (page % 3 === part) svm.ram.writeBase(page, value);
    };
    const finish = (): void => {
      svm.committed = undefined;
      svm.appliedEpoch = epoch;
      svm.applying = false;
      svm.ran = svmRuns;
      this.#checker.applied(epoch, svm.guest.snapshot());
      if (svmRuns) {
        svm.guest.resume();
        svm.lan.run(epoch + 1);
      }
      this.#reportApplied(epoch, startedUs);
    };
    this.run('apply', [
      ['quiesce', () => svm.lan.quiesce()],
      [
        'pause',
        () => {
          svm.guest.pause();
          svm.lan.rewind();
          svm.applying = true;
          if (this.#parts.breakage === 'applied-early') this.#reportApplied(epoch, startedUs);
          return !this.#skipsApply(svm, epoch);
        },
      ],
      ['ram1', write(0)],
      ['ram2', write(1)],
      ['ram3', write(2)],
      [
        'dropOwn',
        () => {
          if (this.#parts.breakage !== 'keep-own-pages') svm.ram.dropOwn();
        },
      ],
      ...svm.disks.map((disk): Step => ['disk', () => this.#applyDisk(disk, epoch)]),
      [
        'device',
        () => {
          svm.appliedDevice = svm.committed?.arrived.device ?? svm.appliedDevice;
          svm.guest.loadDevice(svm.appliedDevice);
        },
      ],
      ['resume', finish],
    ]);
  }

  #applyDisk(disk: BufferedDisk, epoch: number): void {
    this.#checker.diskBuffersDropped(epoch);
    disk.dropOwn();
    disk.commit(epoch);
  }

  #reportApplied(epoch: number, startedUs: number): void {
    this.input({ kind: 'applied', epoch, durationUs: this.nowLocalUs - startedUs });
  }

  /** A sabotage: a loss during the apply makes the old state good enough. */
  #skipsApply(svm: Svm, epoch: number): boolean {
    if (this.#parts.breakage !== 'promote-stale') return false;
    const { state } = this.core;
    if (state.kind !== 'standby' || state.next === undefined) return false;
    svm.applying = false;
    this.input({ kind: 'applied', epoch, durationUs: 0 });
    return true;
  }

  /** A sabotage: what the SVM has done since the last checkpoint is undone. */
  #rollBack(svm: Svm): void {
    svm.ram.dropOwn();
    svm.guest.loadDevice(svm.appliedDevice);
    for (const disk of svm.disks) disk.dropOwn();
  }

  #dropStaged(): void {
    const { svm } = this;
    if (svm === undefined) return;
    svm.arrived = nothingArrived();
    const keep = svm.committed?.epoch ?? svm.appliedEpoch ?? 0;
    for (const disk of svm.disks) disk.dropAfter(keep);
  }

  #discard(): void {
    this.abortJobs();
    this.svm?.guest.kill();
    this.svm = undefined;
    this.gate.silence();
  }

  #promote(): void {
    const { svm } = this;
    if (svm === undefined) return;
    this.run('promote', [
      [
        'merge',
        () => {
          svm.guest.pause();
          if (this.#parts.breakage === 'roll-back') this.#rollBack(svm);
          for (const disk of svm.disks) {
            if (this.#parts.breakage === 'lose-overlay') disk.dropOwn();
            disk.merge();
          }
        },
      ],
      [
        'open',
        () => {
          this.#checker.promoting(svm.guest.snapshot(), svm.ran);
          this.ranGuest = true;
          svm.lan.promote();
        },
      ],
      ['resume', () => svm.guest.resume()],
      [
        'announce',
        () => {
          svm.lan.goLive();
          this.input({ kind: 'promoted' });
        },
      ],
    ]);
  }
}

function nothingArrived(): Arrived {
  return {
    pages: new Map(),
    epoch: undefined,
    frames: 0,
    pageCount: 0,
    digest: 0,
    device: undefined,
  };
}

/** What a failover continues from once `epoch` is applied. */
function prospect(svm: Svm, epoch: number): GuestState {
  const pages = [...svm.ram.bases];
  for (const [page, value] of svm.committed?.arrived.pages ?? []) pages[page] = value;
  return {
    pages,
    device: svm.committed?.arrived.device ?? svm.appliedDevice,
    disks: svm.disks.map((disk) => disk.prospect(epoch)),
  };
}
