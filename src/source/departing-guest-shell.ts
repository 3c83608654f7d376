/**
 * What the source of a migration does with its guest. `pause` and what follows it until `giveUp`
 * can be undone by `goOn`.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { type AcceptedImage, type SharedPlace, SharedProofs } from '../blockrep/index.js';
import type { Guest } from '../guest/index.js';
import { assert, type PageRange } from '../lib/index.js';
import type { Session } from '../transport/index.js';
import { DISK_ENOUGH_BYTES, DISK_PASS_MS, DISK_PASSES_MAX } from './limits.js';

export interface DepartingOptions {
  readonly guest: Guest;
  /** The one that the guest runs. */
  readonly epoch: number;
  readonly resyncBytesPerSecond: number | undefined;
  /** Some disk's content goes along. */
  readonly movesDisks: boolean;
  /** Both hosts have these. */
  readonly shared: readonly SharedPlace[];
  /** A part of the way is done; for the log. */
  readonly onPart: (part: string) => void;
}

export class DepartingGuest {
  readonly #guest: Guest;
  readonly #options: DepartingOptions;
  #epoch: number;
  /** Its disks' content goes along, and is tracked in this session. */
  #moving = false;
  #passing = false;
  #proofs: SharedProofs | undefined;
  /** Ends the wait for the next pass: the guest is about to be paused. */
  #hurry = new AbortController();
  #passes: Promise<void> = Promise.resolve();
  #paused = false;
  #edged = false;
  #settling: Promise<unknown> = Promise.resolve();
  #edging: Promise<void> = Promise.resolve();
  /** Saved in the pause, before the last pages are looked for: saving may write to guest RAM. */
  #devices: Buffer | undefined;

  constructor(options: DepartingOptions) {
    this.#guest = options.guest;
    this.#options = options;
    this.#epoch = options.epoch;
  }

  /** The epoch that the guest runs, or would run. */
  get epoch(): number {
    return this.#epoch;
  }

  /**
   * What shows a destination that its shared disks are these: see src/blockrep/shared/proof.ts.
   * Throws OperatorError.
   */
  async showShared(migration: string): Promise<SharedProofs['proofs']> {
    const { shared } = this.#options;
    if (shared.length === 0) return [];
    const flush = () => this.#flushShared();
    this.#proofs = await SharedProofs.make(shared, { migration, flush });
    return this.#proofs.proofs;
  }

  /** The destination has looked at it, or will not any more. Idempotent. */
  async shown(): Promise<void> {
    await this.#proofs?.remove();
  }

  /** Why the guest must not go on here: its disks have, without it. */
  async refusalToGoOn(): Promise<string | undefined> {
    const changed = await this.#guest.disks.changedShared();
    if (changed.length === 0) return undefined;
    return (
      `The guest is as of the switchover; since then ${changed.join(', ')} ` +
      'was written to. It can only be booted anew: "colo migrate-release", start the agent, ' +
      '"colo failover --force"'
    );
  }

  /** The destination has judged its images: what is written to the disks is noticed from now on. */
  async attach(session: Session, verdicts: readonly AcceptedImage[]): Promise<void> {
    const { disks } = this.#guest;
    const { resyncBytesPerSecond, movesDisks } = this.#options;
    if (!movesDisks) return;
    await disks.attachSource(session, { epoch: this.#epoch, verdicts, resyncBytesPerSecond });
    this.#moving = true;
  }

  /** Resolves once no more of the disks' content is left than a pause may wait for. */
  async moveDisks(): Promise<void> {
    this.#passing = true;
    await this.#flushShared();
    if (this.#moving) await this.#sendDisks();
    // The guest goes on here meanwhile.
    if (!this.#passing) return;
    this.#hurry = new AbortController();
    this.#passes = this.#passAgain();
  }

  async #sendDisks(): Promise<void> {
    const { disks } = this.#guest;
    for (let pass = 0; pass < DISK_PASSES_MAX; pass += 1) {
      if ((await disks.syncRound()) <= DISK_ENOUGH_BYTES) break;
    }
    // Else the pause would wait for that.
    await disks.syncStored();
  }

  async #flushShared(): Promise<void> {
    if (this.#options.shared.length > 0) await this.#guest.disks.flushShared();
  }

  /** What it writes from now on is found by `scan`. Gives all that may be other than zero. */
  track(): PageRange[] {
    this.#guest.emulator.scanWritten();
    return this.#guest.emulator.ram.dataRanges();
  }

  scan(): PageRange[] {
    const ranges = this.#guest.emulator.scanWritten();
    if (this.#paused) this.#options.onPart('lastScan');
    return ranges;
  }

  /**
   * The guest stands still and is drained; input that comes from now on waits here, and goes to the
   * destination if `session` takes it. `onStop`: from now on it may not execute.
   */
  async pause(session: Session, onStop: () => void): Promise<void> {
    const { emulator, network, disks } = this.#guest;
    const { onPart } = this.#options;
    await network.attach(session, { role: 'source', epoch: this.#epoch });
    onPart('attachNetwork');
    await this.#endPasses();
    // So that little is left to be synced while it stands still.
    await this.#flushShared();
    onPart('endDiskPasses');
    const exact = await network.quiesce();
    onPart('quiesce');
    this.#paused = true;
    disks.beginPause();
    onStop();
    const paused = emulator.pause();
    const saving = emulator.saveDeviceState();
    saving.catch(() => undefined);
    await paused;
    onPart('stop');
    // Beside the save: all that it has said before the stop is there to be drained.
    let drained = network.drain();
    let devices = await saving;
    onPart('saveDevices');
    while (!(await drained)) {
      devices = await emulator.saveDeviceState();
      drained = network.drain();
    }
    onPart('drain');
    // Beside what is done with RAM: both are other threads' work.
    this.#settleDisks();
    this.#edging = network.edge(this.#epoch, { exact, compares: false });
    this.#edging.catch(() => undefined);
    network.resume();
    this.#devices = devices;
  }

  #settleDisks(): void {
    const edge = this.#moving ? this.#guest.disks.edge(this.#epoch) : undefined;
    this.#edged = true;
    this.#settling = Promise.all([edge, this.#flushShared()]);
    this.#settling.catch(() => undefined);
  }

  /** Only after `pause`. Their guest has an edge by then. */
  async devices(): Promise<Buffer> {
    await this.#edging;
    this.#options.onPart('edge');
    assert(this.#devices !== undefined, 'Devices are captured in the pause');
    return this.#devices;
  }

  /** The last of the disks' content is on its way, and this host's images hold it, too. */
  async settleDisks(): Promise<void> {
    await this.#settling;
  }

  /** Nothing of it leaves this host any more, and its shared images may be opened elsewhere. */
  async silence(): Promise<void> {
    const { network, disks } = this.#guest;
    const left = this.#options.shared.length > 0 ? disks.leaveShared() : undefined;
    await Promise.all([network.silence(), left]);
  }

  /**
   * The guest runs here, unprotected, and its disks have gone on from what the destination has.
   * Rejects when that can't be written down, or another host has a shared image; nothing that is
   * held may leave then. Idempotent.
   */
  async goOn(): Promise<void> {
    const { emulator, network, disks } = this.#guest;
    await this.#endPasses();
    await this.shown();
    if (this.#options.shared.length > 0) await disks.enterSharedAgain();
    const wasMoving = this.#moving;
    this.#moving = false;
    network.detach();
    disks.detach();
    if (this.#edged) this.#epoch += 1;
    this.#edged = false;
    this.#devices = undefined;
    emulator.setThrottle(0);
    if (this.#paused) {
      this.#paused = false;
      await emulator.resume();
      await disks.endPause();
    }
    if (wasMoving) await disks.beginAlone();
    network.open();
  }

  /** Between the first passes and the pause: what is written to the disks is sent soon. */
  async #passAgain(): Promise<void> {
    while (this.#passing) {
      await delay(DISK_PASS_MS, undefined, { signal: this.#hurry.signal }).catch(() => undefined);
      if (!this.#passing) return;
      if (this.#moving) await this.#guest.disks.syncRound();
      await this.#flushShared();
    }
  }

  async #endPasses(): Promise<void> {
    this.#passing = false;
    this.#hurry.abort();
    // A pass that fails is the session's end, which is told by the session.
    await this.#passes.catch(() => undefined);
  }
}
