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
  DigestComparison,
  DigestDecoder,
  digestPages,
  type PageBitmap,
  pageBitmapOf,
  type SourceInput,
} from '../migration/index.js';

/** Of one page, bytes. */
const DIGEST_BYTES = 16;

/** What is needed of a guest. */
export interface ComparableGuest {
  readonly emulator: { readonly ram: ReadableRam } & Pick<Emulator, 'scanPrivate'>;
  readonly past: GuestPast;
}

type ReadableRam = Pick<GuestRam, 'sizeBytes' | 'copyOut'>;

export class Assist {
  readonly #guest: ComparableGuest;
  readonly #log: Logger;
  #comparison: { readonly image: ImageComparison } | undefined;
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
    this.#comparison ??= { image: new ImageComparison(ram, this.#image, this.#present) };
    this.#comparison.image.add(bytes);
    if (!last) return undefined;
    const differing = this.#comparison.image.finish();
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

/** Compares RAM with an image by digests, which come in ascending order. */
class ImageComparison {
  readonly #ram: ReadableRam;
  readonly #salt: Buffer;
  readonly #present: PageBitmap;
  readonly #decoder: DigestDecoder;
  readonly #comparison: DigestComparison;

  constructor(ram: ReadableRam, image: string, present: readonly PageRange[]) {
    const pages = ram.sizeBytes / PAGE_SIZE_BYTES;
    this.#ram = ram;
    this.#salt = Buffer.from(image, 'hex');
    this.#present = pageBitmapOf(pages, present);
    this.#decoder = new DigestDecoder(pages);
    this.#comparison = new DigestComparison(pages);
  }

  add(bytes: Buffer): void {
    const { first, digests: theirs } = this.#decoder.add(bytes);
    const end = first + theirs.length / DIGEST_BYTES;
    // A page that was never touched is not read: reading it could use memory for it.
    const ours = Buffer.alloc(theirs.length);
    for (const run of this.#present.runs(first, end)) {
      const pages = Buffer.allocUnsafe(run.count * PAGE_SIZE_BYTES);
      this.#ram.copyOut(run.first * PAGE_SIZE_BYTES, pages);
      const at = (run.first - first) * DIGEST_BYTES;
      digestPages(this.#salt, pages, ours.subarray(at, at + run.count * DIGEST_BYTES));
    }
    this.#comparison.add(first, theirs, ours);
  }

  finish(): PageBitmap {
    const differing = this.#comparison.finished;
    if (differing === undefined) throw new ProtocolError('The last digests came too early');
    return differing;
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
