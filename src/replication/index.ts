/**
 * What primary and secondary say to each other, and what both need to say it.
 *
 * Reading order: wire.ts (all messages, their bytes), hello.ts (the first message's text),
 * ram-framer.ts (dirty pages -> RAM frames), ram-digest-shell.ts (all of RAM, for --verify),
 * link-handover-shell.ts (a link in its thread), session-watch-shell.ts (its connections),
 * core-driver-shell.ts (runs a core in real time), epoch-reserve-shell.ts (epochs never repeat),
 * file-digest-shell.ts, limits.ts. Meaning is in the cores of src/primary and src/secondary; bytes,
 * frames and connections are in src/transport.
 */
export { CoreDriver } from './core-driver-shell.js';
export { EpochBlocks } from './epoch-blocks.js';
export { EpochReserve } from './epoch-reserve-shell.js';
export { digestFile } from './file-digest-shell.js';
export { firstControlFrame, firstControlMessage } from './first-message-shell.js';
export * from './hello.js';
export * from './limits.js';
export {
  type HandedLink,
  HandedLinks,
  type LinkCalls,
  LinkHandover,
  type LinkNotices,
} from './link-handover-shell.js';
export { digestRam } from './ram-digest-shell.js';
export { type RamFrame, RamFramer } from './ram-framer.js';
export { type SessionInput, watchSession } from './session-watch-shell.js';
export * from './wire.js';
