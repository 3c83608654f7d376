/**
 * The RAM that a guest had when it left this host, put into the RAM of the guest that comes back:
 * what is the same there need not be sent again. A broken image is worth nothing and no failure.
 */
import type { GuestRam } from '../emulator/index.js';
import { type KeptRamPlace, keptRamStore } from '../guest/index.js';
import { ColoError, describeError, type Logger, PAGE_SIZE_BYTES } from '../lib/index.js';
import { monotonicUs } from '../linux/index.js';
import { encodeDigests, type RamImage } from '../migration/index.js';
import { ERASE_CHUNK_BYTES } from './limits.js';

/** What is needed of the guest's RAM. */
export type ArrivingRam = Omit<GuestRam, 'view' | 'readFile' | 'handle'>;

export class KeptImage {
  /** In hexadecimal: of the migration by which the guest left. Also the salt of the digests. */
  readonly id: string;
  readonly #digests: Buffer;

  private constructor(image: RamImage) {
    this.id = image.header.imageId.toString('hex');
    this.#digests = image.digests;
  }

  /**
   * Fills a RAM that is all zeroes with the image that is kept of this VM, each page verified.
   * Undefined: there is none that can be used, and the RAM is all zeroes still. Never rejects for
   * what is wrong with the image.
   */
  static async load(
    configuration: KeptRamPlace,
    { ram, log }: { readonly ram: ArrivingRam; readonly log: Logger },
  ): Promise<KeptImage | undefined> {
    const { vm } = configuration;
    const startUs = monotonicUs();
    let opened: RamImage | undefined;
    try {
      opened = await keptRamStore(configuration).open(vm, ram.sizeBytes / PAGE_SIZE_BYTES);
      if (opened === undefined) return undefined;
      const { imageId, salt } = opened.header;
      if (!salt.equals(imageId)) throw new Error('Its digests have another salt');
      const pages = await opened.load(ram);
      const ms = Math.round((monotonicUs() - startUs) / 1000);
      log.info('Memory that was kept of this guest is loaded', { pages, ms });
      return new KeptImage(opened);
    } catch (error) {
      log.warn('Memory that was kept of this guest is not used', { reason: describeError(error) });
      eraseRam(ram);
      await discardKept(configuration, log);
      return undefined;
    } finally {
      await opened?.close();
    }
  }

  /**
   * What a source that compares needs, in order, each once the one before has left. A session that
   * ends meanwhile is told by the session.
   */
  async sendDigests(
    send: (section: { readonly bytes: Buffer; readonly last: boolean }) => Promise<void>,
  ): Promise<void> {
    let before: Buffer | undefined;
    try {
      for (const bytes of encodeDigests(this.#digests)) {
        if (before !== undefined) await send({ bytes: before, last: false });
        before = bytes;
      }
      if (before !== undefined) await send({ bytes: before, last: true });
    } catch (error) {
      if (!(error instanceof ColoError)) throw error;
    }
  }
}

/** The guest is here again: what was kept is old. */
export async function discardKept(configuration: KeptRamPlace, log: Logger): Promise<void> {
  try {
    await keptRamStore(configuration).discard(configuration.vm);
  } catch (error) {
    log.warn('Memory that was kept of this guest stays', { reason: describeError(error) });
  }
}

/** Nobody uses it yet. */
export function eraseRam(ram: ArrivingRam): void {
  const zeroes = Buffer.alloc(ERASE_CHUNK_BYTES);
  for (const { offset, length } of ram.dataRanges()) {
    for (let at = 0; at < length; at += zeroes.length) {
      ram.writeFile(offset + at, zeroes.subarray(0, Math.min(zeroes.length, length - at)));
    }
  }
}
