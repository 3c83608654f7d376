/**
 * Migration: a guest moves from one host to another, before, at and after its switchover.
 *
 * Sections (messages.ts) come and go through a `MigrationChannel`; their bytes are section-wire.ts
 * (header, checksums, embedded sections) and section-codecs.ts (fields). source-core.ts decides at
 * the host that the guest leaves, destination-core.ts at the one that it comes to; what they want
 * and need is in source-state.ts and destination-state.ts. abilities.ts says what a destination
 * can't run. The protocol in words: docs/protocol/migration.md.
 *
 * Invariants: a guest runs at one host only; a source that has sent `run` never resumes by itself;
 * a destination that has not received it never runs by itself; a page that the running guest may
 * have written is never overwritten.
 */
export * from './destination-state.js';
export * from './messages.js';
export * from './source-state.js';
