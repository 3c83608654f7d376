/**
 * The role of a node whose guest is being moved to another host.
 *
 *     limits.ts                every bound
 *     departing-guest-shell.ts what is done with the guest: pause, capture, disks
 *     outgoing-pages-shell.ts  coded pages on their links, with batch-memory.ts
 *     departure-figures.ts     what the operator is told of it in numbers
 *     source-role-shell.ts     SourceRole: the core of src/migration in real time, the session
 *
 * It gets the guest from the primary's role and gives it back to it if it stays.
 */
export { SourceRole, type SourceRoleOptions } from './source-role-shell.js';
