/**
 * The node that runs the PVM.
 *
 * Reading order: primary-core.ts (when to checkpoint, what to release), limits.ts.
 * Invariants held here: I1, I5, I6.
 */
export * from './primary-core.js';
