/** Bounds of the fault lane; each with its unit and what happens when it is reached. */

/**
 * Milliseconds for which the destination's thread collects what it tells the main thread: that one
 * works for the background meanwhile, and is woken up less often than there are faults.
 */
export const REPORT_MS = 1;

/** Milliseconds between two reports with figures of all waits, which cost something to make. */
export const FIGURES_MS = 200;

/**
 * Microseconds for which the destination's thread does not sleep after a fault: several times what
 * a page takes. Only on a host that has at least so many processors.
 */
export const AWAKE_US = 500;
export const AWAKE_PROCESSORS = 3;

/**
 * Empty demands before the switchover, one after the other: code takes some times as long the first
 * time, and is optimised only when it has run often. They end early when pages are missing.
 */
export const REHEARSALS = 1000;

/**
 * What a thread that waits for a guest rehearses with: so many faults in so many pages, some 0.7 s
 * of one processor, and no longer than the last of these.
 */
export const REHEARSAL_FAULTS = 2500;
export const REHEARSAL_PAGES = 1024;
export const REHEARSAL_MAX_MS = 5000;

/**
 * Milliseconds from the start of that thread until it does: its agent has just started, or has just
 * taken a guest over, and has other things to do.
 */
export const REHEARSAL_DELAY_MS = 5000;

/** Milliseconds from the beginning of a guest's life here until the thread by which it could leave. */
export const LEAVE_DELAY_MS = 3000;
