/**
 * What the SVM has said last. Until a failover it goes to the primary, which alone speaks; what of
 * it the primary had not released when it died, clients have never heard. The guest would say it
 * again when its timers are over, some tenths of a second later; at a failover it is said again at
 * once.
 *
 * Only TCP segments that carry something: their receivers drop what they have had. All of them are
 * of the present state of the guest: a checkpoint that replaces it empties this (`clear`).
 *
 * In: batches of the guest, kept by reference. Out: a new batch.
 */
import { encodeBatch, forEachFrame } from './batch-wire.js';
import { RECENT_OUTPUT_BYTES_MAX, VNET_HEADER_BYTES } from './limits.js';
import { PACKET_TCP, Packet } from './packet.js';

export class RecentOutput {
  /** Oldest first. */
  #batches: Buffer[] = [];
  #bytes = 0;

  /** A well-formed batch from the guest. */
  note(batch: Buffer): void {
    this.#batches.push(batch);
    this.#bytes += batch.length;
    while (this.#bytes > RECENT_OUTPUT_BYTES_MAX) this.#bytes -= this.#batches.shift()?.length ?? 0;
  }

  /** The guest is another one, or speaks for itself. */
  clear(): void {
    this.#batches = [];
    this.#bytes = 0;
  }

  /** The segments that are worth saying again, copied, in their order. */
  segments(): Buffer {
    const packet = new Packet();
    const found: Buffer[] = [];
    for (const batch of this.#batches) {
      forEachFrame(batch, (frame) => {
        packet.parse(frame, VNET_HEADER_BYTES, frame.length, true);
        if (packet.kind === PACKET_TCP && packet.sequenceBytes > 0) found.push(frame);
      });
    }
    return encodeBatch(found);
  }
}
