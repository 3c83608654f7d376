/**
 * What a host keeps beside its images: the production record, its transitions and its judge, on a
 * file that is a variable. All disks of a host go through the same: one record does for all.
 *
 * What is written at once survives everything. An epoch that a peer has committed is written to the
 * change map only, which the death of a process does not harm; a loss of power makes it worthless.
 */
import {
  type ImageClaim,
  judgeDisk,
  type PrimaryImage,
} from '../../src/blockrep/generation/judge.js';
import {
  appliedAt,
  beginAlone,
  beginFirst,
  beginSync,
  closed,
  committedAt,
  discarded,
  type GenerationRecord,
  type Lineage,
  lineageOf,
  opened,
  peered,
  standbyAt,
} from '../../src/blockrep/generation/record.js';
import { type Standing, standingOf } from '../../src/blockrep/index.js';

const IMAGE = { kind: 'file', device: '1', inode: '1', modifiedNs: '0' } as const;
const ORIGIN = { vm: 'vm', disk: 'disk', sizeBytes: 65_536, image: IMAGE, bootId: 'boot' };
const AT = '2026-01-01T00:00:00.000Z';

export class ImageRecords {
  readonly #host: string;
  readonly #hasDisks: boolean;
  #durable: GenerationRecord | undefined;
  #record: GenerationRecord | undefined;
  #exact = false;
  #mapTrusted = false;
  #generations = 0;
  #isOpen = false;
  /** Of the peer whose guest is followed. */
  #peer: Lineage | undefined;

  constructor(host: string, disks: number) {
    this.#host = host;
    this.#hasDisks = disks > 0;
  }

  /** As a node that starts reads it. */
  get standing(): Standing {
    return this.#hasDisks && this.#durable !== undefined ? standingOf([this.#durable]) : 'none';
  }

  /** A guest may be started from these images. */
  get isStartable(): boolean {
    const state = this.#record?.state ?? 'active';
    return !this.#hasDisks || state === 'active' || state === 'standby';
  }

  /** A guest is about to be here, in either role. */
  open(): void {
    const found = this.#durable;
    if (found === undefined || this.#isOpen) return;
    this.#isOpen = true;
    this.#exact = found.clean || (this.#mapTrusted && found.state === 'active');
    this.#save(opened(found, ORIGIN));
  }

  /** A process ends, in order or not. */
  close(how: 'order' | 'death' | 'power'): void {
    if (this.#record === undefined || !this.#isOpen) return;
    this.#isOpen = false;
    this.#mapTrusted = how !== 'power';
    if (how === 'order' && this.#exact) this.#save(closed(this.#record, IMAGE));
    else if (how === 'death' && this.#record.state === 'active') this.#durable = this.#record;
    this.#record = this.#durable;
  }

  beginAlone(): void {
    this.#generations += 1;
    const next = { generation: `${this.#host}${this.#generations}`, host: this.#host, at: AT };
    const record = this.#record;
    this.#isOpen = true;
    if (record === undefined) this.#save(beginFirst(ORIGIN, next));
    else if (this.isStartable && this.#hasDisks) {
      this.#save(beginAlone(record, { ...next, exact: this.#exact }));
    }
    this.#exact = true;
  }

  beginPeering(): void {
    if (this.#record === undefined) return;
    if (this.#record.epoch > 0) this.#exact = false;
    this.#save(peered(this.#record));
  }

  committed(epoch: number): void {
    if (this.#record?.state !== 'active') return;
    this.#record = committedAt(this.#record, epoch);
    this.#exact = true;
  }

  /** The peer's first byte is about to be written. */
  beginSync(peer: PrimaryImage): void {
    this.#isOpen = true;
    this.#peer = peer.record;
    const { generation, host } = peer.record;
    const fresh = beginFirst(ORIGIN, { generation, host, at: AT });
    this.#save(beginSync(this.#record ?? standbyAt(fresh, peer.record, 0)));
  }

  /** The images are the end of this epoch. */
  applied(epoch: number): void {
    const record = this.#record;
    if (record === undefined || this.#peer === undefined) return;
    if (record.state === 'standby') this.#record = appliedAt(record, epoch);
    else this.#save(standbyAt(record, this.#peer, epoch));
    this.#exact = true;
  }

  discard(): void {
    if (this.#record !== undefined) this.#save(discarded(this.#record));
  }

  /** For the hello. */
  get image(): PrimaryImage | undefined {
    if (this.#record === undefined || !this.#hasDisks) return undefined;
    const record = { vm: 'vm', disk: 'disk', ...lineageOf(this.#record) };
    return { record, map: { trusted: false } };
  }

  /** Why these images may not be overwritten with the primary's. */
  refusal(primary: PrimaryImage | undefined): string | undefined {
    if (primary === undefined || !this.#hasDisks) return undefined;
    const verdict = judgeDisk(primary, this.#claim);
    return verdict.kind === 'refuse' ? verdict.reason : undefined;
  }

  get #claim(): ImageClaim {
    const record = this.#record;
    if (record === undefined) return { kind: 'blank' };
    return {
      kind: 'record',
      lineage: lineageOf(record),
      state: record.state,
      changedOutside: 'no',
      map: { trusted: false },
    };
  }

  #save(record: GenerationRecord): void {
    this.#record = record;
    this.#durable = record;
  }
}
