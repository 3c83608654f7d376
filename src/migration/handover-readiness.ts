/**
 * What has to be there before the guest is paused, so that nothing of it is waited for in the
 * pause: the disks but for their last writes, and on this host's disk the fact that `run` may
 * be said.
 *
 * That fact stands there while the guest still runs here. A host that dies with it does not boot
 * the guest by itself, so it is asked for late, and withdrawn when the pause is put off. After a
 * pause it is taken back before the guest goes on: else an operator who finds it would let the
 * destination go on from what it has loaded, which is older than what this guest has said since.
 */
import type { SourceOutput } from './source-state.js';

/** The state of that. Its outputs are to be carried out in order with the core's others. */
export class HandoverReadiness {
  #disks: boolean;
  #record: 'none' | 'asked' | 'written' = 'none';

  constructor(settlesDisks: boolean) {
    this.#disks = !settlesDisks;
  }

  /** Of the disks, if there are any, only the last writes are still to be sent, or synced. */
  get disks(): boolean {
    return this.#disks;
  }

  /** Something that was begun is waited for: there is no use in looking at RAM before. */
  get pending(): boolean {
    return !this.#disks || this.#record === 'asked';
  }

  /** The guest may be paused. */
  get complete(): boolean {
    return this.#disks && this.#record === 'written';
  }

  disksReady(): void {
    this.#disks = true;
  }

  /** `giveUp` was answered. */
  recorded(): void {
    if (this.#record === 'asked') this.#record = 'written';
  }

  /** What is missing is begun, the record last. */
  ask(): SourceOutput[] {
    if (!this.#disks || this.#record !== 'none') return [];
    this.#record = 'asked';
    return [{ kind: 'giveUp' }];
  }

  /** The guest runs here for longer than expected. */
  withdraw(): SourceOutput[] {
    return this.#end('moving');
  }

  /** The guest stays here: to be done before it goes on. */
  takeBack(): SourceOutput[] {
    return this.#end('taken-back');
  }

  #end(what: 'moving' | 'taken-back'): SourceOutput[] {
    if (this.#record === 'none') return [];
    this.#record = 'none';
    return [{ kind: 'record', what }];
  }
}
