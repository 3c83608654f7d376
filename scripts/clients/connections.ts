/**
 * What became of the connections that a client opened, or that the guest opened to it. In: the
 * moments of their lives. Out: records, and the counts of a report. Pure.
 *
 * Bound: the last `RECORDS_MAX` connections; what is older and ended well is only counted.
 */

/** Enough for every connection that may be open at once, and those of minutes before. */
const RECORDS_MAX = 4096;

/** `open`: at the end of the load, too; `closed`: ended as planned, nothing missing. */
export type Fate = 'opening' | 'open' | 'closed' | 'dead' | 'wrong';

/** One connection; times are CLOCK_MONOTONIC in microseconds. */
export interface ConnectionRecord {
  readonly id: number;
  /** When somebody began to open it. */
  startedUs: number;
  establishedUs?: number;
  endedUs?: number;
  fate: Fate;
  /** Why it is dead or wrong. */
  reason?: string;
}

export interface ConnectionCounts {
  /** Ever established. */
  readonly established: number;
  /** Ended before their time, or never established, or without an answer for too long. */
  readonly dead: number;
  /** A byte was lost, repeated or changed on them. */
  readonly wrong: number;
  readonly connections: readonly ConnectionRecord[];
}

export class Connections {
  #records: ConnectionRecord[] = [];
  #established = 0;
  #dead = 0;
  #wrong = 0;

  begin(id: number, atUs: number): ConnectionRecord {
    const record: ConnectionRecord = { id, startedUs: atUs, fate: 'opening' };
    this.#records.push(record);
    if (this.#records.length > RECORDS_MAX) {
      this.#records = this.#records.filter(
        ({ fate }, i) => fate !== 'closed' || i >= RECORDS_MAX / 2,
      );
    }
    return record;
  }

  establish(record: ConnectionRecord, atUs: number): void {
    record.establishedUs = atUs;
    record.fate = 'open';
    this.#established++;
  }

  /** Tells a connection's end; only the first one counts. */
  end(
    record: ConnectionRecord,
    how: { fate: 'closed' | 'dead' | 'wrong'; atUs: number; reason?: string },
  ): void {
    if (record.endedUs !== undefined) return;
    record.endedUs = how.atUs;
    record.fate = how.fate;
    if (how.reason !== undefined) record.reason = how.reason;
    if (how.fate === 'dead') this.#dead++;
    if (how.fate === 'wrong') this.#wrong++;
  }

  /** Connections that are open now and that somebody began to open after `atUs`. */
  openSince(atUs: number): number {
    return this.#records.filter(({ fate, startedUs }) => fate === 'open' && startedUs > atUs)
      .length;
  }

  get counts(): ConnectionCounts {
    return {
      established: this.#established,
      dead: this.#dead,
      wrong: this.#wrong,
      connections: this.#records,
    };
  }
}

/** What a fault met, and what was left of it. */
export interface Census {
  /** Connections that were open when the fault came. */
  readonly open: number;
  /** Those of them that somebody began to open after the last checkpoint. */
  readonly sinceCheckpoint: number;
  /** Those that nothing bad happened to later. */
  readonly survived: number;
  readonly sinceCheckpointSurvived: number;
  /** How long the youngest and the oldest of those since the checkpoint had been open. */
  readonly agesMs: readonly [number, number] | null;
}

/**
 * Who was there at `faultUs`. What began before `checkpointUs` may be in that checkpoint, so a time
 * that is too late counts too few as new, never too many.
 */
export function takeCensus(
  records: readonly ConnectionRecord[],
  { faultUs, checkpointUs }: { faultUs: number; checkpointUs: number },
): Census {
  const open = records.filter(
    ({ establishedUs = Infinity, endedUs = Infinity }) =>
      establishedUs <= faultUs && endedUs > faultUs,
  );
  const young = open.filter(({ startedUs }) => startedUs > checkpointUs);
  const ages = young
    .map(({ establishedUs = faultUs }) => Math.round((faultUs - establishedUs) / 1000))
    .sort((a, b) => a - b);
  const survived = ({ fate }: ConnectionRecord): boolean => fate === 'open' || fate === 'closed';
  return {
    open: open.length,
    sinceCheckpoint: young.length,
    survived: open.filter(survived).length,
    sinceCheckpointSurvived: young.filter(survived).length,
    agesMs: ages.length === 0 ? null : [ages[0] ?? 0, ages[ages.length - 1] ?? 0],
  };
}
