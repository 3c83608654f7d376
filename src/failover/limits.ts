/** Every bound of who may speak: unit in the name, then why this much, then what happens. */

/**
 * Two clocks may differ by this much, as a part of the time measured: 1 %, ten times what two
 * crystals that each are 500 ppm off do. A lease is counted this much shorter than the other side
 * waits for it.
 */
export const CLOCK_DRIFT_PART = 0.01;

/**
 * By this much more a lease ends before the other side may begin: what lies between the look at
 * the clock and the frame on the wire, in a process that runs. A process that is *stopped* in
 * between writes later, and the kernel drops it (src/linux/output-deadline.ts).
 */
export const LEASE_MARGIN_US = 5_000;

/** A lease without an end: no witness, or an operator who vouches for the peer's silence. */
export const UNLIMITED_US = Number.MAX_SAFE_INTEGER;

/** The token of an operator who insists: newer than any. */
export const ANY_TOKEN = Number.MAX_SAFE_INTEGER;

/** Of the promise: how long after a refused or lost request the witness is asked again. */
export const ASK_AGAIN_PART = 0.2;
export const ASK_AGAIN_US_MIN = 100_000;
export const ASK_AGAIN_US_MAX = 1_000_000;

/** Of a grant's time to live: when it is renewed, so that two attempts may fail. */
export const RENEW_PART = 1 / 3;

/** Of the peer's lease: when this little is left of it, the witness is asked as an insurance. */
export const LOW_LEASE_PART = 0.5;

/**
 * A main thread that gave no sign of life for this long is hung, microseconds: its heartbeats stop,
 * and the peer will take over. Longer than any work that the main thread does in one piece.
 */
export const MAIN_SILENCE_US_MAX = 2_000_000;

/** Heartbeats whose time of sending is remembered: a confirmation of an older one is no use. */
export const HEARTBEATS_REMEMBERED_MAX = 256;

/** Network paths for heartbeats. */
export const PATHS_MAX = 2;

/** Characters of a reason in a message or a notice; a longer one is cut. */
export const REASON_LENGTH_MAX = 300;

/** Bytes of an answer of etcd: ours are below 2 KiB. More makes the witness unreachable. */
export const ANSWER_BYTES_MAX = 64 * 1024;

/** Bytes of a record of the file witness: ours are below 500. Longer is not ours. */
export const RECORD_BYTES_MAX = 4096;

/**
 * Records of the file witness that are kept, so that a host which has stood still, or whose view of
 * the folder is old, finds its number taken: a record comes every third of the time to live (2 s
 * at least), so that 256 of them are minutes, and NFS trusts its caches for one.
 */
export const RECORDS_KEPT = 256;

/** Files of one VM in the witness's folder that are looked at; more is somebody's mistake. */
export const RECORDS_LISTED_MAX = 4096;

/** Bytes of what a witness command says; what comes beyond makes it unreachable. */
export const COMMAND_OUTPUT_BYTES_MAX = 64 * 1024;

/** A command's own time to live, milliseconds: below it renewals pile up, above nobody waits. */
export const COMMAND_TTL_MS_MIN = 1_000;
export const COMMAND_TTL_MS_MAX = 3_600_000;

/** Time between two echo requests to the gateway. */
export const GATEWAY_INTERVAL_US = 200_000;

/** Without an answer for this long the gateway is unreachable: five requests. */
export const GATEWAY_SILENCE_US = 1_000_000;

/** How often it is looked whether a cable is plugged in. */
export const CARRIER_INTERVAL_US = 50_000;

/** Seen to be out so often in a row, it is: nothing renegotiates within a tenth of a second. */
export const CARRIER_LOOKS = 2;

/**
 * How often a speaker without a LAN is told so. Changing roles takes a fraction of it; before the
 * guest is protected nothing comes of it.
 */
export const LAN_LOST_AGAIN_US = 2_000_000;

/**
 * Of the promise: so long a standby whose session broke leaves the grant to a speaker that it still
 * hears. Longer than that one takes to find out, which may be twice the time-out.
 */
export const COURTESY_PART = 2.5;

/** Of the promise: a speaker that was not heard for this long is not waited for. */
export const HEARD_PART = 0.5;
