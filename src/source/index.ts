/**
 * The role of a node whose guest is being moved to another host.
 *
 *     limits.ts                every bound
 *     departing-guest-shell.ts what is done with the guest: pause, capture, disks
 *     outgoing-pages-shell.ts  coded pages on their links, with batch-memory.ts
 *     page-coding-shell.ts     the bytes of a batch of pages, compressed where that pays
 *     migration-hello.ts       what is asked of the destination
 *     assist-shell.ts          what the destination has kept of the guest's RAM
 *     keep-ram-shell.ts        keeps the RAM of the guest that has left
 *     departure-figures.ts     what the operator is told of it in numbers
 *     source-role-shell.ts     SourceRole: the core of src/migration in real time, the session
 *
 * It gets the guest from the primary's role and gives it back to it if it stays.
 */
export { SourceRole, type SourceRoleOptions } from './source-role-shell.js';
