/**
 * The Emulator on stock QEMU. Bytes of the guest: RAM file <-> QEMU's mapping; device state: QEMU
 * -> memory file -> Buffer, and Buffer -> qcow2 memory file -> `snapshot-load`. Commands: QMP.
 */
import { fstatSync, readSync, writeSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import {
  assert,
  describeError,
  type Logger,
  OperatorError,
  type PageRange,
  uniteRanges,
} from '../lib/index.js';
import { monotonicUs, ProcessLife, setShortSlice, Userfaultfd } from '../linux/index.js';
import { DEVICE_STATE_PATH, formatCommandLine, VM_STATE_NODE } from './command-line.js';
import { ConsoleLog } from './console-log-shell.js';
import { advanceClock, checkDeviceState, toLoadableState } from './device-state.js';
import type { DirtyTracker } from './dirty-tracker.js';
import { chooseTracker, openTracker } from './dirty-tracker-shell.js';
import type {
  DirtyTrackerKind,
  Emulator,
  EmulatorDescription,
  ExitReason,
  GuestRam,
  LeftRam,
  LoadOptions,
} from './emulator.js';
import { QemuError } from './errors.js';
import { type GuestEvent, parseGuestEvent } from './guest-event.js';
import { PrivateRam, SharedRam } from './guest-ram-shell.js';
import { IncomingGuest } from './incoming-shell.js';
import {
  DEVICE_STATE_BYTES_MAX,
  FOLD_PAUSE_MS,
  LAST_WORDS_MS,
  LAUNCH_DEADLINE_MS,
} from './limits.js';
import type { MachineDefinition, ResolvedMachineDefinition } from './machine-definition.js';
import { FaultServer } from './missing-pages-shell.js';
import { Parts } from './qemu-parts-shell.js';
import { DEFAULT_QEMU_BINARY, dataFolders, resolveMachineDefinition } from './qemu-probe-shell.js';
import { type NicFds, QemuProcess } from './qemu-process-shell.js';
import { QmpClient } from './qmp-client-shell.js';
import { QmpWatch } from './qmp-watch.js';
import { object, type QmpEvent } from './qmp-wire.js';
import { ShimClient } from './shim-shell.js';
import type { ShimReport } from './shim-wire.js';
import { Throttle } from './throttle-shell.js';
import { VM_STATE_OFFSET, VM_STATE_TAG } from './vmstate-qcow2.js';

export interface LaunchOptions {
  readonly definition: MachineDefinition;
  /**
   * The PVM's RAM is shared, so that its pages can be read; the SVM's is private (the RAM cache).
   */
  readonly ramMapping: 'shared' | 'private';
  /**
   * Unix socket of the NBD server of each disk, whose export has the disk's name. QEMU connects at
   * once.
   */
  readonly diskSockets: readonly string[];
  /** What each NIC is connected to. QEMU inherits it; closing our copies is the caller's. */
  readonly nicFds: readonly NicFds[];
  /** File for the guest's serial console; default `console.log` in `runtimeDir`. */
  readonly consoleLog?: string;
  /** Exists already; nothing but the console log is put there. */
  readonly runtimeDir: string;
  readonly startPaused: boolean;
  /** What a guest of the same size has left; also if the launch fails, it is the launch's. */
  readonly leftRam?: LeftRam;
  /** A postcopy may end here: `Emulator.missingPages`. Shared RAM and userfaultfd tracking only. */
  readonly missingPages?: boolean;
  /**
   * Another host's guest comes by one `loadDeviceState`, before anything else is asked of it; with
   * `startPaused`. QEMU's own way in for a guest is quicker than `snapshot-load`, and resets
   * nothing. A QEMU that does not take it is launched without.
   */
  readonly incoming?: boolean;
  readonly tracker?: 'auto' | DirtyTrackerKind;
  readonly qemuBinary?: string;
  readonly commandDeadlineMs?: number;
  /** How patient qmp-watch.ts is, for the guest event `hung`; default: for ever. */
  readonly hungAfterUs?: number;
  readonly log: Logger;
}

/** States that `cont` refuses until the machine was reset (QEMU runstate_needs_reset). */
const NEEDS_RESET: readonly unknown[] = ['shutdown', 'internal-error'];

/**
 * Launches the guest. Rejects with OperatorError when this host can't run the definition, with
 * QemuError and QEMU's own words when QEMU won't; nothing is left behind then.
 */
export async function launchQemu(options: LaunchOptions): Promise<Emulator> {
  try {
    return await launch(options).catch((error: unknown) => {
      if (!(error instanceof NotIncomingError)) throw error;
      options.log.warn('QEMU does not wait for a guest', { reason: describeError(error.cause) });
      return launch({ ...options, incoming: false });
    });
  } catch (error) {
    options.leftRam?.close();
    throw error;
  }
}

/** QEMU runs, but does not take a guest in its own way. */
class NotIncomingError extends QemuError {}

async function launch(options: LaunchOptions): Promise<Emulator> {
  const binary = options.qemuBinary ?? DEFAULT_QEMU_BINARY;
  const definition = await resolveMachineDefinition(options.definition, binary);
  checkSockets('diskSockets', options.diskSockets, definition.disks);
  checkSockets('nicFds', options.nicFds, definition.nics);
  const trackerKind = chooseTracker(options.tracker ?? 'auto', options.log);
  const missingPages = options.missingPages ?? false;
  if (missingPages) checkMissingPages(options.ramMapping, trackerKind);
  const parts = new Parts(definition, options.leftRam);
  try {
    const commandLine = formatCommandLine({ ...options, definition });
    options.log.debug('Launching QEMU', { binary, commandLine });
    const qemu = new QemuProcess({
      binary,
      commandLine,
      ramFd: parts.ramFile.fd,
      deviceStateFd: parts.deviceStateFd,
      vmStateFd: parts.vmStateFd,
      nicFds: options.nicFds,
      diskDirectory: options.runtimeDir,
      incoming: options.incoming ?? false,
      track: trackerKind === 'userfaultfd',
      log: options.log,
    });
    parts.qemu = qemu;
    const { qmp, shim, report, qemuVersion } = await meet(qemu, options);
    checkReport(report, parts.ramFile.sizeBytes, trackerKind, options.log);
    // Its main loop; the vCPUs are there already, and do not inherit it.
    setShortSlice(qemu.pid);
    const { machineType, accelerator } = definition;
    const description: EmulatorDescription = {
      ...{ qemuVersion, machineType, accelerator, pid: qemu.pid },
      dirtyTracker: trackerKind,
    };
    options.log.info('QEMU runs', { ...description });
    const vcpuThreads = missingPages ? await queryVcpuThreads(qmp) : undefined;
    const incoming =
      options.incoming === true ? await openIncoming({ qmp, qemu, definition, binary }) : undefined;
    const around = { options, description, parts, qemu };
    return new QemuEmulator({ ...around, qmp, shim, report, vcpuThreads, incoming });
  } catch (error) {
    await parts.release();
    throw error;
  }
}

async function openIncoming(parts: {
  readonly qmp: QmpClient;
  readonly qemu: QemuProcess;
  readonly definition: ResolvedMachineDefinition;
  readonly binary: string;
}): Promise<IncomingGuest> {
  const { qmp, qemu, definition, binary } = parts;
  const { machineType, extraArguments } = definition;
  try {
    return await IncomingGuest.open({
      ...{ qmp, machineType, socket: qemu.socket('incoming') },
      dataFolders: () => dataFolders(binary, extraArguments),
    });
  } catch (cause) {
    throw new NotIncomingError('QEMU does not take a guest', { cause });
  }
}

interface Meeting {
  readonly qmp: QmpClient;
  readonly shim: ShimClient;
  readonly report: ShimReport;
  readonly qemuVersion: string;
}

/** The first answers of QMP and of the preload library. */
async function meet(qemu: QemuProcess, options: LaunchOptions): Promise<Meeting> {
  const { log } = options;
  const deadlineMs = options.commandDeadlineMs;
  const qmp = new QmpClient({
    ...{ stream: qemu.socket('qmp'), log },
    ...(deadlineMs === undefined ? {} : { commandDeadlineMs: deadlineMs }),
  });
  const shim = new ShimClient(qemu.socket('control'));
  const path = options.consoleLog ?? `${options.runtimeDir}/console.log`;
  new ConsoleLog({ path, source: qemu.socket('console'), log });
  const timer = setTimeout(() => {
    const late = new QemuError(`QEMU was not up within ${LAUNCH_DEADLINE_MS} ms`);
    qmp.fail(late);
    shim.fail(late);
  }, LAUNCH_DEADLINE_MS);
  try {
    const [report, qemuVersion] = await Promise.all([shim.report, qmp.start()]);
    return { qmp, shim, report, qemuVersion };
  } catch (error) {
    throw await withLastWords(error, qemu);
  } finally {
    clearTimeout(timer);
  }
}

/** A QEMU that refuses what it is given closes its sockets and ends: its last words say why. */
async function withLastWords(error: unknown, qemu: QemuProcess): Promise<unknown> {
  const patience = new Promise<void>((resolve) => {
    setTimeout(resolve, LAST_WORDS_MS).unref();
  });
  const exit = await Promise.race([qemu.exited, patience]);
  if (exit === undefined) return error; // It lives on and is killed by the caller.
  return new QemuError(`${describeError(error)}; ${exit.reason}`, { cause: error });
}

function checkSockets(key: string, sockets: readonly unknown[], users: readonly unknown[]): void {
  if (sockets.length === users.length) return;
  throw new OperatorError(
    'COLO_E_SOCKETS',
    `${key} has ${sockets.length} entries, the machine definition needs ${users.length}`,
  );
}

function checkMissingPages(ramMapping: 'shared' | 'private', tracker: DirtyTrackerKind): void {
  assert(ramMapping === 'shared', 'Missing pages need shared RAM');
  if (tracker === 'userfaultfd') return;
  throw new OperatorError(
    'COLO_E_TRACKER',
    `A postcopy needs the dirty tracker userfaultfd, the one used here is ${tracker}`,
  );
}

/** The thread of each vCPU; asked for early, as later QEMU itself may wait for a page. */
async function queryVcpuThreads(qmp: QmpClient): Promise<number[]> {
  const answer = await qmp.execute('query-cpus-fast');
  const threads = (Array.isArray(answer) ? answer : []).map((cpu) => object(cpu)?.['thread-id']);
  return threads.map((thread) => {
    if (typeof thread !== 'number') throw new QemuError('query-cpus-fast gave no thread ids');
    return thread;
  });
}

function checkReport(
  report: ShimReport,
  ramBytes: number,
  tracker: DirtyTrackerKind,
  log: Logger,
): void {
  if (report.length !== ramBytes) {
    throw new QemuError(`QEMU mapped ${report.length} bytes of guest RAM instead of ${ramBytes}`);
  }
  if (tracker === 'userfaultfd' && report.trackingErrno !== 0) {
    throw new QemuError(`Registering guest RAM failed with errno ${report.trackingErrno}`);
  }
  if (report.lockingErrno !== 0) {
    log.warn('Guest RAM is not locked: with swap in use written pages could be missed', {
      errno: report.lockingErrno,
    });
  }
}

interface QemuEmulatorParts extends Omit<Meeting, 'qemuVersion'> {
  readonly options: LaunchOptions;
  readonly description: EmulatorDescription;
  readonly parts: Parts;
  readonly qemu: QemuProcess;
  /** When pages may be missing. */
  readonly vcpuThreads: readonly number[] | undefined;
  readonly incoming: IncomingGuest | undefined;
}

class QemuEmulator implements Emulator {
  readonly description: EmulatorDescription;
  readonly ram: GuestRam;
  readonly missingPages: FaultServer | undefined;
  readonly exited: Promise<ExitReason>;
  readonly #parts: Parts;
  readonly #qemu: QemuProcess;
  readonly #qmp: QmpClient;
  readonly #shim: ShimClient;
  readonly #privateRam: PrivateRam | undefined;
  readonly #tracker: DirtyTracker;
  readonly #life: ProcessLife;
  readonly #throttle: Throttle;
  readonly #listeners: ((event: GuestEvent) => void)[] = [];
  #running: boolean;
  #pausesUnderWay = 0;
  /** It stopped without being asked: perhaps in a state that only a reset leaves. */
  #haltedByItself = false;
  #loads = 0;
  /** Until the first load. */
  #incoming: IncomingGuest | undefined;
  /** Found by a scan that `scanWritten` has not given yet. */
  #writtenBefore: PageRange[] = [];
  #pagesReleased = false;
  #killed: Promise<void> | undefined;

  constructor(given: QemuEmulatorParts) {
    const { options, description, parts, qemu, qmp, shim, report } = given;
    this.description = description;
    this.exited = qemu.exited;
    this.#parts = parts;
    this.#qemu = qemu;
    this.#qmp = qmp;
    this.#shim = shim;
    this.#running = !options.startPaused;
    this.#incoming = given.incoming;
    parts.closers.push(() => given.incoming?.close());
    const mapping = { pid: qemu.pid, address: report.address, length: report.length };
    this.#life = new ProcessLife(qemu.pid);
    parts.closers.push(() => this.#life.close());
    this.#throttle = new Throttle((name) => qemu.signal(name), this.#running);
    if (options.ramMapping === 'private') {
      const ram = new PrivateRam(parts.ramFile, mapping);
      parts.closers.push(() => ram.close());
      this.#privateRam = ram;
      this.ram = ram;
    } else {
      this.ram = new SharedRam(parts.ramFile);
    }
    this.missingPages = this.#makeFaultServer(given);
    this.#tracker = openTracker(description.dirtyTracker, {
      ...{ mapping, ramMapping: options.ramMapping, ram: this.ram },
    });
    parts.closers.push(() => this.#tracker.close());
    qemu.exited.then(() => this.#throttle.suspend()).catch(() => undefined);
    qmp.onEvent((event) => this.#hear(event));
    if (options.hungAfterUs !== undefined) this.#watch(options.hungAfterUs, options.log);
  }

  async pause(): Promise<void> {
    this.#pausesUnderWay++;
    this.#throttle.suspend();
    try {
      await this.#qmp.execute('stop');
      this.#running = false;
    } finally {
      this.#pausesUnderWay--;
      this.#allowThrottle();
    }
  }

  async resume(): Promise<void> {
    if (this.#pagesReleased) throw new QemuError('Pages of the guest were released');
    // Before the command, as the guest runs before its answer is here.
    this.#running = true;
    try {
      await this.#qmp.execute('cont');
    } catch (error) {
      this.#running = false;
      throw error;
    }
    this.#allowThrottle();
  }

  scanWritten(): PageRange[] {
    this.#checkAlive();
    if (this.#running && !this.#tracker.worksLive) return [];
    const ranges = this.#tracker.takeWritten();
    this.#checkAlive();
    return uniteRanges(this.#writtenBefore.splice(0), ranges);
  }

  async saveDeviceState(): Promise<Buffer> {
    await this.#qmp.execute('xen-save-devices-state', { filename: DEVICE_STATE_PATH, live: false });
    const fd = this.#parts.deviceStateFd;
    const { size } = fstatSync(fd);
    if (size > DEVICE_STATE_BYTES_MAX) {
      throw new QemuError(
        `QEMU saved ${size} bytes of device state, the limit is ${DEVICE_STATE_BYTES_MAX}`,
      );
    }
    const state = Buffer.allocUnsafe(size);
    readSync(fd, state, 0, size, 0);
    checkDeviceState(state);
    return state;
  }

  get loadResets(): boolean {
    return this.#incoming === undefined;
  }

  async loadDeviceState(state: Buffer, options?: LoadOptions): Promise<void> {
    checkDeviceState(state);
    const isTcg = this.description.accelerator === 'tcg';
    if (isTcg && options !== undefined) advanceClock(state, options.advanceUs);
    const incoming = this.#incoming;
    this.#incoming = undefined;
    if (incoming !== undefined) {
      await incoming.load(state).catch(async (error) => {
        throw await withLastWords(error, this.#qemu);
      });
      return;
    }
    const loadable = toLoadableState(state, this.description.machineType);
    if (this.#haltedByItself) await this.#leaveHaltedState();
    writeSync(this.#parts.vmStateFd, loadable, 0, loadable.length, VM_STATE_OFFSET);
    const id = `load${++this.#loads}`;
    let aborted = false;
    await this.#qmp.executeUntil(
      'snapshot-load',
      { 'job-id': id, tag: VM_STATE_TAG, vmstate: VM_STATE_NODE, devices: [VM_STATE_NODE] },
      ({ name, data }) => {
        if (name !== 'JOB_STATUS_CHANGE' || data['id'] !== id) return false;
        aborted ||= data['status'] === 'aborting';
        return data['status'] === 'concluded';
      },
    );
    const reason = aborted ? await this.#jobError(id) : undefined;
    await this.#qmp.execute('job-dismiss', { id });
    if (reason !== undefined) throw new QemuError(`snapshot-load: ${reason}`);
  }

  scanPrivate(): PageRange[] {
    this.#checkAlive();
    const ranges = this.#privateRam?.privatePages() ?? [];
    this.#checkAlive();
    return ranges;
  }

  async dropPrivate(ranges: readonly PageRange[]): Promise<void> {
    if (this.#privateRam !== undefined && ranges.length > 0) await this.#shim.drop(ranges);
  }

  releaseHidden(part: PageRange): number | undefined {
    return this.#privateRam?.releaseHidden(part);
  }

  async reset(): Promise<void> {
    await this.#qmp.executeUntil('system_reset', {}, (event) => event.name === 'RESET');
  }

  async releasePages(ranges: readonly PageRange[]): Promise<void> {
    assert(!this.#running, 'Pages are released in a pause');
    this.#pagesReleased = true;
    await this.dropPrivate(ranges);
    this.#parts.ramFile.discard(ranges);
  }

  setThrottle(percent: number): void {
    this.#throttle.set(percent);
  }

  async announce(): Promise<void> {
    // The defaults of QEMU's own migration: five packets in 700 ms.
    await this.#qmp.execute('announce-self', { initial: 50, max: 550, rounds: 5, step: 100 });
  }

  onGuestEvent(listener: (event: GuestEvent) => void): void {
    this.#listeners.push(listener);
  }

  abort(): void {
    this.#qemu.abort();
  }

  kill(): Promise<void> {
    this.#killed ??= this.#kill();
    return this.#killed;
  }

  async endKeepingRam(what: 'guest' | 'file'): Promise<LeftRam | undefined> {
    if (this.#killed !== undefined) return undefined;
    if (what === 'guest' && !this.#qemu.ended) await this.#foldPrivate();
    if (this.#killed !== undefined) return undefined;
    this.#parts.keepsRam = true;
    await this.kill();
    return this.#parts.ramFile;
  }

  /** Whatever becomes of it, the file holds a RAM of this guest, more or less new. */
  async #foldPrivate(): Promise<void> {
    if (this.#privateRam === undefined) return;
    try {
      // A QEMU that hangs is not waited for.
      await Promise.race([this.pause(), delay(FOLD_PAUSE_MS)]);
      if (this.#running) return;
      for (const ranges of this.#privateRam.fold()) await this.dropPrivate(ranges);
    } catch (error) {
      if (!(error instanceof QemuError)) throw error;
    }
  }

  async #kill(): Promise<void> {
    this.#throttle.suspend();
    this.missingPages?.close();
    try {
      await this.#parts.release();
    } finally {
      const gone = new QemuError('The guest was killed');
      this.#qmp.fail(gone);
      this.#shim.fail(gone);
    }
  }

  /**
   * A dead process has no pages: a scan of it is empty, which must not pass for "nothing written".
   */
  #checkAlive(): void {
    const alive = !this.#qemu.ended && this.#killed === undefined && this.#life.isThere;
    if (!alive) throw new QemuError('QEMU has ended');
  }

  #allowThrottle(): void {
    const mayRun = this.#running && this.#pausesUnderWay === 0 && this.#killed === undefined;
    if (mayRun && !this.#qemu.ended) this.#throttle.allow();
  }

  #makeFaultServer({ qemu, shim, report, parts, vcpuThreads }: QemuEmulatorParts) {
    const { ram } = this;
    if (vcpuThreads === undefined || !(ram instanceof SharedRam)) return undefined;
    assert(report.userfaultfd !== undefined, 'Tracking works without a userfaultfd');
    const server = new FaultServer(
      {
        userfaultfd: Userfaultfd.duplicate(qemu.pid, report.userfaultfd),
        ramFd: parts.ramFile.fd,
        address: report.address,
        sizeBytes: report.length,
        vcpuThreads,
      },
      {
        begin: () => {
          assert(!this.#running, 'Missing pages begin in a pause');
          ram.hasMissing = true;
        },
        begun: () => this.#forgetWritten(),
        end: async (change) => {
          const wasPaused = !this.#running;
          const before = wasPaused ? this.#tracker.takeWritten() : [];
          await change();
          ram.hasMissing = false;
          if (!wasPaused || this.#running) return;
          this.#forgetWritten();
          this.#writtenBefore = before;
        },
      },
    );
    shim.onClose(() => server.close());
    return server;
  }

  #forgetWritten(): void {
    this.#writtenBefore = [];
    this.#tracker.takeWritten();
  }

  async #leaveHaltedState(): Promise<void> {
    const status = object(await this.#qmp.execute('query-status'))?.['status'];
    if (NEEDS_RESET.includes(status)) await this.reset();
    this.#haltedByItself = false;
  }

  async #jobError(id: string): Promise<string> {
    const jobs = await this.#qmp.execute('query-jobs');
    const job = Array.isArray(jobs)
      ? jobs.map(object).find((each) => each?.['id'] === id)
      : undefined;
    const error = job?.['error'];
    return typeof error === 'string' ? error : 'failed without a reason';
  }

  #watch(hungAfterUs: number, log: Logger): void {
    const watch = new QmpWatch({ hungAfterUs });
    let heard = this.#qmp.heard;
    const timer = setInterval(() => {
      const { waiting, heard: heardNow } = this.#qmp;
      const isStopped = (): boolean => this.#qemu.isStopped;
      const since = { nowUs: monotonicUs(), heard: heardNow !== heard };
      const verdict = watch.tick({ ...since, waiting, isStopped });
      heard = heardNow;
      // Whatever it says to that, it says something.
      if (verdict === 'ask') this.#qmp.execute('query-status').catch(() => undefined);
      if (verdict !== 'hung') return;
      const reason = `No answer on QMP for ${Math.round(watch.silentUs / 1000)} ms`;
      log.error('QEMU is hung', { reason });
      this.#tell({ kind: 'hung', reason });
    }, watch.tickUs / 1000);
    this.#parts.closers.push(() => clearInterval(timer));
    void this.exited.then(() => clearInterval(timer));
  }

  #hear(qmpEvent: QmpEvent): void {
    const event = parseGuestEvent(qmpEvent);
    if (event === undefined) return;
    if (event.kind === 'shutdown') this.#haltedByItself = true;
    if (event.kind === 'stopped' && this.#running && this.#pausesUnderWay === 0) {
      this.#haltedByItself = true;
    }
    this.#tell(event);
  }

  #tell(event: GuestEvent): void {
    for (const listener of this.#listeners) listener(event);
  }
}
