/**
 * What has arrived of the epoch that is to be committed next, and whether it is all there.
 *
 * In: the ends of the RAM and disk streams and the primary's end record, in any order, since they
 * come over different connections. Out: a disagreement in words, or the epoch once it is complete.
 * A part of another epoch than the first part seen is a disagreement: one transaction at a time.
 */
import type { EndRecord } from '../replication/index.js';

/** What the RAM stream brought of one epoch, counted by the receiver. */
export interface StagedRam {
  readonly epoch: number;
  readonly frames: number;
  readonly pages: number;
  readonly digest: number;
  readonly deviceStateBytes: number;
}

/** What the disk stream brought of one epoch for one disk, counted by the receiver. */
export interface StagedDisk {
  readonly epoch: number;
  readonly disk: number;
  readonly operations: number;
  readonly bytes: number;
}

/** Collects the parts of one epoch. */
export class Staging {
  #ram: StagedRam | undefined;
  readonly #disks = new Map<number, StagedDisk>();
  #end: EndRecord | undefined;

  addRam(ram: StagedRam): string | undefined {
    if (this.#ram !== undefined) return `RAM of epoch ${ram.epoch} ended twice`;
    this.#ram = ram;
    return this.#disagreement();
  }

  addDisk(disk: StagedDisk): string | undefined {
    if (this.#disks.has(disk.disk)) return `Disk ${disk.disk} of epoch ${disk.epoch} ended twice`;
    this.#disks.set(disk.disk, disk);
    return this.#disagreement();
  }

  addEnd(record: EndRecord): string | undefined {
    if (this.#end !== undefined) return `Epoch ${record.epoch} ended twice`;
    this.#end = record;
    return this.#disagreement();
  }

  /** The end record, once every part is here. */
  complete(): EndRecord | undefined {
    const end = this.#end;
    const complete =
      end !== undefined && this.#ram !== undefined && this.#disks.size === end.disks.length;
    return complete ? end : undefined;
  }

  #disagreement(): string | undefined {
    const epochs = [this.#ram, this.#end, ...this.#disks.values()].flatMap((part) =>
      part === undefined ? [] : [part.epoch],
    );
    if (new Set(epochs).size > 1) return `Parts of epochs ${epochs.join(', ')} arrived together`;
    const end = this.#end;
    if (end === undefined) return undefined;
    return this.#ramDisagreement(end) ?? this.#diskDisagreement(end);
  }

  #ramDisagreement(end: EndRecord): string | undefined {
    const ram = this.#ram;
    if (ram === undefined) return undefined;
    const got = [ram.frames, ram.pages, ram.digest, ram.deviceStateBytes].join('/');
    const want = [end.ramFrames, end.ramPages, end.ramDigest, end.deviceStateBytes].join('/');
    if (got === want) return undefined;
    return `RAM of epoch ${end.epoch}: frames/pages/digest/device bytes ${got}, expected ${want}`;
  }

  #diskDisagreement(end: EndRecord): string | undefined {
    for (const disk of this.#disks.values()) {
      const want = end.disks[disk.disk];
      if (want?.operations === disk.operations && want.bytes === disk.bytes) continue;
      const got = `${disk.operations} operations of ${disk.bytes} bytes`;
      return `Disk ${disk.disk} of epoch ${end.epoch}: ${got}, expected ${want?.operations} of ${want?.bytes}`;
    }
    return undefined;
  }
}
