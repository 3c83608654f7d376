/**
 * What primary and secondary say to each other, and what both need to say it.
 *
 * Reading order: wire.ts (all messages, their bytes), hello.ts (the first message's text),
 * ram-framer.ts (dirty pages -> RAM frames), core-driver-shell.ts (runs a core in real time),
 * limits.ts. Meaning is in the cores of src/primary and src/secondary; bytes, frames and
 * connections are in src/transport.
 */
export { CoreDriver, monotonicUs } from './core-driver-shell.js';
export * from './hello.js';
export * from './limits.js';
export { payloadCrc, type RamFrame, RamFramer } from './ram-framer.js';
export * from './wire.js';
