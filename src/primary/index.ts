/**
 * The node that runs the PVM.
 *
 * guest writes, output, input -> pvm-shell.ts (what the guest stands on) -> replicator-shell.ts and
 * the threads (onto the session's links), as primary-core.ts says; primary-role-shell.ts joins them.
 *
 * Reading order: primary-core.ts (when to checkpoint, what to release), replicator-shell.ts (the
 * pause), primary-role-shell.ts, pvm-shell.ts, statistics.ts, primary-status.ts, limits.ts.
 * Invariants held here: I1, I5, I6.
 */
export * from './primary-core.js';
export { PrimaryRole, type PrimaryRoleOptions } from './primary-role-shell.js';
export { type Pvm, type PvmHooks, startPvm } from './pvm-shell.js';
