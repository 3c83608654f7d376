/**
 * What the destination still has of the guest's RAM, from when it was there: an image, which it
 * has loaded. Pages that are the same need not be sent.
 *
 * The order that makes it right while the guest runs: `tracking` is told after the dirty tracker
 * was asked for the first time, then pages are compared. What is written later is dirty.
 */
import type { Emulator, GuestRam } from '../emulator/index.js';
import type { GuestPast } from '../guest/index.js';
import { type Logger, PAGE_SIZE_BYTES, type PageRange, ProtocolError } from '../lib/index.js';
import {
  type PageBitmap,
  pageBitmapOf,
  RamComparison,
  type SourceInput,
} from '../migration/index.js';

/** What is needed of a guest. */
export interface ComparableGuest {
  readonly emulator: { readonly ram: ReadableRam } & Pick<Emulator, 'scanPrivate'>;
  readonly past: GuestPast;
}

type ReadableRam = Pick<GuestRam, 'sizeBytes' | 'copyOut'>;

export class Assist {
  readonly #guest: ComparableGuest;
  readonly #log: Logger;
  #comparison: RamComparison | undefined;
  #image: string | undefined;
  #present: readonly PageRange[] = [];

  constructor(guest: ComparableGuest, log: Logger) {
    this.#guest = guest;
    this.#log = log;
  }

  /**
   * Images of which it is known what has changed since: the one that this guest's RAM file is. It
   * holds for any length of time, and whatever has consumed the dirty tracker since.
   */
  get knownImages(): readonly string[] {
    const { arrivedBy } = this.#guest.past;
    return arrivedBy === undefined ? [] : [arrivedBy];
  }

  /** The destination has this image, or none. */
  offered(image: string | undefined): void {
    this.#image = image;
    this.#comparison = undefined;
  }

  /** From here on every write is seen; what is not in `present` is zero. */
  tracking(present: readonly PageRange[]): void {
    this.#present = present;
  }

  /** A section of digests; with the last one the answer. Throws ProtocolError. */
  compare(bytes: Buffer, last: boolean): SourceInput | undefined {
    const { ram } = this.#guest.emulator;
    if (this.#image === undefined) throw new ProtocolError('Digests of an image that is not there');
    const salt = Buffer.from(this.#image, 'hex');
    this.#comparison ??= new RamComparison({ ram, salt, present: this.#present });
    this.#comparison.add(bytes);
    if (!last) return undefined;
    const differing = this.#comparison.finish();
    this.#comparison = undefined;
    return this.#answer('by their digests', differing);
  }

  /** The destination's image is a known one. */
  compareKnown(): SourceInput {
    const { emulator } = this.#guest;
    return this.#answer('as it is known what was written', writtenSinceArrival(emulator));
  }

  #answer(how: string, differing: PageBitmap): SourceInput {
    this.#log.info('The destination has kept memory of this guest', {
      image: this.#image,
      differ: `${differing.count} of ${differing.pages} pages, ${how}`,
    });
    return { kind: 'imageCompared', same: withoutBits(differing) };
  }
}

/** Pages of a private mapping that are not as in the file any more. */
function writtenSinceArrival(emulator: ComparableGuest['emulator']): PageBitmap {
  return pageBitmapOf(emulator.ram.sizeBytes / PAGE_SIZE_BYTES, emulator.scanPrivate());
}

function withoutBits(bitmap: PageBitmap): PageRange[] {
  const ranges: PageRange[] = [];
  let at = 0;
  for (const run of [...bitmap.runs(), { first: bitmap.pages, count: 0 }]) {
    const length = (run.first - at) * PAGE_SIZE_BYTES;
    if (length > 0) ranges.push({ offset: at * PAGE_SIZE_BYTES, length });
    at = run.first + run.count;
  }
  return ranges;
}
