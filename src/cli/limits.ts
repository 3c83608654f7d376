/** Every bound of the control socket, with its unit, its reason and what happens when it is hit. */

/** One line in either direction, bytes; a full status is below 8 KiB. Hit: connection dropped. */
export const LINE_BYTES_MAX = 64 * 1024;

/** A reason or a detail, characters: a few sentences. Hit: a reason is cut. */
export const REASON_LENGTH_MAX = 4096;

/** Linux PATH_MAX less its zero byte. Hit: the arguments are refused. */
export const PATH_LENGTH_MAX = 4095;

/** Connections at once: an operator, a monitor, some to spare. Hit: the newest is closed. */
export const CONNECTIONS_MAX = 16;

/**
 * From one answer to the next whole request, and for an answer to be read, milliseconds. Hit: the
 * connection is closed, so that forgotten clients don't use up CONNECTIONS_MAX.
 */
export const IDLE_MS_MAX = 30_000;

/** For clients to read their last answer when the agent ends, milliseconds. Hit: they lose it. */
export const FLUSH_MS_MAX = 500;

/** How long `colo` waits for an answer about what is there, milliseconds. Hit: exit 69. */
export const ANSWER_MS_MAX = 5_000;

/** How long `colo` waits for a checkpoint or a failover, milliseconds. Hit: exit 69. */
export const DEED_MS_MAX = 60_000;

/** How long `colo stop` waits for a guest to be handed over, milliseconds. Hit: exit 69. */
export const STOP_MS_MAX = 90_000;

/**
 * How long `colo verify` waits, milliseconds: some 10 TiB at the rate of a slow disk. Hit: exit 69;
 * the verification goes on.
 */
export const VERIFY_MS_MAX = 24 * 3600 * 1000;

/**
 * How long an agent lets `colo events --follow` wait for the next event before it answers that there
 * is none, milliseconds; well below IDLE_MS_MAX. `colo` asks for less: an agent notices that a client
 * is gone when it answers. Hit: the arguments are refused.
 */
export const EVENTS_WAIT_MS_MAX = 20_000;
export const EVENTS_WAIT_MS = 5_000;
/** How long `colo migrate` waits, milliseconds: as `colo verify`. Hit: exit 69; it goes on. */
export const MIGRATE_MS_MAX = VERIFY_MS_MAX;

/** Time between two looks of `colo status --watch`, milliseconds. */
export const WATCH_MS = 1_000;

/** One read of a capture file, bytes. */
export const READ_BYTES = 256 * 1024;

/** How long `colo compare` works before it shows a progress bar, milliseconds. */
export const PROGRESS_DELAY_MS = 2_000;

/** How long a program that `colo check-config` asks may take, milliseconds. Hit: it counts as broken. */
export const PROGRAM_MS_MAX = 10_000;

/** What such a program may print, bytes; QEMU's list of CPUs is 10 KiB. Hit: as above. */
export const PROGRAM_OUTPUT_BYTES_MAX = 1024 ** 2;

/** Validity of a CA's certificate, days: ten years, since all hosts must get the next one. */
export const CA_DAYS_DEFAULT = 3650;
export const CA_DAYS_MAX = 7300;

/** Validity of a host's certificate, days: two years; what was stolen is of use no longer. */
export const HOST_DAYS_DEFAULT = 730;
export const HOST_DAYS_MAX = 3650;

/** Names and addresses of one host beside the first. */
export const HOST_NAMES_MAX = 32;
