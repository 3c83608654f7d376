/**
 * The guest's parts that live in threads of their own, the same in either role.
 *
 * disks/ has all its disks: disks-client-shell.ts is what the nodes see of them,
 * guest-disks-shell.ts is what runs in the thread, and disks-thread-shell.ts its door. A part knows
 * both roles, since a promoted secondary goes on as the primary of a new one without being started
 * anew.
 *
 * Held here: the order of calls is the order of their effects (transport/worker-client.ts), and a
 * promise that a part returns resolves after the effect (I6).
 */
export { DiskRetry } from './disks/disk-retry-shell.js';
export {
  type DiskPlace,
  GuestDisks,
  type GuestDisksOptions,
} from './disks/disks-client-shell.js';
