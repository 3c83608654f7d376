/** Bounds of the fault lane; each with its unit and what happens when it is reached. */

/**
 * Milliseconds for which the destination's thread collects what it tells the main thread: that one
 * works for the background meanwhile, and is woken up less often than there are faults.
 */
export const REPORT_MS = 1;

/** Milliseconds between two reports with figures of all waits, which cost something to make. */
export const FIGURES_MS = 200;

/**
 * Empty demands before the switchover, one after the other: code takes some times as long the first
 * time, and is optimised only when it has run often. They end early when pages are missing.
 */
export const REHEARSALS = 1000;
