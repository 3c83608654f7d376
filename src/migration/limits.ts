/** Bounds of a migration; each with its unit and what happens when it is reached. */

const KIB = 1024;
const MIB = 1024 * KIB;

/** Bytes of a batch of pages as coded: below a ram frame's bound. More is refused by both sides. */
export const BATCH_BYTES = 3 * MIB;

/** Pages that one `sendPages` asks for: 512 KiB, which pages/page-encoder.ts makes one batch of. */
export const BATCH_PAGES = 128;

/** Bytes of one `deviceState` section; a larger state goes in several. */
export const DEVICE_STATE_PIECE_BYTES = MIB;

/** Bytes of a device state in all (about 105 kB for a small guest); more is refused. */
export const DEVICE_STATE_BYTES = 64 * MIB;

/** Bytes of the machine definition's JSON; more is refused. */
export const DEFINITION_BYTES = 256 * KIB;

/** Disks, and NICs, of one guest; more is refused. */
export const DISKS = 32;
export const NICS = 32;

/** What a refusal may name; the source of more is refused in turn, a longer list is cut. */
export const DIFFERENCES = 64;

/** Bytes of a name (host, VM, disk, bridge, version). */
export const NAME_BYTES = 256;

/** Bytes of a reason or of one side of a difference; cut when sent, refused when received. */
export const REASON_BYTES = 2048;

/** Ranges in one section that lists pages; longer lists go in several. */
export const RANGES = 32_768;

/** Pages in one `demand`: more than vCPUs and device threads can wait for at once. */
export const DEMANDED_PAGES = 1024;

/** Bytes of one `digests` section. */
export const DIGESTS_BYTES = 2 * MIB;

/** Bytes of an optional section that this build does not know: it is read over, in whole. */
export const UNKNOWN_SECTION_BYTES = MIB;

/** Sections inside of a section, and how deep. More is refused. */
export const EMBEDDED_SECTIONS = 256;
export const EMBEDDED_DEPTH = 3;

/** Bytes in a second at which a destination reads a kept image at least. Slower: it is lost. */
export const IMAGE_LOAD_RATE = 64 * MIB;

/** Guest RAM: what page numbers of 32 bits reach. */
export const RAM_BYTES = 0x1_0000_0000 * 4096;

/**
 * Batches handed to the shell or on their way that are not yet confirmed. In precopy they keep the
 * link busy; in postcopy they are in the way of the pages around one that was demanded.
 */
export const WINDOW_PRECOPY = 16;
export const WINDOW_POSTCOPY = 4;

/** Batches that the destination holds unapplied; a source that sends more breaks the protocol. */
export const UNAPPLIED_BATCHES = 64;

/** Demanded pages that wait at the source for the link. More, and the session is dropped. */
export const DEMAND_QUEUE = 4096;

/** Pages in one batch of demanded ones: what a frame of their link takes. More go in several. */
export const DEMANDED_BATCH_PAGES = 128;

/**
 * With a page those of its aligned block that are missing, too, are demanded: 32 KiB take little
 * longer than 4 on any link, and each fault that does not happen saves a round trip.
 */
export const NEAR_PAGES = 8;

/** Pages pushed after a demanded one, forwards, before the ascending order goes on. */
export const AROUND_PAGES = 64;

/** Microseconds between attempts to reach the destination again. */
export const RECONNECT_US = 1_000_000;

/** Auto-converge: percent of its time that the guest loses, first, more each time, at most. */
export const THROTTLE_FIRST = 20;
export const THROTTLE_STEP = 10;
export const THROTTLE_MAX = 90;

/** Rounds in a row, and microseconds, without progress before the guest is slowed down. */
export const STALE_ROUNDS = 2;
export const STALE_US = 200_000;

/** The same with nothing left to slow down: it does not converge. */
export const HOPELESS_ROUNDS = 10;
export const HOPELESS_US = 3_000_000;

/** A round that found no more than this is not worth another one: 1 MiB. */
export const SMALL_ROUND_PAGES = 256;

/** Microseconds of downtime that do not depend on pages: pause, devices, load, messages. */
export const FIXED_DOWNTIME_US = 20_000;
