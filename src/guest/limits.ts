/** Bounds of what the roles share; each with its unit and reasoning. */

/** Between two looks at the guard for `colo status`, which is that old at most. */
export const SPEECH_STATUS_MS = 200;
