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
