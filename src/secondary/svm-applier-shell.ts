/** Makes the SVM the PVM of the end of an epoch that is committed. */
import type { Guest } from '../guest/index.js';
import { type Logger, ProtocolError } from '../lib/index.js';
import { monotonicUs } from '../linux/index.js';
import { digestRam } from '../replication/index.js';
import { EXPECTED_LOAD_US } from './limits.js';
import type { RamReceiver } from './ram-receiver-shell.js';

/** The SVM and what is staged for it. */
export interface Applied {
  readonly guest: Guest;
  readonly ram: RamReceiver;
}

/** One apply. */
export interface ApplyOptions {
  readonly epoch: number;
  readonly svmRuns: boolean;
  /** Awaited once the SVM is the PVM of that epoch, and before it executes. */
  readonly beforeResume: () => Promise<void>;
}

export class SvmApplier {
  /** By this host's clock: when the PVM went on after the checkpoint that is to be applied. */
  pvmResumedAtUs = 0;
  /** Since the role began; checkpoints, and those of them whose RAM digest was compared. */
  applied = 0;
  verified = 0;
  readonly #log: Logger;
  /** What the last apply took from the load to the resume: a guess for the next one. */
  #loadToResumeUs = EXPECTED_LOAD_US;

  constructor(log: Logger) {
    this.#log = log;
  }

  /**
   * The order matters: RAM first, since loading device state reads the virtio rings in it; and RAM
   * once more afterwards, since a load resets devices, which writes ROM areas. Resolves to how long
   * it took, microseconds.
   */
  async apply(
    { guest, ram }: Applied,
    { epoch, svmRuns, beforeResume }: ApplyOptions,
  ): Promise<number> {
    const startUs = monotonicUs();
    const { emulator, network } = guest;
    await network.quiesce();
    await emulator.pause();
    // Pausing once more is a question to QEMU that it answers after what it could send.
    while (!(await network.drain())) await emulator.pause();
    network.rewind();
    const pausedUs = monotonicUs();
    const written = emulator.scanPrivate();
    await ram.apply();
    const copiedUs = monotonicUs();
    await Promise.all([emulator.dropPrivate(written), guest.disks.apply(epoch)]);
    const loadUs = monotonicUs();
    // The PVM runs since then, and the SVM will after what the last load and resume took.
    const advanceUs = loadUs + this.#loadToResumeUs - this.pvmResumedAtUs;
    await emulator.loadDeviceState(ram.deviceState, { advanceUs: Math.max(0, advanceUs) });
    const loadedUs = monotonicUs();
    await emulator.dropPrivate(emulator.scanPrivate());
    await this.#verify({ guest, ram }, epoch);
    ram.next();
    this.applied += 1;
    await beforeResume();
    if (svmRuns) {
      await network.run(epoch + 1);
      await emulator.resume();
    }
    const resumedUs = monotonicUs();
    if (svmRuns) this.#loadToResumeUs = resumedUs - loadUs;
    this.#log.debug('Applied', {
      advanceUs,
      pauseUs: pausedUs - startUs,
      copyUs: copiedUs - pausedUs,
      dropUs: loadUs - copiedUs,
      loadUs: loadedUs - loadUs,
      resumeUs: resumedUs - loadedUs,
    });
    return monotonicUs() - startUs;
  }

  async #verify({ guest, ram }: Applied, epoch: number): Promise<void> {
    const expected = ram.verifyDigest;
    if (expected === undefined) return;
    const found = await digestRam(guest.emulator.ram);
    if (found !== expected) {
      throw new ProtocolError(`RAM digest is ${found.toString(16)}, not ${expected.toString(16)}`);
    }
    this.verified += 1;
    this.#log.debug('RAM verified', { epoch });
  }
}
