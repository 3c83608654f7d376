/**
 * Makes events of what a node looks like now and looked like before. Pure.
 *
 * Looked at after each step of a role, and now and then for what changes between steps. A
 * checkpoint that succeeds is no event: `protected` and `checkpointing` count as one. One that
 * ends with the session is.
 */
import type { EventBody, NodePhase, RoleView } from '../config/index.js';
import { RESYNC_NEWS_PERCENT } from './limits.js';

/** A node at one moment. */
export interface NodeView extends RoleView {
  /** Why the witness gives no grant; null: it does; undefined: there is none, or not asked yet. */
  readonly trouble: string | null | undefined;
  readonly sync: { readonly doneBytes: number; readonly totalBytes: number } | null;
}

const NOTHING_SENT = { doneBytes: 0, totalBytes: 0 };

export class NodeWatch {
  #view: NodeView | undefined;
  #told: NodePhase | null = null;
  #sync = NOTHING_SENT;
  #toldPercent = 0;
  #witnessIsLost = false;

  look(view: NodeView): EventBody[] {
    const before = this.#view;
    this.#view = view;
    return [
      ...this.#peer(before, view),
      ...this.#checkpoint(before, view),
      ...this.#resync(before, view),
      ...this.#phase(view),
      ...this.#witness(view),
    ];
  }

  #phase({ phase, reason }: NodeView): EventBody[] {
    const to = phase === 'checkpointing' ? 'protected' : phase;
    const from = this.#told;
    if (to === from) return [];
    this.#told = to;
    return [{ kind: 'state', from, to, reason }];
  }

  #peer(before: NodeView | undefined, { peer, reason }: NodeView): EventBody[] {
    if (peer === before?.peer || peer === 'none') return [];
    const why = { alive: 'The peer is heard', suspect: 'The peer is not heard', lost: reason };
    return [{ kind: 'peer', state: peer, reason: why[peer] }];
  }

  /** The primary's: on the secondary it is an apply, which outlives its session. */
  #checkpoint(before: NodeView | undefined, view: NodeView): EventBody[] {
    const { role, phase, epoch, reason } = view;
    if (role !== 'primary' || before?.phase !== 'checkpointing' || phase !== 'alone') return [];
    return [{ kind: 'checkpoint-failed', epoch: Math.min(before.epoch, epoch), reason }];
  }

  #resync(before: NodeView | undefined, view: NodeView): EventBody[] {
    const { phase, reason, sync } = view;
    const isUnderWay = phase === 'synchronising';
    const was = before?.phase === 'synchronising';
    if (isUnderWay && !was) {
      this.#sync = NOTHING_SENT;
      this.#toldPercent = 0;
      return [{ kind: 'resync', step: 'begin', ...NOTHING_SENT, reason }];
    }
    if (was && !isUnderWay) {
      const isProtected = phase === 'checkpointing' || phase === 'protected';
      const synced = isProtected && view.lastSync ? { synced: view.lastSync } : {};
      return [{ kind: 'resync', step: 'end', ...this.#sync, ...synced, reason }];
    }
    if (!isUnderWay || sync === null) return [];
    const { doneBytes, totalBytes } = sync;
    this.#sync = { doneBytes, totalBytes };
    const percent = totalBytes === 0 ? 0 : Math.floor((100 * doneBytes) / totalBytes);
    if (percent < this.#toldPercent + RESYNC_NEWS_PERCENT) return [];
    this.#toldPercent = percent;
    const said = `${percent} % are sent`;
    return [{ kind: 'resync', step: 'progress', doneBytes, totalBytes, reason: said }];
  }

  #witness({ trouble }: NodeView): EventBody[] {
    if (trouble === undefined || (trouble !== null) === this.#witnessIsLost) return [];
    this.#witnessIsLost = trouble !== null;
    return trouble === null
      ? [{ kind: 'witness', state: 'regained', reason: 'The witness answers' }]
      : [{ kind: 'witness', state: 'lost', reason: trouble }];
  }
}
