/**
 * The node that holds the SVM and takes over.
 *
 * The session's links -> ram-receiver-shell.ts, guest/disks/disk-target-shell.ts (staged) ->
 * staging.ts (is an epoch complete?) -> secondary-core.ts (commit, apply, promote) ->
 * secondary-node-shell.ts.
 *
 * Reading order: secondary-core.ts, staging.ts, secondary-node-shell.ts (`#apply`, `#promote`), the
 * receiver, page-set.ts, svm-shell.ts (what the SVM stands on), secondary-status.ts, limits.ts.
 * Invariants held here: I2, I3, I6.
 */
export * from './secondary-core.js';
export { startSecondary } from './secondary-node-shell.js';
export * from './staging.js';
