/**
 * A protected pair for the fault matrix: with an etcd of its own on a third network, a gateway, a
 * sniffer on the LAN, and each host's image on a file system that can be filled.
 */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  statfsSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { Cleanup } from '../harness/cleanup.js';
import type { Etcd } from '../harness/etcd.js';
import { CLIENT_ADDRESS, startEtcd, witnessAt } from '../harness/etcd-in-lab.js';
import type { GuestFiles } from '../harness/guest-files.js';
import type { HostName } from '../harness/lab.js';
import { LanSniffer } from '../harness/lan-sniffer.js';
import { PairLab } from '../harness/pair-lab.js';
import { MatrixNetwork, WITNESS_ADDRESS } from './network.js';
import type { MatrixOptions } from './options.js';

const MEMORY_MIB = 256;
/** The image has some 180 MiB in it, and redis may add 100 and as much again. */
const FILE_SYSTEM = '800m';
const FILLED_SLOWLY_BYTES = 4 << 20;
const PAGE = Buffer.alloc(4096);
/** Shorter than usual: after some faults the next round waits for a grant to expire. */
const WITNESS_TTL_MS = 2000;

export interface MatrixContext {
  readonly root: string;
  readonly guest: GuestFiles;
  readonly options: MatrixOptions;
}

export class MatrixLab {
  readonly pair: PairLab;
  readonly network: MatrixNetwork;
  readonly etcd: Etcd;
  readonly sniffer: LanSniffer;
  readonly cleanup: Cleanup;
  readonly #images: Readonly<Record<HostName, string>>;
  readonly #stopListening: () => void;

  private constructor(
    parts: Pick<MatrixLab, 'pair' | 'network' | 'etcd' | 'sniffer' | 'cleanup'>,
    images: Readonly<Record<HostName, string>>,
    stopListening: () => void,
  ) {
    this.pair = parts.pair;
    this.network = parts.network;
    this.etcd = parts.etcd;
    this.sniffer = parts.sniffer;
    this.cleanup = parts.cleanup;
    this.#images = images;
    this.#stopListening = stopListening;
  }

  /** Resolves when the guest is protected and serves; what fails leaves nothing behind. */
  static async up(
    { root, guest, options }: MatrixContext,
    onCleanup: (cleanup: Cleanup) => void,
  ): Promise<MatrixLab> {
    const cleanup = new Cleanup();
    const stopListening = cleanup.onSignals();
    onCleanup(cleanup);
    try {
      const images = mountImages(cleanup);
      const flags = [
        ...['--witness', witnessAt(WITNESS_ADDRESS), '--witness-ttl', `${WITNESS_TTL_MS}ms`],
        ...['--gateway', CLIENT_ADDRESS, '--peer-timeout', `${options.peerTimeoutMs}ms`],
        ...['--hold-limit', `${options.holdLimitMs}ms`],
      ];
      const pair = await PairLab.up(
        {
          ...{ root, guest, memoryMib: MEMORY_MIB },
          ...{ periodMs: options.periodMs, mode: options.mode, logLevel: 'debug' },
          imageDirectory: images.hosta,
          primaryFlags: flags,
          secondaryFlags: [...flags, '--disk-dir', images.hostb],
        },
        cleanup,
      );
      if (options.keep) pair.keepFiles('logs');
      const network = await MatrixNetwork.up(pair, cleanup, options.seed);
      const etcd = await startEtcd(pair.lab.lan, cleanup, WITNESS_ADDRESS);
      const sniffer = new LanSniffer(pair, cleanup);
      const parts = { pair, network, etcd, sniffer, cleanup };
      await pair.startSecondary();
      await pair.startPrimary();
      await pair.waitProtected();
      await pair.waitGuest();
      return new MatrixLab(parts, images, stopListening);
    } catch (error) {
      await cleanup.run();
      stopListening();
      throw error;
    }
  }

  async down(): Promise<void> {
    await this.cleanup.run();
    this.#stopListening();
  }

  /** Not a page is left for the image of this host. */
  fillDisk(host: HostName): void {
    const directory = this.#images[host];
    const { bavail, bsize } = statfsSync(directory);
    const ballast = openSync(join(directory, 'ballast'), 'w');
    try {
      // Most of it at once; the guest takes some of the rest meanwhile.
      const length = Math.max(bsize, bavail * bsize - FILLED_SLOWLY_BYTES);
      execFileSync('fallocate', ['--length', String(length), join(directory, 'ballast')]);
      for (let at = length; ; ) at += writeSync(ballast, PAGE, 0, PAGE.length, at);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
    } finally {
      closeSync(ballast);
    }
  }

  mendDisks(): void {
    for (const directory of Object.values(this.#images)) {
      rmSync(join(directory, 'ballast'), { force: true });
    }
  }
}

function mountImages(cleanup: Cleanup): Readonly<Record<HostName, string>> {
  const directory = mkdtempSync('/tmp/colo-matrix-');
  cleanup.add('image directories', () => rmSync(directory, { recursive: true }));
  const images = { hosta: join(directory, 'hosta'), hostb: join(directory, 'hostb') };
  for (const path of Object.values(images)) {
    mkdirSync(path);
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${FILE_SYSTEM}`, 'colo-test', path]);
    cleanup.add('mount', () => void execFileSync('umount', ['--lazy', path]));
  }
  return images;
}
