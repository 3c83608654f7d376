/**
 * The witness: a third party that says which of two nodes may be alone.
 *
 * Three kinds of it (etcd, a shared folder, an operator's command) keep the same register for each
 * VM, in whatever form:
 *
 *   holder        the node that has the grant, until it expires or is released
 *   alone token   the number of the last grant for going alone, and whose it was; never expires
 *
 * A request is granted if nobody else holds the grant, and the alone token is not newer than the
 * one that the asking node knows: else the node's state is older than what clients have seen.
 * Asking again is renewing. A grant's token is greater than every one before it.
 *
 * An answer that was lost is no harm. The grant is held by an `instance`, new with each start of a
 * process, and whatever that holds is its own. The alone token is its `host`'s: that host's disk has
 * the newest state, whether or not its process learnt of the token. So hosts must differ in name.
 */

/** What a node asks for. */
export interface WitnessRequest {
  /** `alone` makes the grant's token the alone token; `insure` leaves that as it is. */
  readonly purpose: 'insure' | 'alone';
  /** The newest token that this node knows; ANY_TOKEN if an operator insists. */
  readonly knownToken: number;
}

/** What came of it. */
export type WitnessAnswer =
  /** Holds for `ttlUs` from after `askedAtUs`, own CLOCK_BOOTTIME from before the request. */
  | {
      readonly kind: 'granted';
      readonly token: number;
      readonly askedAtUs: number;
      readonly ttlUs: number;
    }
  /** `stale`: `holder` has gone alone since; else it holds the grant at present. */
  | { readonly kind: 'denied'; readonly holder: string; readonly stale: boolean }
  /** Nothing is known: it may have been granted all the same. */
  | { readonly kind: 'unreachable'; readonly reason: string };

/** Who asks. */
export interface WitnessIdentity {
  /** A checked name (`parseName`). */
  readonly vm: string;
  readonly host: string;
  readonly role: 'primary' | 'secondary';
  /** Of this process, unlike any other: a UUID. */
  readonly instance: string;
}

/** One witness, for one VM on one host. One request at a time. */
export interface Witness {
  /** As configured, for logs and status. */
  readonly name: string;
  /** Acquires, or renews what this instance holds. Never rejects; answers by its own deadline. */
  ask(request: WitnessRequest): Promise<WitnessAnswer>;
  /**
   * Gives the last grant back, never a later one; never rejects. Nobody may count on its success.
   */
  release(): Promise<void>;
  /** Ends what is under way. */
  close(): void;
}
