/** Bounds of what the roles share; each with its unit and reasoning. */

/** Between two looks at the guard for `colo status`, which is that old at most. */
export const SPEECH_STATUS_MS = 200;

/**
 * So many of these in a row without an answer, 5 s in which the main thread was awake, and the
 * guard is taken for hung: the node ends, and the peer takes over. On a very busy host its thread
 * may need seconds to start.
 */
export const GUARD_ANSWERS_MISSED_MAX = 25;

/** Longest that setTimeout waits, ms: 24 days. What is to be kept for longer is kept for that. */
export const TIMER_MS_MAX = 2 ** 31 - 1;

/**
 * Hidden pages of a guest's RAM file (hidden-pages-shell.ts) are looked for in parts of so many bytes
 * each so many milliseconds, 1.25 GiB a second, and after all of them there is a rest. A part is at
 * most 4096 pieces to be freed, some milliseconds of the main thread, and mostly one look that
 * finds nothing: 0.1 ms.
 */
export const HIDDEN_PART_BYTES = 32 * 1024 * 1024;
export const HIDDEN_PART_MS = 25;
export const HIDDEN_REST_MS = 1000;
