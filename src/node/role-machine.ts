/**
 * Which role a node has, one after the other, and what it becomes next.
 *
 *     started -> joining -> primary <-> secondary -> left
 *                             |^            |^
 *                             v|            v|
 *                           source      destination -> primary
 *
 * In: the start, what the other host answered, the ends of roles, the operator's stop. Out: what
 * the shell is to do, in order. A node that its operator started as the primary asks the other host
 * first: a guest that runs there, or may run there in a moment, is not started twice (I4). Nor is
 * it started from old data: the witness knows, or else what the records of both hosts' images say
 * (`Standing`) decides, and where that is not enough it waits for the peer, or for an operator who
 * insists. A node that was started as the secondary does the same if the guest ran there last, and
 * it knows the machine.
 */
import type { Standing } from '../blockrep/index.js';
import type { ProbeResult } from '../transport/index.js';

export type RoleEndKind = 'left' | 'promoted' | 'demoted' | 'departing' | 'arriving';

export type NodeInput =
  /** With the role that the configuration names. */
  | {
      readonly kind: 'started';
      readonly role: 'primary' | 'secondary';
      readonly standing: Standing;
      /** As a secondary: it knows the machine and may boot it. A primary always does. */
      readonly knowsMachine?: boolean;
      /** A migration took the guest away, or may have: nothing but an operator boots it here. */
      readonly departed?: boolean;
    }
  /** By the other host, to `ask`. */
  | { readonly kind: 'answered'; readonly answer: ProbeResult }
  /** What the witness let this node do, to `askWitness`. */
  | { readonly kind: 'witnessed'; readonly answer: 'granted' | 'fenced' | 'none' }
  /** The role is over; as RoleEnd. */
  | { readonly kind: 'ended'; readonly end: RoleEndKind }
  /** The operator takes it on himself that the guest is booted here. */
  | { readonly kind: 'forced' }
  | { readonly kind: 'stopRequested' };

export type NodeOutput =
  /** Ask the other host what it has of the guest; `waitsFor`: again, after a pause, and why. */
  | { readonly kind: 'ask'; readonly waitsFor: string | undefined }
  /** May the guest be started here? */
  | { readonly kind: 'askWitness' }
  /** Start the guest and be its primary. */
  | { readonly kind: 'boot' }
  /** The guest that was this node's SVM speaks: be its primary. */
  | { readonly kind: 'goOn' }
  | { readonly kind: 'beSecondary' }
  /** Move the guest to another host. */
  | { readonly kind: 'depart' }
  /** Take the guest of another host. */
  | { readonly kind: 'arrive' }
  /** Tell the role to leave in order. */
  | { readonly kind: 'stopRole' }
  /** Nothing becomes of this node any more. */
  | { readonly kind: 'leave' }
  /** The input makes no sense in this state and changes nothing. */
  | { readonly kind: 'refused'; readonly reason: string };

export type NodeState =
  | 'new'
  | 'joining'
  | 'primary'
  | 'secondary'
  /** The guest runs here and is being moved away. */
  | 'source'
  /** A guest is being moved here. */
  | 'destination'
  /** A secondary whose role ends, for the operator wants the guest to be booted here. */
  | 'giving-up'
  | 'left';

/** What becomes of a node whose role ends so; what is left out is impossible. */
const NEXT: Partial<
  Record<NodeState, Partial<Record<RoleEndKind, readonly [NodeState, NodeOutput]>>>
> = {
  primary: {
    demoted: ['secondary', { kind: 'beSecondary' }],
    departing: ['source', { kind: 'depart' }],
  },
  secondary: {
    promoted: ['primary', { kind: 'goOn' }],
    arriving: ['destination', { kind: 'arrive' }],
  },
  // The guest goes on here, or has gone to the other host of the pair.
  source: {
    promoted: ['primary', { kind: 'goOn' }],
    demoted: ['secondary', { kind: 'beSecondary' }],
  },
  // It runs here, or it does not, and this host waits again.
  destination: {
    promoted: ['primary', { kind: 'goOn' }],
    demoted: ['secondary', { kind: 'beSecondary' }],
  },
};

const PEER_HOLDS = 'The peer has a state of the guest and may take over';
const PEER_LEADS =
  "The peer's images may be newer than this host's: it boots the guest if it knows the machine, else " +
  'start colo-primary there, or give them up there by colo discard-image, or run colo failover --force here to boot from what this host has';
const PEER_MAY_LEAD =
  'The peer does not answer and may have gone on with the guest: start it, or, if it is off for ' +
  'good, run colo failover --force here to boot from what this host has';
const DEPARTED =
  'This host has given the guest up in a migration: it runs where it was moved to. If it is gone there ' +
  'for good, run colo failover --force here to boot from what this host has, as of the switchover';
const WITNESS_SILENT =
  'The witness has not allowed this host to go on alone yet; if you know that the other host is off, ' +
  'run colo failover --force here to boot from what this host has';

/** One node from its start to its end; `step` never throws. */
export class RoleMachine {
  readonly #hasWitness: boolean;
  #state: NodeState = 'new';
  #standing: Standing = 'none';
  #departed = false;
  /** The peer holds a state, by its last answer, and may go on with it at any time. */
  #held = false;

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
        this.#standing = input.standing;
        this.#departed = input.departed === true;
        return this.#mayHaveNewest(input)
          ? this.#become('joining', { kind: 'ask', waitsFor: undefined })
          : this.#become('secondary', { kind: 'beSecondary' });
      case 'answered':
        if (state !== 'joining') return this.#refuse('Nobody has been asked');
        return this.#answered(input.answer);
      case 'witnessed':
        if (state !== 'joining') return this.#refuse('The witness has not been asked');
        return this.#witnessed(input.answer);
      case 'ended':
        return this.#ended(input.end);
      case 'forced':
        if (state === 'joining') return this.#become('primary', { kind: 'boot' });
        if (state !== 'secondary') return this.#refuse('It does not wait for its peer');
        return this.#become('giving-up', { kind: 'stopRole' });
      case 'stopRequested':
        if (NEXT[state] !== undefined) return [{ kind: 'stopRole' }];
        if (state === 'giving-up') return this.#become('secondary', { kind: 'stopRole' });
        if (state === 'left') return this.#refuse('It has ended already');
        return this.#become('left', { kind: 'leave' });
    }
  }

  /** A secondary goes before its peer only if the guest ran here last. */
  #mayHaveNewest({ role, standing, knowsMachine }: Extract<NodeInput, { kind: 'started' }>) {
    const ranHere = standing === 'leading' || standing === 'shared';
    return role === 'primary' || (knowsMachine === true && ranHere);
  }

  /** Without a witness no answer is no obstacle by itself; what is known to be held is. */
  #answered(answer: ProbeResult): NodeOutput[] {
    switch (answer) {
      case 'serving':
        return this.#become('secondary', { kind: 'beSecondary' });
      case 'holding':
        this.#held = true;
        return [{ kind: 'ask', waitsFor: PEER_HOLDS }];
      case 'shared':
      case 'following':
        // Of hosts that had each other as peers the witness knows who went on.
        return this.#hasWitness ? this.#mayBoot() : this.#unlessBehind(answer);
      case 'leading':
        return this.#unlessBehind(answer);
      case 'unreachable':
      case 'silent':
        if (this.#held && !this.#hasWitness) return [{ kind: 'ask', waitsFor: PEER_HOLDS }];
        return this.#unlessOld();
      case 'alive':
      case 'replaced':
        return this.#mayBoot();
      case 'refused':
        return this.#unlessOld();
    }
  }

  #unlessBehind(peer: Standing): NodeOutput[] {
    return this.#rank(peer) < this.#rank(this.#standing)
      ? this.#mayBoot()
      : [{ kind: 'ask', waitsFor: PEER_LEADS }];
  }

  /** Who ran the guest alone, or never, may do so again. Of others the witness knows. */
  #unlessOld(): NodeOutput[] {
    const maybeOld = this.#standing === 'shared' || this.#standing === 'following';
    return maybeOld && !this.#hasWitness && !this.#departed
      ? [{ kind: 'ask', waitsFor: PEER_MAY_LEAD }]
      : this.#mayBoot();
  }

  #mayBoot(): NodeOutput[] {
    // Neither a peer without the guest nor a witness knows where it was moved to.
    if (this.#departed) return [{ kind: 'ask', waitsFor: DEPARTED }];
    if (this.#hasWitness) return [{ kind: 'askWitness' }];
    return this.#become('primary', { kind: 'boot' });
  }

  /** Without an answer the peer is asked again, too: it may run the guest by then. */
  #witnessed(answer: 'granted' | 'fenced' | 'none'): NodeOutput[] {
    switch (answer) {
      case 'granted':
        return this.#become('primary', { kind: 'boot' });
      case 'fenced':
        return this.#become('secondary', { kind: 'beSecondary' });
      case 'none':
        return [{ kind: 'ask', waitsFor: WITNESS_SILENT }];
    }
  }

  /** Who had the guest alone has more than who shared it, and that one more than who followed. */
  #rank(standing: Standing): number {
    return ['none', 'following', 'shared', 'leading'].indexOf(standing);
  }

  #ended(end: RoleEndKind): NodeOutput[] {
    const state = this.#state;
    if (state === 'giving-up' && end === 'left') return this.#become('primary', { kind: 'boot' });
    const ends = NEXT[state];
    if (ends === undefined) return this.#refuse(`It has no role that could be over`);
    if (end === 'left') return this.#become('left', { kind: 'leave' });
    const next = ends[end];
    return next === undefined
      ? this.#refuse(`A ${state} can't be ${end}`)
      : this.#become(next[0], next[1]);
  }

  #become(state: NodeState, output: NodeOutput): NodeOutput[] {
    this.#state = state;
    return [output];
  }

  #refuse(reason: string): NodeOutput[] {
    return [{ kind: 'refused', reason: `The node is ${this.#state}: ${reason}` }];
  }
}
