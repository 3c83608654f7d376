/**
 * Numbered dialogues (scripts/guest/dialogue.c), in which each end notices every byte that is lost,
 * repeated or changed. In: the bytes of one connection. Out: what to send, and how many lines were
 * right or wrong. Pure.
 *
 *     <id> <number> <filler> <crc>\n
 *
 * The asker sends such lines, the answerer checks each and sends it back as it is, the asker
 * compares. `id` is the connection's, `number` counts from 0, `crc` is the CRC-32C of all before it
 * in eight hex digits.
 */
import { crc32c } from '../../src/lib/index.js';

const NEWLINE = 0x0a;
const CRC_DIGITS = 8;
/** As in the guest; a line that is longer is wrong. */
const LINE_BYTES_MAX = 4096;

/** One line with its newline. `filler` is of printable characters without a space. */
export function formatLine(id: number, number: number, filler: string): string {
  const covered = `${id} ${number} ${filler} `;
  return `${covered}${checksum(covered)}\n`;
}

/** Cuts bytes into lines; an endless one is handed on in pieces, each of them wrong. */
class Lines {
  #rest = Buffer.alloc(0);

  /** The lines that are complete now, without their newlines. */
  write(chunk: Buffer): string[] {
    let bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    const lines: string[] = [];
    for (let end = bytes.indexOf(NEWLINE); end >= 0; end = bytes.indexOf(NEWLINE)) {
      lines.push(bytes.toString('latin1', 0, end));
      bytes = bytes.subarray(end + 1);
    }
    if (bytes.length > LINE_BYTES_MAX) {
      lines.push(bytes.toString('latin1'));
      bytes = Buffer.alloc(0);
    }
    this.#rest = Buffer.from(bytes);
    return lines;
  }

  get restBytes(): number {
    return this.#rest.length;
  }
}

/** The end that asks. */
export class Asker {
  readonly #id: number;
  readonly #lines = new Lines();
  readonly #unanswered: string[] = [];
  #next = 0;
  /** Lines that came back as they were sent. */
  right = 0;
  wrong = 0;

  constructor(id: number) {
    this.#id = id;
  }

  /** Lines sent whose echoes are still to come. */
  get waiting(): number {
    return this.#unanswered.length;
  }

  /** The next line to send. */
  ask(filler: string): string {
    const line = formatLine(this.#id, this.#next++, filler);
    this.#unanswered.push(line);
    return line;
  }

  /** Takes the next bytes; returns how many right echoes were in them. */
  write(chunk: Buffer): number {
    const before = this.right;
    for (const line of this.#lines.write(chunk)) {
      if (this.#unanswered.shift() === `${line}\n`) this.right++;
      else this.wrong++;
    }
    return this.right - before;
  }

  /** The other end has closed: what is still to come, or came in part, was lost. */
  end(): void {
    if (this.#unanswered.length > 0 || this.#lines.restBytes > 0) this.wrong++;
  }
}

/** The end that answers. */
export class Answerer {
  readonly #lines = new Lines();
  #id: number | undefined;
  #next = 0;
  right = 0;
  wrong = 0;

  /** Of the first line; undefined before it. */
  get id(): number | undefined {
    return this.#id;
  }

  /** Takes the next bytes; returns what to send back. */
  write(chunk: Buffer): string {
    let echo = '';
    for (const line of this.#lines.write(chunk)) {
      if (this.#take(line)) echo += `${line}\n`;
      else echo += `wrong ${this.#next}\n`;
    }
    return echo;
  }

  /** The other end has closed: a line that came in part was cut. */
  end(): void {
    if (this.#lines.restBytes > 0) this.wrong++;
  }

  #take(line: string): boolean {
    const [, idText = '', numberText = ''] =
      /^(\d{1,15}) (\d{1,15}) \S* [0-9a-f]{8}$/.exec(line) ?? [];
    const covered = line.slice(0, -CRC_DIGITS);
    const id = Number(idText);
    const known = this.#id === undefined || this.#id === id;
    const good = known && numberText === String(this.#next) && line.endsWith(checksum(covered));
    if (!good) {
      this.wrong++;
      return false;
    }
    this.#id = id;
    this.#next++;
    this.right++;
    return true;
  }
}

function checksum(text: string): string {
  return crc32c(Buffer.from(text, 'latin1')).toString(16).padStart(CRC_DIGITS, '0');
}
