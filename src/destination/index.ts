/**
 * The role of a node that a guest is being moved to.
 *
 *     limits.ts                 every bound
 *     arriving-guest-shell.ts   what is done with the guest: launch, pages, load, disks, start
 *     kept-image-shell.ts       the RAM that the guest had when it left this host
 *     destination-role-shell.ts DestinationRole: the core of src/migration in real time, sessions
 *
 * It hands the guest on to the primary's role once it runs and lacks nothing.
 */
export type { DestinationRoleOptions } from './destination-options.js';
export { DestinationRole } from './destination-role-shell.js';
