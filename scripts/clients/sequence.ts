/**
 * Checks the numbered lines `<seq> <guest ms>\n` of one TCP connection. In: bytes as they arrive.
 * Out: how many lines were right, missing, repeated or no such line at all.
 *
 * TCP promises that bytes arrive once and in order; after a failover another guest keeps that
 * promise, so every gap or repeat is a failover that continued from a wrong state.
 */

/** Longer than any line the guest writes; a longer one is counted as malformed and skipped. */
const LINE_BYTES_MAX = 64;
const NEWLINE = 0x0a;

export interface SequenceCounts {
  readonly lines: number;
  /** Numbers that were jumped over. */
  readonly missing: number;
  /** Lines whose number was not larger than the one before. */
  readonly repeats: number;
  readonly malformed: number;
}

export class SequenceCheck {
  #rest = Buffer.alloc(0);
  #skipping = false;
  #last: number | undefined;
  #lines = 0;
  #missing = 0;
  #repeats = 0;
  #malformed = 0;

  /** Takes the next bytes of the connection; returns how many correct successors were in them. */
  write(chunk: Buffer): number {
    let bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    let good = 0;
    for (;;) {
      const end = bytes.indexOf(NEWLINE);
      if (end < 0) break;
      if (this.#skipping) this.#skipping = false;
      else if (this.#line(bytes.toString('latin1', 0, Math.min(end, LINE_BYTES_MAX + 1)))) good++;
      bytes = bytes.subarray(end + 1);
    }
    if (bytes.length > LINE_BYTES_MAX) {
      if (!this.#skipping) this.#malformed++;
      this.#skipping = true;
      bytes = Buffer.alloc(0);
    }
    this.#rest = Buffer.from(bytes);
    return good;
  }

  get counts(): SequenceCounts {
    return {
      lines: this.#lines,
      missing: this.#missing,
      repeats: this.#repeats,
      malformed: this.#malformed,
    };
  }

  #line(text: string): boolean {
    const match = /^(\d{1,15}) \d{1,15}$/.exec(text);
    if (match === null) {
      this.#malformed++;
      return false;
    }
    this.#lines++;
    const seq = Number(match[1]);
    const last = this.#last;
    if (last !== undefined && seq <= last) {
      this.#repeats++;
      return false;
    }
    this.#last = seq;
    if (last === undefined || seq === last + 1) return true;
    this.#missing += seq - last - 1;
    return false;
  }
}
