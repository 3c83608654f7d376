/**
 * Which role a node has, one after the other, and what it becomes next.
 *
 *     started -> joining -> primary <-> secondary -> left
 *
 * In: the start, what the other host answered, the ends of roles, the operator's stop. Out: what
 * the shell is to do, in order. A node that its operator started as the primary asks the other host
 * first, and then the witness: a guest that runs there, or may run there in a moment, is not
 * started twice (I4).
 */
import type { ProbeResult } from '../transport/index.js';

export type NodeInput =
  /** With the role that the configuration names. */
  | { readonly kind: 'started'; readonly role: 'primary' | 'secondary' }
  /** By the other host, to `ask`. */
  | { readonly kind: 'answered'; readonly answer: ProbeResult }
  /** What the witness let this node do, to `askWitness`. */
  | { readonly kind: 'witnessed'; readonly answer: 'granted' | 'fenced' | 'none' }
  /** The role is over; as RoleEnd. */
  | { readonly kind: 'ended'; readonly end: 'left' | 'promoted' | 'demoted' }
  | { readonly kind: 'stopRequested' };

export type NodeOutput =
  /** Ask the other host what it has of the guest; `again`: it is about to decide, after a pause. */
  | { readonly kind: 'ask'; readonly again: boolean }
  /** May the guest be started here? */
  | { readonly kind: 'askWitness' }
  /** Start the guest and be its primary. */
  | { readonly kind: 'boot' }
  /** The guest that was this node's SVM speaks: be its primary. */
  | { readonly kind: 'goOn' }
  | { readonly kind: 'beSecondary' }
  /** Tell the role to leave in order. */
  | { readonly kind: 'stopRole' }
  /** Nothing becomes of this node any more. */
  | { readonly kind: 'leave' }
  /** The input makes no sense in this state and changes nothing. */
  | { readonly kind: 'refused'; readonly reason: string };

export type NodeState = 'new' | 'joining' | 'primary' | 'secondary' | 'left';

/** One node from its start to its end; `step` never throws. */
export class RoleMachine {
  readonly #hasWitness: boolean;
  #state: NodeState = 'new';

  constructor(options: { readonly hasWitness: boolean }) {
    this.#hasWitness = options.hasWitness;
  }

  get state(): NodeState {
    return this.#state;
  }

  step(input: NodeInput): NodeOutput[] {
    const state = this.#state;
    switch (input.kind) {
      case 'started':
        if (state !== 'new') return this.#refuse('It has been started already');
        return input.role === 'secondary'
          ? this.#become('secondary', { kind: 'beSecondary' })
          : this.#become('joining', { kind: 'ask', again: false });
      case 'answered':
        if (state !== 'joining') return this.#refuse('Nobody has been asked');
        return this.#answered(input.answer);
      case 'witnessed':
        if (state !== 'joining') return this.#refuse('The witness has not been asked');
        return this.#witnessed(input.answer);
      case 'ended':
        return this.#ended(input.end);
      case 'stopRequested':
        if (state === 'primary' || state === 'secondary') return [{ kind: 'stopRole' }];
        if (state === 'left') return this.#refuse('It has ended already');
        return this.#become('left', { kind: 'leave' });
    }
  }

  /** No answer is no obstacle by itself: whether the peer is alone, the witness knows. */
  #answered(answer: ProbeResult): NodeOutput[] {
    switch (answer) {
      case 'serving':
        return this.#become('secondary', { kind: 'beSecondary' });
      case 'holding':
        return [{ kind: 'ask', again: true }];
      case 'alive':
      case 'replaced':
      case 'refused':
      case 'unreachable':
      case 'silent':
        if (this.#hasWitness) return [{ kind: 'askWitness' }];
        return this.#become('primary', { kind: 'boot' });
    }
  }

  /** Without an answer the peer is asked again, too: it may run the guest by then. */
  #witnessed(answer: 'granted' | 'fenced' | 'none'): NodeOutput[] {
    switch (answer) {
      case 'granted':
        return this.#become('primary', { kind: 'boot' });
      case 'fenced':
        return this.#become('secondary', { kind: 'beSecondary' });
      case 'none':
        return [{ kind: 'ask', again: true }];
    }
  }

  #ended(end: 'left' | 'promoted' | 'demoted'): NodeOutput[] {
    const state = this.#state;
    if (state !== 'primary' && state !== 'secondary') {
      return this.#refuse(`It has no role that could be over`);
    }
    if (end === 'left') return this.#become('left', { kind: 'leave' });
    if (end === 'promoted' && state === 'secondary') {
      return this.#become('primary', { kind: 'goOn' });
    }
    if (end === 'demoted' && state === 'primary') {
      return this.#become('secondary', { kind: 'beSecondary' });
    }
    return this.#refuse(`A ${state} can't be ${end}`);
  }

  #become(state: NodeState, output: NodeOutput): NodeOutput[] {
    this.#state = state;
    return [output];
  }

  #refuse(reason: string): NodeOutput[] {
    return [{ kind: 'refused', reason: `The node is ${this.#state}: ${reason}` }];
  }
}
