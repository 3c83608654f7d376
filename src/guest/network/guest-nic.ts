/** What both roles work on. */
import type { FlowRewriter, Nic } from '../../proxy/index.js';
import type { Link } from '../../transport/index.js';

/** One NIC of the guest and what it is connected to on this host. */
export interface NicPlace {
  readonly tapName: string;
  /** Without one the TAP stands alone. */
  readonly bridge?: string;
}

/** A NIC for the life of the guest, with the connections that are translated on it. */
export interface GuestNic {
  readonly index: number;
  readonly nic: Nic;
  readonly rewriter: FlowRewriter;
}

/** The session's network link, as far as a role uses it. */
export type NetworkLink = Pick<Link, 'send' | 'writable' | 'drained' | 'onFrame' | 'roundTripUs'>;
