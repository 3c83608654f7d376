/**
 * What the clients know of their writes, and whether what is found on a disk agrees with it. In:
 * reports of the writers, contents of images and of running guests. Out: violations in words. Pure.
 *
 * A found state is the guest's at some moment. Bounds say which: everything that was acknowledged
 * before `ackedBeforeMs` must be in it, and nothing that a client sent after `sentUntilMs`. What was
 * sent but not acknowledged may be there or not, until somebody has looked (`settle`): what was
 * missing then must never appear by itself, what was there must stay.
 *
 * Times are milliseconds of the wall clock, which the agents' logs have, too.
 */
import { type Contents, storedValue } from './contents.js';

/** One lost disk write can cost thousands of the clients' writes: the first ones say enough. */
const PROBLEMS_TOLD = 20;

/** A SET of a new key; `ackedMs` is null while nobody knows what became of it. */
export interface SetRecord {
  readonly key: string;
  readonly sentMs: number;
  readonly ackedMs: number | null;
}

/** A version of a file; `slot` is `directory/name`. Versions of a slot grow. */
export interface FileRecord {
  readonly slot: string;
  readonly version: number;
  readonly sentMs: number;
  readonly ackedMs: number | null;
}

/** `diskload status`: all blocks up to `synced` were on the disk at `answeredMs`. */
export interface LoadSample {
  readonly sentMs: number;
  readonly answeredMs: number;
  readonly synced: number;
}

/** What one run of the writers did. */
export interface WriterReport {
  readonly sets: readonly SetRecord[];
  readonly files: readonly FileRecord[];
  readonly load: readonly LoadSample[];
  /** Directories of the files. */
  readonly directories: readonly string[];
  /** Writes that redis refused, as it should: of another value under a key that exists. */
  readonly refused: number;
  /** What no server should have answered. */
  readonly problems: readonly string[];
}

export interface Bounds {
  readonly ackedBeforeMs: number;
  readonly sentUntilMs: number;
  /**
   * Another guest went on from an earlier state than this one, so what was heard of blocks since
   * `sentUntilMs` tells nothing about it. Default: false.
   */
  readonly forked?: boolean;
}

/** Of a guest that has lost nothing. */
export const EVERYTHING: Bounds = {
  ackedBeforeMs: Number.POSITIVE_INFINITY,
  sentUntilMs: Number.POSITIVE_INFINITY,
};

type Fate = 'open' | 'there' | 'gone';

interface Entry {
  readonly sentMs: number;
  ackedMs: number | null;
  fate: Fate;
}

interface FileEntry extends Entry {
  readonly version: number;
}

export interface Counts {
  readonly acknowledged: number;
  readonly unanswered: number;
}

export class Ledger {
  readonly #sets = new Map<string, Entry>();
  /** By slot, versions in order. */
  readonly #files = new Map<string, FileEntry[]>();
  readonly #load: LoadSample[] = [];
  readonly #directories: string[] = [];

  get keys(): string[] {
    return [...this.#sets.keys()];
  }

  get directories(): readonly string[] {
    return this.#directories;
  }

  add(report: WriterReport): void {
    for (const { key, ...times } of report.sets) this.#sets.set(key, { ...times, fate: 'open' });
    for (const { slot, ...record } of report.files) {
      const entries = this.#files.get(slot) ?? [];
      this.#files.set(slot, [...entries, { ...record, fate: 'open' }]);
    }
    this.#load.push(...report.load);
    this.#directories.push(...report.directories);
  }

  /** What contradicts what the clients know; nothing if all is well. */
  check(found: Contents, bounds: Bounds): string[] {
    const problems = [
      ...this.#checkSets(found, bounds),
      ...this.#checkFiles(found, bounds),
      ...this.#checkLoad(found, bounds),
    ];
    const more = problems.length - PROBLEMS_TOLD;
    return more > 0 ? [...problems.slice(0, PROBLEMS_TOLD), `and ${more} more`] : problems;
  }

  /**
   * The time when the last write was sent that was acknowledged, and sent after `afterMs`; if there
   * is none, 0. It was synced, and so was all that had been acknowledged until then.
   */
  lastSyncedMs(afterMs: number): number {
    const entries = [...this.#sets.values(), ...[...this.#files.values()].flat()];
    const synced = entries.filter(({ sentMs, ackedMs }) => ackedMs !== null && sentMs > afterMs);
    return synced.reduce((max, { sentMs }) => Math.max(max, sentMs), 0);
  }

  /** How many writes must be in a state with these bounds. */
  demanded({ ackedBeforeMs }: Bounds): number {
    const entries = [...this.#sets.values(), ...[...this.#files.values()].flat()];
    return entries.filter(({ ackedMs }) => ackedMs !== null && ackedMs < ackedBeforeMs).length;
  }

  /** Nothing is under way any more and this is what there is: from now on it must not change. */
  settle(found: Contents, nowMs: number): void {
    for (const [key, entry] of this.#sets) {
      settle(entry, found.sets.has(key), nowMs);
    }
    for (const [slot, entries] of this.#files) {
      const version = found.files.get(slot)?.version ?? 0;
      for (const entry of entries) settle(entry, entry.version <= version, nowMs);
    }
  }

  #checkSets({ sets }: Contents, bounds: Bounds): string[] {
    const problems: string[] = [];
    for (const [key, entry] of this.#sets) {
      const value = sets.get(key);
      if (value !== undefined && value !== storedValue(key)) {
        problems.push(`redis: ${key} has a value that nobody was told to be stored: ${value}`);
      }
      problems.push(...judge(`redis: ${key}`, entry, value !== undefined, bounds));
    }
    return problems;
  }

  #checkFiles({ files }: Contents, bounds: Bounds): string[] {
    const problems: string[] = [];
    for (const [slot, entries] of this.#files) {
      const found = files.get(slot);
      if (found?.whole === false) problems.push(`file: ${slot} is torn (version ${found.version})`);
      const version = found?.version ?? 0;
      for (const entry of entries) {
        const name = `file: ${slot} version ${entry.version}`;
        // A later version is there only because this one was: they replace each other in turn.
        problems.push(...judge(name, entry, entry.version <= version, bounds));
      }
    }
    return problems;
  }

  #checkLoad({ load }: Contents, bounds: Bounds): string[] {
    const { ackedBeforeMs, sentUntilMs, forked = false } = bounds;
    const problems = load.bad > 0 ? [`diskload: ${load.bad} blocks are missing or torn`] : [];
    const known = this.#load.filter(({ answeredMs }) => answeredMs < ackedBeforeMs);
    const synced = known.reduce((max, sample) => Math.max(max, sample.synced), 0);
    if (load.highest < synced) {
      problems.push(`diskload: block ${synced} was synced, but the highest is ${load.highest}`);
    }
    const later = forked ? [] : this.#load.filter(({ sentMs }) => sentMs > sentUntilMs);
    // One block more than the synced ones may be on the disk.
    const most = later.reduce((min, sample) => Math.min(min, sample.synced + 1), Infinity);
    if (load.highest > most) {
      problems.push(`diskload: block ${load.highest} is there, but at most ${most} was written`);
    }
    return problems;
  }
}

/** How many writes the clients know to be stored, and how many they know nothing of. */
export function countWrites({ sets, files }: WriterReport): Counts {
  const all = [...sets, ...files];
  const acknowledged = all.filter(({ ackedMs }) => ackedMs !== null).length;
  return { acknowledged, unanswered: all.length - acknowledged };
}

function judge(name: string, entry: Entry, there: boolean, bounds: Bounds): string[] {
  const { sentMs, ackedMs, fate } = entry;
  if (!there && ackedMs !== null && ackedMs < bounds.ackedBeforeMs) {
    return [`${name}: acknowledged ${clock(ackedMs)}, and lost`];
  }
  if (there && fate === 'gone') return [`${name}: was missing, and appeared by itself`];
  if (there && sentMs > bounds.sentUntilMs) {
    return [`${name}: sent ${clock(sentMs)}, after the state was taken`];
  }
  return [];
}

function settle(entry: Entry, there: boolean, nowMs: number): void {
  if (entry.fate !== 'open') return;
  entry.fate = there ? 'there' : 'gone';
  if (there) entry.ackedMs ??= nowMs;
}

function clock(ms: number): string {
  return new Date(ms).toISOString().slice(11, 23);
}
