/**
 * The node that holds the SVM and takes over.
 *
 * The session's links -> ram-receiver-shell.ts, guest/disks/disk-target-shell.ts (staged) ->
 * staging.ts (is an epoch complete?) -> secondary-core.ts (commit, apply, promote) ->
 * secondary-role-shell.ts.
 *
 * Reading order: secondary-core.ts, staging.ts, secondary-role-shell.ts (`#promote`),
 * svm-applier-shell.ts, the receiver, page-set.ts, svm-shell.ts (what the SVM stands on),
 * ram-digests-shell.ts (what it has of the guest from before),
 * svm-life-shell.ts (what it does by itself), saved-machine-shell.ts (what it could be booted from
 * later), secondary-status.ts, limits.ts.
 * Invariants held here: I2, I3, I6.
 */
export { bootSaved, readMachine, type SavedMachine, saveMachine } from './saved-machine-shell.js';
export * from './secondary-core.js';
export {
  SecondaryRole,
  type SecondaryRoleOptions,
} from './secondary-role-shell.js';
export * from './staging.js';
