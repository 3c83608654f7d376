/**
 * A host's node: which role it has, and what stays when the role changes.
 *
 * joining.ts (what to become at the start) -> node-shell.ts (one role after the other; the
 * listener, the control socket's commands) -> src/primary and src/secondary.
 */
export { startNode } from './node-shell.js';
