/** The source's end of the lane: a demand on the faults link -> the pages as they are -> the link. */
import { type RamHandle, RamReader } from '../../emulator/index.js';
import { PAGE_SIZE_BYTES, type PageRange, ProtocolError } from '../../lib/index.js';
import {
  DESTINATION_SECTIONS,
  DemandQueue,
  encodeChecked,
  encodePages,
  plainBatch,
} from '../../migration/index.js';
import { type Link, LinkError } from '../../transport/index.js';
import { SECTION_FRAME, sectionOf } from '../session-channel-shell.js';

export class FaultSourceLane {
  readonly #ram: RamReader;
  readonly #pages: number;
  #session: { readonly link: Link; readonly queue: DemandQueue; next: number } | undefined;
  #reads = false;
  #sending = false;

  constructor(ram: RamHandle) {
    this.#ram = new RamReader(ram);
    this.#pages = ram.sizeBytes / PAGE_SIZE_BYTES;
  }

  /** The link of another session. */
  attach(link: Link): void {
    this.#session = { link, queue: new DemandQueue(this.#pages), next: 0 };
    const session = this.#session;
    link.onFrame((frame) => {
      const section = sectionOf(frame, DESTINATION_SECTIONS, 'faults');
      if (section?.kind !== 'demand' || this.#session !== session) return;
      if (section.ranges.length === 0) this.#send(0, Buffer.alloc(0));
      const complaint = session.queue.add(section.ranges);
      if (complaint !== undefined) throw new ProtocolError(complaint);
      this.#pump();
    });
  }

  /** RAM does not change any more: what is demanded is sent. */
  begin(): void {
    this.#reads = true;
    this.#pump();
  }

  /** RAM is not read any more. */
  stop(): void {
    this.#reads = false;
  }

  /** What was demanded before the pause waits for it. */
  #pump(): void {
    const session = this.#session;
    if (session === undefined || this.#sending) return;
    while (this.#reads) {
      if (!session.link.writable) {
        void this.#goOnWhenDrained(session.link);
        return;
      }
      const range = session.queue.take();
      if (range === undefined) return;
      this.#sendPages(range);
    }
  }

  async #goOnWhenDrained(link: Link): Promise<void> {
    this.#sending = true;
    try {
      await link.drained();
    } catch (error) {
      // Its end is told by the link; another session asks for what is missing.
      if (!(error instanceof LinkError)) throw error;
    }
    this.#sending = false;
    if (this.#session?.link !== link || link.closeReason === undefined) this.#pump();
  }

  #sendPages({ offset, length }: PageRange): void {
    // The link keeps it until it is confirmed.
    const bytes = Buffer.allocUnsafeSlow(length);
    this.#ram.copyOut(offset, bytes);
    this.#send(offset / PAGE_SIZE_BYTES, bytes);
  }

  #send(first: number, bytes: Buffer): void {
    const session = this.#session;
    if (session === undefined) return;
    const batch = encodeChecked(plainBatch(first, bytes));
    const { parts, crc } = encodePages('demanded', session.next, batch);
    session.next += 1;
    session.link.send(SECTION_FRAME, parts, crc);
  }
}
