import { type Logger, OperatorError, type PageRange } from '../lib/index.js';
import {
  type Mapping,
  PagemapReader,
  PagemapScanner,
  probeSoftDirty,
  probeUserfaultfd,
} from '../linux/index.js';
import { CompareTracker, type DirtyTracker, type ReadableRam } from './dirty-tracker.js';
import type { DirtyTrackerKind } from './emulator.js';

/** PAGEMAP_SCAN on a mapping that the preload library registered. */
class UserfaultfdTracker implements DirtyTracker {
  readonly worksLive = true;
  readonly #scanner: PagemapScanner;

  readonly #private: boolean;

  constructor(mapping: Mapping, ramMapping: 'shared' | 'private') {
    this.#scanner = new PagemapScanner(mapping);
    this.#private = ramMapping === 'private';
  }

  takeWritten(): PageRange[] {
    // On a private mapping it must stay visible which pages the guest has copies of.
    return this.#private ? this.#scanner.takeWrittenTouched() : this.#scanner.takeWritten();
  }

  close(): void {
    this.#scanner.close();
  }
}

class SoftDirtyTracker implements DirtyTracker {
  readonly worksLive = false;
  readonly #reader: PagemapReader;

  constructor(mapping: Mapping) {
    this.#reader = new PagemapReader(mapping);
  }

  takeWritten(): PageRange[] {
    return this.#reader.takeSoftDirty();
  }

  close(): void {
    this.#reader.close();
  }
}

/** The tracker to use: the wanted one, or by trial the best that works here. OperatorError if none does. */
export function chooseTracker(wanted: 'auto' | DirtyTrackerKind, log: Logger): DirtyTrackerKind {
  if (wanted === 'compare') return 'compare';
  if (wanted !== 'soft-dirty') {
    const reason = probeUserfaultfd();
    if (reason === undefined) return 'userfaultfd';
    if (wanted === 'userfaultfd') throw refused(wanted, reason);
    log.warn('userfaultfd tracking does not work here', { reason });
  }
  const reason = probeSoftDirty();
  if (reason === undefined) return 'soft-dirty';
  if (wanted === 'soft-dirty') throw refused(wanted, reason);
  log.warn('soft-dirty tracking does not work here, all of RAM will be compared', { reason });
  return 'compare';
}

export interface TrackerOptions {
  readonly mapping: Mapping;
  readonly ramMapping: 'shared' | 'private';
  readonly ram: ReadableRam;
}

export function openTracker(
  kind: DirtyTrackerKind,
  { mapping, ramMapping, ram }: TrackerOptions,
): DirtyTracker {
  switch (kind) {
    case 'userfaultfd':
      return new UserfaultfdTracker(mapping, ramMapping);
    case 'soft-dirty':
      return new SoftDirtyTracker(mapping);
    case 'compare':
      return new CompareTracker(ram);
  }
}

function refused(kind: DirtyTrackerKind, reason: string): OperatorError {
  return new OperatorError(
    'COLO_E_TRACKER',
    `The dirty tracker ${kind} does not work on this host (${reason}); use auto`,
  );
}
