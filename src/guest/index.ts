/**
 * The guest's parts that live in threads of their own, whichever role the node has: they are made
 * once per guest, and change their role in place when the node does.
 *
 * network/ is the guest's NICs: packets, mirror, comparison, gate, translation. Reading order:
 *
 *     limits.ts                 every bound
 *     guest-network-shell.ts    GuestNetwork: what the node calls, in the main thread
 *     network-thread-shell.ts   the thread's door
 *     network-shell.ts          the NICs and the roles that work on them; the change of role
 *     guest-nic.ts              one NIC with its translations
 *     network-stats.ts          what is told of them
 *     source-role-shell.ts      this guest serves the clients: gate, comparer, mirror
 *     target-role-shell.ts      this guest is made equal to another: inbound log, delivery, output
 *
 * Invariant I1 is held in proxy/output-gate.ts and proxy/compare.
 */
export { GuestNetwork, type GuestNetworkOptions } from './network/guest-network-shell.js';
export type { NicPlace } from './network/guest-nic.js';
export type { SessionRole } from './network/network-shell.js';
export type { CompareStats, NetworkStats } from './network/network-stats.js';
export type { CompareReason } from './network/source-role-shell.js';
