/** Bounds of a node; each with its unit and reasoning. */

/** For the peer's answer at the start; a host that is down costs a start so much. */
export const JOIN_PROBE_TIMEOUT_MS = 1_000;

/** Between two looks at the ends of certificates, milliseconds: a day. */
export const EXPIRY_LOOK_MS = 24 * 3600 * 1000;

/**
 * Between two looks at the files, milliseconds: whoever has replaced a certificate waits for the
 * log to say so, and reading three small files costs nothing.
 */
export const CERTIFICATE_LOOK_MS = 10_000;

/** Between two questions to a peer that is about to take over. */
export const JOIN_PAUSE_MS = 100;

/** Events that are kept for `colo events`: some days of a calm pair, well below a MiB. */
export const EVENTS_KEPT_MAX = 1_000;

/** Of one event, characters: a sentence with QEMU's words in it. Hit: it is cut. */
export const EVENT_REASON_LENGTH_MAX = 500;

/** JSON of one answer, characters: below the control socket's line also in 2-byte characters. */
export const EVENTS_ANSWER_LENGTH_MAX = 24 * 1024;

/** Between two looks at what changes between the steps of a role. */
export const LOOK_MS = 500;

/** A synchronisation is told of at each so many percent. */
export const RESYNC_NEWS_PERCENT = 10;
