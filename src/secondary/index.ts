/**
 * The node that holds the SVM and takes over.
 *
 * Reading order: secondary-core.ts (what is committed, whether to take over), staging.ts (is an
 * epoch complete?). Invariants held here: I2, I3, I6.
 */
export * from './secondary-core.js';
export * from './staging.js';
