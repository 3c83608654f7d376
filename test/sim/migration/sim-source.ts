/** The source's shell with a simulated guest, and what a shell has to promise to the core. */
import { crc32c, PAGE_SIZE_BYTES, type PageRange } from '../../../src/lib/index.js';
import {
  type DestinationSection,
  type HelloSection,
  SourceCore,
  type SourceInput,
  type SourceOutput,
  type SourceRecord,
} from '../../../src/migration/index.js';
import type { World } from '../world.js';
import { type SimGuest, Violation } from './guest.js';
import type { SimLink } from './link.js';
import type { Breakage, MigrationSimOptions } from './options.js';
import { decodePages, encodePages, type PageList, pagesIn, rangesOf } from './page-list.js';
import { SimHost } from './sim-host.js';
import { SimSourceLane } from './sim-lanes.js';

export interface SimFiles {
  backup: PageList | undefined;
  /** Kept at the destination by an earlier migration. */
  image: Int32Array | undefined;
}

/** A record on a disk that has other things to do; and the first passes over the moved disks. */
export const SYNC_US = 30_000;
const DISKS_US = 300_000;

interface Parts {
  readonly world: World;
  readonly options: MigrationSimOptions;
  readonly hello: HelloSection;
  readonly guest: SimGuest;
  readonly files: SimFiles;
  readonly breakage: Breakage | undefined;
  readonly link: () => SimLink;
  /** In truth: the guest has not run at the destination and can not any more. */
  readonly neverThere: () => boolean;
}

export class SimSource {
  readonly #parts: Parts;
  readonly core: SourceCore;
  readonly host: SimHost<SourceInput, SourceOutput>;
  readonly #lane: SimSourceLane;
  #digests: [number, number][] = [];
  #lastSession: number | undefined;
  /** Durable. */
  recorded: SourceRecord = 'moving';

  constructor(parts: Parts) {
    const { options } = parts;
    this.#parts = parts;
    this.core = new SourceCore({
      hello: parts.hello,
      knownImages: options.image === 'known' ? ['0'.repeat(32)] : [],
      maxBandwidth: options.maxBandwidth,
      downtimeLimitUs: 100_000,
      autoConverge: options.autoConverge,
      onNoConvergence: options.onNoConvergence,
      recoverTimeoutUs: 10_000_000,
      silenceTimeoutUs: 5_000_000,
      settlesDisks: options.movesDisks || options.sharesDisks,
      movesDisks: options.movesDisks,
    });
    this.host = new SimHost({
      world: parts.world,
      name: 'source',
      core: this.core,
      tick: { kind: 'tick' },
      carryOut: (output) => this.#carryOut(output),
    });
    this.#lane = new SimSourceLane({ ...parts, alive: () => this.host.alive });
  }

  section(session: number, section: DestinationSection): void {
    if (section.kind === 'demand') this.#lane.take(session, section);
    else this.host.step({ kind: 'section', session, section });
  }

  lost(session: number, reason: string): void {
    if (!this.host.alive) return;
    const { guest, breakage } = this.#parts;
    if (breakage === 'resume-after-run' && guest.handedOver) guest.run('source');
    this.host.step({ kind: 'sessionLost', session, reason });
  }

  #carryOut(output: SourceOutput): void {
    const { guest, files, breakage, options } = this.#parts;
    const link = this.#parts.link();
    const { host } = this;
    switch (output.kind) {
      case 'connect':
        link.connect((session) => {
          if (!host.alive) return;
          if (session === undefined) host.step({ kind: 'connectFailed', reason: 'No answer' });
          else {
            this.#lastSession = session;
            this.#lane.attach(session);
            host.step({ kind: 'connected', session });
          }
        });
        return;
      case 'closeSession':
        // In order with the pages that are still being coded.
        host.job(1, () => link.close('source', output.session));
        return;
      case 'put':
        if (output.section.kind === 'run') {
          if (this.recorded !== 'given-up') {
            throw new Violation('Written before it is said: run is put without a record');
          }
          if (breakage !== 'disk-kept-open') guest.closeDisk('source');
          guest.handedOver = true;
          if (breakage === 'early-release') guest.setMemory('source', undefined);
        }
        if (output.section.kind === 'switchover' && output.section.postcopy) this.#lane.begin();
        link.put('source', output.session, output.section);
        return;
      case 'startTracking': {
        guest.dirty.clear();
        const memory = guest.memory('source');
        const touched = rangesOf([...memory.keys()].filter((page) => memory[page] !== 0));
        host.job(2000, () => host.step({ kind: 'trackingStarted', ranges: touched }));
        if (!options.movesDisks && !options.sharesDisks) return;
        this.#parts.world.schedule(host.random.nextInt(2000, DISKS_US), () => {
          host.step({ kind: 'disksReady' });
        });
        return;
      }
      case 'scan':
        host.job(1000, () => {
          const pages = [...guest.dirty].sort((a, b) => a - b);
          if (breakage === 'lose-write' && host.random.chance(0.3)) pages.pop();
          guest.dirty.clear();
          host.step({ kind: 'scanned', ranges: rangesOf(pages) });
        });
        return;
      case 'sendPages':
        host.job(300, () => {
          if (this.core.state.kind !== 'ended') this.#send(output);
        });
        return;
      case 'compareImage': {
        this.#digests.push(...(decodePages(output.bytes) as [number, number][]));
        if (!output.last) return;
        host.job(5000, () => this.#compare(this.#digests));
        return;
      }
      case 'compareKnownImage':
        host.job(5000, () => this.#compare([...(files.image ?? []).entries()]));
        return;
      case 'throttle':
        guest.speed = 100 - output.percent;
        return;
      case 'pause':
        host.job(2000, () => {
          guest.pause('source');
          host.step({ kind: 'paused' });
        });
        return;
      case 'captureDevices': {
        host.job(2000, () => {
          const bytes = Buffer.from(JSON.stringify({ steps: guest.steps }));
          host.step({ kind: 'devicesCaptured', bytes, ramDigest: undefined });
        });
        return;
      }
      case 'settleDisks':
        host.job(3000, () => {
          const session = this.#lastSession;
          if (session !== undefined && options.movesDisks) link.putDisks(session, 1000);
          host.step({ kind: 'disksSettled' });
        });
        return;
      case 'giveUp':
        host.job(SYNC_US, () => {
          if (breakage !== 'run-unrecorded') this.recorded = 'given-up';
          host.step({ kind: 'gaveUp' });
        });
        return;
      case 'resumeGuest':
        host.job(2000, () => {
          this.#lane.stop();
          if (this.#parts.neverThere()) guest.handedOver = false;
          guest.openDisk('source');
          guest.run('source');
        });
        return;
      case 'writeBackup':
        host.job(50_000, () => {
          files.backup = this.#pagesOf(output.ranges);
          host.step({ kind: 'backupWritten', path: 'backup', bytes: 0 });
        });
        return;
      case 'release':
        this.#lane.stop();
        guest.setMemory('source', undefined);
        return;
      case 'record':
        if (breakage === 'resume-unrecorded' && output.what === 'taken-back') return;
        host.job(SYNC_US, () => {
          this.recorded = output.what;
        });
        return;
      case 'alarm':
      case 'commandRefused':
      case 'ended':
        return;
    }
  }

  #send({ session, sequence, ranges }: Extract<SourceOutput, { kind: 'sendPages' }>): void {
    const { options } = this.#parts;
    const pages = [...this.#pagesOf(ranges)];
    const wanted = ranges.reduce((sum, { length }) => sum + length / PAGE_SIZE_BYTES, 0);
    // What nobody asked for: the destination has to see for itself what it may use.
    if (options.chatty && this.core.state.kind !== 'precopy') {
      const most = options.pages - 1;
      const extra = new Set(pages.map(([page]) => Math.min(most, page + wanted)));
      for (const [page] of pages) extra.delete(page);
      const memory = this.#parts.guest.memory('source');
      for (const page of extra) pages.push([page, memory[page] as number]);
      pages.sort(([a], [b]) => a - b);
    }
    const batch = encodePages(pages);
    this.#parts.link().put('source', session, { kind: 'pages', sequence, batch });
    const bytes = wanted * PAGE_SIZE_BYTES;
    this.host.step({ kind: 'pagesSent', session, sequence, bytes, crc: crc32c(batch) });
  }

  #pagesOf(ranges: readonly PageRange[]): PageList {
    const memory = this.#parts.guest.memory('source');
    return pagesIn(ranges).map((page) => [page, memory[page] as number] as const);
  }

  #compare(image: Iterable<readonly [number, number]>): void {
    const memory = this.#parts.guest.memory('source');
    const same = [...image].filter(([page, version]) => memory[page] === version);
    const pages = same.map(([page]) => page);
    this.host.step({ kind: 'imageCompared', same: rangesOf(pages) });
  }
}
