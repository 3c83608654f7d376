/**
 * A host's node: which role it has, and what stays when the role changes.
 *
 * role-machine.ts (what to become, at the start and after each role) -> node-shell.ts (one role
 * after the other; the listener, the control socket's commands; joining-shell.ts while there is no
 * role yet) -> src/primary and src/secondary.
 * node-watch.ts (what a node looks like -> events) -> event-ring.ts -> node-events-shell.ts (who
 * reads them).
 */
export { EventRing } from './event-ring.js';
export { startNode } from './node-shell.js';
export { type NodeView, NodeWatch } from './node-watch.js';
export {
  type NodeInput,
  type NodeOutput,
  type NodeState,
  RoleMachine,
} from './role-machine.js';
export { NodeSecurity } from './security-shell.js';
