/** Bounds of a node; each with its unit and reasoning. */

/** For the peer's answer at the start; a host that is down costs a start so much. */
export const JOIN_PROBE_TIMEOUT_MS = 1_000;

/** Between two looks at the ends of certificates, milliseconds: a day. */
export const EXPIRY_LOOK_MS = 24 * 3600 * 1000;

/** Between two questions to a peer that is about to take over. */
export const JOIN_PAUSE_MS = 100;
