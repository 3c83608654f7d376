/**
 * The only code that knows QEMU. In reading order: emulator.ts (what a guest can do),
 * machine-definition.ts -> command-line.ts (how it is made), qemu-emulator-shell.ts (the real
 * thing, with qmp-*, shim-*, guest-ram-shell, dirty-tracker*, device-state.ts and vmstate-qcow2.ts
 * under it). A guest that is moved here: incoming-stream.ts -> incoming-shell.ts. Pages that are
 * still elsewhere: missing-pages.ts -> missing-pages-shell.ts, borrowed-faults-shell.ts in a thread
 * that does nothing else.
 */

export { BorrowedFaults } from './borrowed-faults-shell.js';
export { CHILD_FD } from './command-line.js';
export type {
  Accelerator,
  DirtyTrackerKind,
  Emulator,
  EmulatorDescription,
  ExitReason,
  GuestRam,
  LeftRam,
  RamHandle,
} from './emulator.js';
export { QemuError } from './errors.js';
export { type FaultFigures, FaultStatistics } from './fault-statistics.js';
export type { GuestEvent } from './guest-event.js';
export { DEVICE_STATE_BYTES_MAX, QMP_HUNG_US_MIN } from './limits.js';
export {
  type MachineDefinition,
  parseMachineDefinition,
  type ResolvedMachineDefinition,
} from './machine-definition.js';
export type {
  FaultBorrower,
  LentPages,
  MissingPageFault,
  MissingPages,
} from './missing-pages.js';
export { FaultServer, type MissingPagesHandle } from './missing-pages-shell.js';
export { PageSet } from './page-set.js';
export { type LaunchOptions, launchQemu } from './qemu-emulator-shell.js';
export { probeQemu, type QemuOffer, resolveMachineDefinition } from './qemu-probe-shell.js';
export type { NicFds } from './qemu-process-shell.js';
export { QmpClient } from './qmp-client-shell.js';
export { RamReader } from './ram-reader-shell.js';
export { makeRuntimeDir } from './runtime-dir-shell.js';
export { StagingArea } from './staging-area-shell.js';
