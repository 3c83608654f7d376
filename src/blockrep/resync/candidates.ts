/**
 * Which clusters of a disk may differ from the peer's: all of them, or those that either host
 * changed since the last common epoch. The target tells its own in `changed` messages, whatever
 * the verdict is; what it says must ascend, so there is an end to it.
 */
import { ProtocolError } from '../../lib/index.js';
import type { ByteRange } from '../block-layer-shell.js';
import { DirtyBitmap } from '../dirty-bitmap.js';
import { checkRun, rangeOfRun } from './clusters.js';
import type { ChangedMessage } from './resync-wire.js';

export class Candidates {
  readonly bitmap: DirtyBitmap;
  readonly #sizeBytes: number;
  #all: boolean;
  #complete = false;
  #next = 0;

  constructor(options: { sizeBytes: number; all: boolean; own: Iterable<ByteRange> }) {
    this.#sizeBytes = options.sizeBytes;
    this.bitmap = new DirtyBitmap(options.sizeBytes);
    this.#all = options.all;
    if (options.all) this.#markAll();
    else for (const { offset, length } of options.own) this.bitmap.mark(offset, length);
  }

  /** The target has told everything. */
  get isComplete(): boolean {
    return this.#complete;
  }

  /** Every cluster is a candidate: the verdict, or a target that does not trust its map. */
  get isAll(): boolean {
    return this.#all;
  }

  /** Throws ProtocolError for what can't be a map of this disk. */
  changed(message: ChangedMessage): void {
    if (this.#complete) throw new ProtocolError('Changed clusters came after the last ones');
    for (const run of message.runs) {
      checkRun(run, this.#sizeBytes);
      if (run.first < this.#next) throw new ProtocolError('Changed clusters do not ascend');
      this.#next = run.first + run.count;
      const { offset, length } = rangeOfRun(run, this.#sizeBytes);
      this.bitmap.mark(offset, length);
    }
    if (!message.trusted && !this.#all) this.#markAll();
    this.#complete = message.last;
    if (!message.last && message.runs.length === 0) {
      throw new ProtocolError('A message of no changed clusters that is not the last');
    }
  }

  #markAll(): void {
    this.#all = true;
    this.bitmap.mark(0, this.#sizeBytes);
  }
}
