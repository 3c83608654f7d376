/** Bounds and thresholds of the primary; each with its unit, its reasoning and what happens. */

/** Between two attempts to reach the peer. */
export const CONNECT_RETRY_US = 1_000_000;

/**
 * The same after a refusal that only an operator can end: each attempt opens the secondary's images,
 * which keeps the command that resolves it from opening them for that moment.
 */
export const REFUSED_RETRY_US = 10_000_000;

/** Between two attempts to write that the guest runs alone; meanwhile what is held stays held. */
export const ALONE_RETRY_MS = 1000;

/**
 * Without a secondary after a checkpoint that overran hold-limit, doubled each time: short enough
 * for a link that was busy once, and one that stays bad costs clients little of their time.
 */
export const OVERRUN_REST_US_MIN = 2_000_000;
export const OVERRUN_REST_US_MAX = 20_000_000;

/** A session that was looked for after an overrun and overruns so soon is the same trouble. */
export const OVERRUN_AGAIN_US = 60_000_000;

/** Round trips of the link that must fit into hold-limit: a checkpoint takes two or three. */
export const ROUND_TRIPS_PER_HOLD = 4;

/**
 * For the last checkpoint of a primary that is told to stop; it takes a fraction of a second. Then
 * it leaves without one, and the secondary continues from the last that it has.
 */
export const STOP_TIMEOUT_US = 5_000_000;

/** A synchronisation round that leaves less than this is followed by the first checkpoint. */
export const SYNC_ENOUGH_BYTES = 16 * 1024 * 1024;

/** Rounds of the initial synchronisation; after them the first checkpoint takes what is left. */
export const SYNC_ROUNDS_MAX = 12;

/** A pre-send round of at most this many pages (1 MiB) is followed by the pause. */
export const PRESEND_ENOUGH_PAGES = 256;

/** Pre-send rounds of one checkpoint; after them the pause takes what is left. */
export const PRESEND_ROUNDS_MAX = 8;

/** For all four connections of a session; the peer's QEMU is started after that. */
export const CONNECT_TIMEOUT_MS = 3000;

/** For the peer to read a goodbye and close the session; then this agent ends all the same. */
export const GOODBYE_TIMEOUT_MS = 2000;

/**
 * From a step that failed because QEMU had died to the news of its death; far more than it takes.
 */
export const QEMU_EXIT_MS = 1000;

/** RAM frames (half a MiB each) copied during a pause before the event loop gets a turn: 10 ms. */
export const FRAMES_PER_TURN = 64;

/** Differing ranges of a disk in the answer to `colo verify`: 16 disks stay below 64 KiB. */
export const VERIFY_RANGES_TOLD_MAX = 50;

/** Longest epoch that `period = auto` chooses, for guests that always agree. */
export const ADAPTIVE_PERIOD_US_MAX = 10_000_000;

/**
 * For the checkpoint under way and the secondary's answer to a `detach`. Hit: the session is ended
 * and the secondary is asked what it has.
 */
export const PART_TIMEOUT_US = 10_000_000;

/**
 * Pages of which the secondary's digests are asked for at a time: 4 MiB, some 5 ms to compare, in
 * which nothing else is done.
 */
export const DIGEST_PAGES = 1024;

/**
 * For the digests of so many pages, which the secondary only has to read. Hit: the session is
 * ended, and the primary tries again.
 */
export const DIGESTS_TIMEOUT_MS = 15_000;
