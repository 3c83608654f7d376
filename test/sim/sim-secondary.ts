/**
 * The secondary's shell in the simulation: carries out what the production core says, on models.
 *
 * Outputs that change the SVM or what is staged are done one after the other (`commit` before
 * `sendCommitted` before `apply`, `dropStaged` before `promote`); only `discard` overtakes, since
 * it kills what the others work on.
 */

import { isDeaf } from '../../src/replication/index.js';
import {
  SecondaryCore,
  type SecondaryInput,
  type SecondaryOutput,
} from '../../src/secondary/index.js';
import { type Checker, digestPages } from './checker.js';
import { type Frame, type GuestState, ModelGuest, PAGES, type Request } from './guest.js';
import { digestsOf, HAS_RAM } from './kept-ram.js';
import { BufferedDisk, Gate, LayeredCells } from './layers.js';
import type { Message, SimHello, SimSession } from './network.js';
import { type RoleHost, type RoleParts, SimRole, type Step } from './role.js';
import { nothingArrived, prospect, rollBack, type Svm } from './svm.js';
import { SvmNetwork } from './svm-network.js';

export class SimSecondary extends SimRole<SecondaryInput, SecondaryOutput> {
  readonly core: SecondaryCore;
  readonly gate = new Gate('silent');
  readonly #parts: RoleParts;
  readonly #checker: Checker;
  session: SimSession | undefined;
  /** Of the primary whose state is here. */
  #hello: SimHello | undefined;
  /** From a primary's connection on, until its state is discarded. */
  #occupied = false;
  svm: Svm | undefined;
  /** An operator waits for the answer to a failover. */
  operatorWaits = false;

  constructor(host: RoleHost) {
    super(host);
    const { parts, habits } = host;
    this.#parts = parts;
    this.#checker = parts.checker;
    this.core = new SecondaryCore({
      peerTimeoutUs: habits.peerTimeoutUs,
      heartbeatUs: habits.heartbeatUs,
      hasWitness: host.speech !== undefined,
      onPeerLoss: parts.options.onPeerLoss,
    });
    this.#listenToSpeech();
  }

  get probeAnswer(): 'idle' | 'holding' | 'serving' {
    return this.core.probeAnswer;
  }

  get guest(): ModelGuest | undefined {
    return this.svm?.guest;
  }

  get speaks(): boolean {
    return this.gate.state === 'open';
  }

  get serving(): boolean {
    const { kind } = this.core.state;
    return kind === 'promoting' || kind === 'active';
  }

  /** Nothing of a guest is here, or on its way. */
  get idle(): boolean {
    return this.core.state.kind === 'waiting' && !this.#occupied;
  }

  leave(reason: string): void {
    this.input({ kind: 'stopRequested', reason });
  }

  /** RAM cache, image and devices while the SVM stands by; undefined while they change. */
  standbyState(): { epoch: number; state: GuestState } | undefined {
    const { svm } = this;
    if (svm?.appliedEpoch === undefined || svm.applying) return undefined;
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
    if (svm?.appliedEpoch === undefined) return undefined;
    const { appliedEpoch, guest } = svm;
    return { appliedEpoch, flowHead: (flow) => guest.flowHead(flow) };
  }

  /** A client's frame at this host's TAP; the TAP of a standby is deaf. */
  receive(request: Request): void {
    if (this.gate.state === 'open') this.deliverNet(() => this.svm?.guest.receive(request));
  }

  failover(force: boolean): void {
    this.deliver(() => {
      if (this.core.state.kind === 'left') return;
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

  accept(): string | undefined {
    if (!this.#occupied) return undefined;
    // For a standby a hello proves nothing yet: a primary that booted afresh says it too.
    if (this.core.state.kind === 'waitingForOperator') this.#provenAlive();
    this.input({ kind: 'peerReturned' });
    return `The secondary is ${this.core.state.kind}`;
  }

  /** The hello of a new connection. */
  onSession(session: SimSession): void {
    this.#occupied = true;
    this.session = session;
    session.attach(this.host.side, {
      message: (channel, message) => {
        if (channel === 'network') this.deliverNet(() => this.#packet(session, message));
        else this.deliver(() => this.#message(session, channel, message));
      },
      lost: (reason) =>
        this.deliver(() => {
          if (this.session === session) this.input({ kind: 'linkLost', reason });
        }),
    });
    this.run('launch', [['svm', () => this.#launch(session)]]);
  }

  #listenToSpeech(): void {
    const { speech } = this.host;
    if (speech === undefined) return;
    speech.hooks = {
      onTakeOver: () => {
        this.input({ kind: 'granted' });
        const { kind } = this.core.state;
        if (kind !== 'promoting') speech.leave(`The right came to a node that is ${kind}`);
      },
      onStale: (reason) => this.input({ kind: 'stale', reason }),
    };
  }

  protected died(): void {
    if (this.core.committedEpoch !== undefined) this.#checker.secondaryLost();
    if (this.serving) this.#checker.guestEnds('handover', undefined);
    this.svm?.guest.kill();
    this.#replay();
    this.gate.silence();
    if (this.host.powered) this.session?.close(this.host.side, false);
    else this.session?.vanish(this.host.side);
    this.session = undefined;
  }

  protected perform(output: SecondaryOutput): void {
    switch (output.kind) {
      case 'heartbeat':
        this.#send(output);
        return;
      case 'probe':
        this.#probe();
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
        this.session?.close(this.host.side, true);
        this.session = undefined;
        return;
      case 'discard':
        this.#discard();
        return;
      case 'sendTakeover':
        this.#send({ kind: 'takeover' });
        return;
      case 'askTakeOver':
        if (output.force) this.host.speech?.force();
        else this.host.speech?.peerLost(output);
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
        this.session?.close(this.host.side, true);
        this.session = undefined;
        this.#exit(output.code);
        return;
    }
  }

  #probe(): void {
    const { breakage } = this.#parts;
    this.network.probe(this.host.side, this.#hello?.instance, (result) =>
      this.deliver(() => {
        const answers = result === 'alive' || result === 'serving';
        if (answers && this.#sessionIsOver) this.#provenAlive();
        if (breakage === 'probe-lies') this.input({ kind: 'probed', result: 'refused' });
        else if (breakage === 'replaced-is-abandoned' && result === 'replaced') {
          this.input({ kind: 'probed', result: 'alive' });
        } else this.input({ kind: 'probed', result });
      }),
    );
  }

  #exit(code: number): void {
    this.#checker.secondaryLost();
    if (this.gate.state === 'open') this.#checker.guestEnds('handover', undefined);
    this.abortJobs();
    this.svm?.guest.kill();
    this.#replay();
    this.svm = undefined;
    this.gate.silence();
    const left = (): void => this.end({ kind: 'left', code });
    if (this.host.speech === undefined) left();
    else this.host.speech.leave('The node leaves', left);
  }

  /** What is committed is in the journal, and its next process finds it there. */
  #replay(): void {
    const { svm } = this;
    if (svm?.committed === undefined || svm.appliedEpoch === undefined || this.serving) return;
    const { epoch } = svm.committed;
    for (const disk of svm.disks) {
      disk.dropOwn();
      disk.commit(epoch);
    }
    this.host.records.applied(epoch);
  }

  #send(message: Message): void {
    this.session?.send(this.host.side, 'control', message);
  }

  #leave(frame: Frame): void {
    if (!this.host.mayLeave()) return;
    this.#checker.leftSecondary(this.host.side, frame);
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

  #launch(session: SimSession): void {
    if (this.session !== session || !session.isOpen[this.host.side]) {
      this.#occupied = false;
      return;
    }
    const { options, guestRng: rng, checker } = this.#parts;
    const { hello } = session;
    this.host.records.open();
    const refusal = this.host.records.refusal(hello.image);
    if (refusal !== undefined) {
      this.#occupied = false;
      this.#parts.rejoinRefused(this.host.side, refusal);
      session.refuse(this.host.side, refusal);
      return;
    }
    this.#hello = hello;
    this.host.noteEpoch(hello.epoch);
    this.host.newTap();
    if (hello.offer !== undefined) this.host.speech?.accept(hello.offer);
    const left = this.host.takeLeftRam();
    const ram = new LayeredCells(left ?? new Array(PAGES).fill(0));
    const disks = this.host.images.map((image) => new BufferedDisk(image));
    const guest = new ModelGuest({
      world: this.world,
      history: checker.history,
      rng,
      ram,
      disks,
      habits: options.guest,
      emit: (frame) => this.deliverNet(() => lan.fromGuest(frame)),
    });
    const lan = new SvmNetwork(guest, {
      checker: this.#checker,
      gate: this.gate,
      breakage: this.#parts.breakage,
      nowUs: () => this.nowLocalUs,
      send: (message) => this.session?.send(this.host.side, 'network', message),
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
      overwritten: false,
      stands: false,
      appliedDevice: guest.saveDevice(true),
      ran: false,
    };
    this.#checker.sessionOpened(session.id);
    session.secondaryInstance = this.host.instance;
    session.send(this.host.side, 'control', { kind: 'helloReply', json: left ? HAS_RAM : 'ok' });
    this.input({ kind: 'peerConnected' });
  }

  #message(session: SimSession, channel: string, message: Message): void {
    if (this.session !== session) return;
    if (channel === 'control') this.input({ kind: 'heard', isDeaf: isDeaf(message) });
    const { svm } = this;
    if (svm === undefined) return;
    this.#overwrite(svm, session, message);
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
      case 'digestsWanted':
        session.send(this.host.side, 'ram', digestsOf(svm.ram.bases, message));
        return;
      default:
        this.#ramMessage(svm, message);
        return;
    }
  }

  #packet(session: SimSession, message: Message): void {
    const { svm } = this;
    if (this.session !== session || svm === undefined) return;
    if (message.kind === 'inbound') svm.lan.inbound(message.epoch, message.request);
    else if (message.kind === 'epochMark') svm.lan.mark(message.epoch, message.exact);
  }

  /** The first byte of a session: what was on the disks is gone, and so is what it was called. */
  #overwrite(svm: Svm, { hello }: SimSession, message: Message): void {
    if (svm.overwritten || hello.image === undefined || message.kind !== 'diskWrite') return;
    svm.overwritten = true;
    this.host.records.beginSync(hello.image);
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
          if (this.host.diskFull && svm.disks.length > 0) {
            this.input({ kind: 'broken', reason: `Epoch ${epoch} can't be committed: disk full` });
            return;
          }
          svm.committed = { epoch, arrived: svm.arrived };
          svm.arrived = nothingArrived();
          svm.lan.committed(epoch);
          this.host.noteEpoch(epoch);
          this.#checker.committed(epoch, prospect(svm, epoch));
          this.#standBy(svm);
        },
      ],
    ]);
  }

  /** Once a session: what is committed may be taken over from. */
  #standBy(svm: Svm): void {
    const offer = this.#hello?.offer;
    if (svm.stands || offer === undefined) return;
    svm.stands = true;
    this.host.speech?.standBy(offer.session, offer.token);
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
      this.host.records.applied(epoch);
      this.host.speech?.vouch(svmRuns ? undefined : this.#hello?.offer?.token);
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
    this.host.leftRam = this.svm && [...this.svm.ram.bases];
    this.#replay();
    this.svm = undefined;
    this.gate.silence();
    this.#occupied = false;
    this.host.speech?.discarded();
  }

  #promote(): void {
    const { svm } = this;
    if (svm === undefined) return;
    this.run('promote', [
      [
        'merge',
        () => {
          svm.guest.pause();
          this.host.records.beginAlone();
          if (this.#parts.breakage === 'roll-back') rollBack(svm);
          for (const disk of svm.disks) {
            if (this.#parts.breakage === 'lose-overlay') disk.dropOwn();
            disk.merge();
          }
        },
      ],
      [
        'open',
        () => {
          this.#checker.promoting(this.host.side, svm.guest.snapshot(), svm.ran);
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
      ['handOver', () => this.#handOver(svm)],
    ]);
  }

  /** This role is over: the guest goes on in the next one. */
  #handOver({ guest }: Svm): void {
    const epoch = this.core.committedEpoch;
    const hello = this.#hello;
    if (epoch === undefined || hello === undefined) return;
    this.session?.close(this.host.side, true);
    this.end({ kind: 'promoted', guest, epoch, policy: hello.policy });
  }
}
