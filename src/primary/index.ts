/**
 * The node that runs the PVM.
 *
 * guest writes, output, input -> replicator-shell.ts and
 * the threads (onto the session's links), as primary-core.ts says; primary-role-shell.ts joins them.
 *
 * Reading order: primary-state.ts, primary-instructions.ts, primary-core.ts (when to checkpoint,
 * what to release), primary-speech-shell.ts (the right to speak), primary-hello.ts,
 * meet-secondary-shell.ts (the beginning of a session), replicator-shell.ts (the pause),
 * held-output-shell.ts (what is durable before output leaves), primary-role-shell.ts,
 * boot-guest-shell.ts, statistics.ts, primary-status.ts, limits.ts.
 * Invariants held here: I1, I5, I6.
 */

export { bootGuest } from './boot-guest-shell.js';
export * from './primary-core.js';
export type { PrimaryRoleOptions } from './primary-role-options.js';
export { PrimaryRole } from './primary-role-shell.js';
