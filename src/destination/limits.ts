/** Bounds of the destination's role; each with its unit and what happens when it is reached. */

/** In a session that owes something, microseconds. Hit: the session is taken for lost. */
export const SILENCE_TIMEOUT_US = 10_000_000;

/** From the loss of a session until the operator is called, microseconds. */
export const RECOVER_TIMEOUT_US = 60_000_000;

/**
 * Between the guest's first step here and the source's word that it has let go of everything,
 * milliseconds. Hit: the guest gets its role without it; the source asks its operator.
 */
export const RELEASED_TIMEOUT_MS = 90_000;

/** Sessions that have not said what they want; one more, and the oldest of them is dropped. */
export const STRANGERS_MAX = 4;

/** Between two looks whether the witness lets the guest speak here, milliseconds. */
export const GRANT_PAUSE_MS = 20;

/** Until an operator is told that the witness does not, milliseconds. */
export const GRANT_WARNING_MS = 5_000;

/** Pages that loading the devices may write, of which the contents are kept meanwhile. */
export const LOAD_PAGES_MAX = 65_536;

/** For the source to read why the guest does not come, milliseconds. */
export const CLOSE_TIMEOUT_MS = 2_000;

/** Zeroes that are written at once, bytes. */
export const ERASE_CHUNK_BYTES = 1024 ** 2;
