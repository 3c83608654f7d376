/** The destination's shell with a simulated QEMU, and what a shell has to promise to the core. */
import { crc32c, PAGE_SIZE_BYTES } from '../../../src/lib/index.js';
import {
  DestinationCore,
  type DestinationInput,
  type DestinationOptions,
  type DestinationOutput,
  type SourceSection,
} from '../../../src/migration/index.js';
import type { World } from '../world.js';
import { ABSENT, type SimGuest, Violation } from './guest.js';
import type { SimLink } from './link.js';
import type { Breakage, MigrationSimOptions } from './options.js';
import { decodePages, encodePages, type PageList, pagesIn, rangesOf } from './page-list.js';
import { SimHost } from './sim-host.js';
import { SimTargetLane } from './sim-lanes.js';
import { type SimFiles, SYNC_US } from './sim-source.js';

interface Parts {
  readonly world: World;
  readonly options: MigrationSimOptions;
  readonly guest: SimGuest;
  readonly files: SimFiles;
  readonly breakage: Breakage | undefined;
  readonly recorded: DestinationOptions['recorded'];
  readonly link: () => SimLink;
  /** The guest is about to be started. */
  readonly onStart: () => void;
}

type Recorded = NonNullable<DestinationOptions['recorded']>;

export class SimDestination {
  readonly #parts: Parts;
  readonly core: DestinationCore;
  readonly host: SimHost<DestinationInput, DestinationOutput>;
  readonly #lane: SimTargetLane;
  /** Durable. */
  recorded: Recorded | undefined;
  #migration = '';
  /** Of the devices that are loaded. */
  #steps = -1;
  /** Devices are loaded once these pages have been read. */
  #loadReads = new Set<number>();
  #ownsIsDurable = false;
  /** `speak` was asked, and what stands before it is done. */
  #maySpeak = false;

  constructor(parts: Parts) {
    this.#parts = parts;
    this.recorded = parts.recorded;
    this.core = new DestinationCore({
      silenceTimeoutUs: 5_000_000,
      recoverTimeoutUs: 10_000_000,
      recorded: parts.recorded,
    });
    this.host = new SimHost({
      world: parts.world,
      name: 'destination',
      core: this.core,
      tick: { kind: 'tick' },
      carryOut: (output) => this.#carryOut(output),
    });
    this.#lane = new SimTargetLane(
      { ...parts, alive: () => this.host.alive },
      {
        faulted: (pages) => {
          const offsets = pages.map((page) => page * PAGE_SIZE_BYTES);
          this.host.step({ kind: 'fault', offsets });
        },
        placed: (ranges, waits) => {
          this.host.step({ kind: 'placed', ranges, waitsUs: Array(waits).fill(1) });
        },
      },
    );
  }

  fault(pages: readonly number[]): void {
    if (this.host.alive) this.#lane.fault(pages);
  }

  section(session: number, section: SourceSection): void {
    if (section.kind === 'hello') this.#migration = section.migration;
    if (section.kind === 'demanded') {
      if (this.core.state.kind !== 'ended' && this.#lane.take(session, section)) this.#loadOn();
      return;
    }
    if (section.kind !== 'pages') {
      this.host.step({ kind: 'section', session, section });
      return;
    }
    const { batch, sequence } = section;
    const ranges = rangesOf(decodePages(batch).map(([page]) => page));
    const crc = crc32c(batch);
    this.host.step({ kind: 'batch', session, sequence, ranges, batch, crc });
  }

  #carryOut(output: DestinationOutput): void {
    const { guest, files, breakage, options } = this.#parts;
    const link = this.#parts.link();
    const { host } = this;
    switch (output.kind) {
      case 'put': {
        const { section } = output;
        const isNew = section.kind === 'accepted' || section.kind === 'resumed';
        if (isNew && this.core.session === output.session) this.#lane.attach(output.session);
        if (breakage === 'forget-missing' && section.kind === 'missing') {
          link.put('destination', output.session, { ...section, ranges: section.ranges.slice(1) });
          return;
        }
        link.put('destination', output.session, section);
        return;
      }
      case 'closeSession':
        link.close('destination', output.session);
        return;
      case 'prepare':
        this.#job(50_000, () => this.#prepare());
        return;
      case 'readDigests': {
        const all = [...(files.image ?? []).entries()];
        const half = Math.floor(all.length / 2);
        for (const [part, last] of [
          [all.slice(0, half), false],
          [all.slice(half), true],
        ] as const) {
          host.job(2000, () => host.step({ kind: 'digests', bytes: encodePages(part), last }));
        }
        return;
      }
      case 'apply':
        this.#job(300, () => {
          this.#apply(output);
          const { session, sequence } = output;
          host.step({ kind: 'applied', session, sequence });
          this.#loadOn();
        });
        return;
      case 'expectPages':
        this.#job(500, () => {
          const memory = guest.memory('destination');
          for (const page of pagesIn(output.ranges)) memory[page] = ABSENT;
        });
        return;
      case 'load':
        this.#job(5000, () => {
          this.#steps = (JSON.parse(output.deviceState.toString()) as { steps: number }).steps;
          const reads = [0, options.hotPages - 1, host.random.nextInt(0, options.pages - 1)];
          this.#loadReads = new Set(reads);
          this.#lane.fault(this.#absent(reads));
          this.#loadOn();
        });
        return;
      case 'start':
        this.#parts.onStart();
        this.#job(3000, () => {
          if (this.#steps !== guest.steps) {
            throw new Violation(`Devices match RAM: of step ${this.#steps} at step ${guest.steps}`);
          }
          guest.check('destination', true);
          guest.openDisk('destination');
          guest.run('destination');
          host.step({ kind: 'guestRuns' });
        });
        return;
      case 'speak':
        this.#job(1000, () => {
          this.#maySpeak = true;
          this.#speak();
        });
        return;
      case 'allPagesHere':
        guest.check('destination', false);
        return;
      case 'applyBackup':
        this.#job(20_000, () => this.#finish(output.missing));
        return;
      case 'discard':
        guest.setMemory('destination', undefined);
        guest.closeDisk('destination');
        return;
      case 'record':
        if (output.what === 'owns') {
          this.#recordOwns();
          return;
        }
        this.recorded = { migration: this.#migration, what: output.what };
        return;
      case 'alarm':
      case 'commandRefused':
      case 'ended':
        return;
    }
  }

  /** Beside the start of the guest, and slower than it now and then. */
  #recordOwns(): void {
    const { world, breakage } = this.#parts;
    if (breakage === 'speak-early') this.#ownsIsDurable = true;
    world.schedule(this.host.random.nextInt(1, SYNC_US), () => {
      if (!this.host.alive) return;
      if (breakage !== 'no-record') this.recorded = { migration: this.#migration, what: 'owns' };
      const isLate = this.#ownsIsDurable;
      this.#ownsIsDurable = true;
      if (!isLate) this.#speak();
    });
  }

  #speak(): void {
    if (!this.#ownsIsDurable || !this.#maySpeak) return;
    this.#parts.guest.speak();
    this.host.step({ kind: 'guestSpeaks' });
  }

  /** Not done any more once the guest is discarded. */
  #job(mostUs: number, run: () => void): void {
    this.host.job(mostUs, () => {
      if (this.core.state.kind !== 'ended') run();
    });
  }

  #prepare(): void {
    const { guest, files, options } = this.#parts;
    if (options.refuses) {
      const differences = [{ what: 'bridge of NIC 0', source: 'br0', destination: 'missing' }];
      this.host.step({ kind: 'unable', differences });
      return;
    }
    guest.setMemory('destination', Int32Array.from(files.image ?? new Int32Array(options.pages)));
    this.host.step({
      kind: 'prepared',
      host: 'b',
      qemuVersion: '7.2',
      image: files.image === undefined ? undefined : '0'.repeat(32),
      verdictsJson: '[]',
    });
  }

  #apply({ batch, ranges, place }: Extract<DestinationOutput, { kind: 'apply' }>): void {
    const { guest, breakage } = this.#parts;
    const sabotage = breakage === 'overwrite' && place;
    const wanted = new Set(pagesIn(ranges));
    const pages = decodePages(batch).filter(([page]) => sabotage || wanted.has(page));
    const memory = guest.memory('destination');
    for (const [page, version] of pages) {
      // As userfaultfd has it: a page that is there stays as it is.
      if (place && !sabotage && memory[page] !== ABSENT) continue;
      memory[page] = version;
      guest.arrived(page);
    }
  }

  #absent(pages: readonly number[]): number[] {
    const memory = this.#parts.guest.memory('destination');
    return pages.filter((page) => memory[page] === ABSENT);
  }

  #loadOn(): void {
    if (this.#loadReads.size === 0 || this.#absent([...this.#loadReads]).length > 0) return;
    this.#loadReads = new Set();
    this.host.step({ kind: 'guestLoaded' });
    if (this.#parts.breakage === 'run-unasked') this.#parts.guest.run('destination');
  }

  #finish(missing: Parameters<typeof pagesIn>[0]): void {
    const { files, guest } = this.#parts;
    const backup: PageList | undefined = files.backup;
    if (backup === undefined) {
      this.host.step({ kind: 'backupRefused', reason: 'There is no such file' });
      return;
    }
    const wanted = new Set(pagesIn(missing));
    const memory = guest.memory('destination');
    const placed: number[] = [];
    for (const [page, version] of backup) {
      if (!wanted.has(page)) continue;
      placed.push(page);
      if (memory[page] !== ABSENT) continue;
      memory[page] = version;
      guest.arrived(page);
    }
    this.host.step({ kind: 'backupApplied', ranges: rangesOf(placed) });
  }
}
