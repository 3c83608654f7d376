/**
 * Every bound of this folder, with its unit, why it is what it is, and what happens when it is hit.
 */

/**
 * Guest RAM, MiB. Below 16 SeaBIOS does not boot; above 1 TiB nobody has tried. Definition refused.
 */
export const MEMORY_MIB_MIN = 16;
export const MEMORY_MIB_MAX = 1024 * 1024;
/** vCPUs: what the `pc` machine takes without further options. Definition refused. */
export const VCPUS_MAX = 255;
/** Disks and NICs: each takes a PCI slot of the 32 of the first bus. Definition refused. */
export const DISKS_MAX = 12;
export const NICS_MAX = 8;
/** Disk size, bytes: 2^52, far inside what a number counts exactly. Definition refused. */
export const DISK_BYTES_MAX = 2 ** 52;
/** Extra arguments and the length of any text in a definition. Definition refused. */
export const EXTRA_ARGUMENTS_MAX = 256;
export const TEXT_MAX = 4096;

/** One QMP message, bytes. The longest real one (query-qmp-schema) has 300 kB. ProtocolError. */
export const QMP_LINE_BYTES_MAX = 16 * 2 ** 20;
/** QMP commands without an answer: a caller has a handful under way. QemuError. */
export const QMP_PENDING_MAX = 64;
/**
 * How long QEMU may take to answer a command, ms; a pause drains the disks, so seconds. QemuError.
 */
export const QMP_COMMAND_DEADLINE_MS = 30_000;
/**
 * Silence on QMP after which a stopped QEMU is hung, microseconds, at least; else the peer's
 * time-out (qmp-watch.ts). Its main loop is held up for some milliseconds by what we ask of it,
 * longer by a host that is short of CPU. Then the other host goes on, if it has the guest.
 */
export const QMP_HUNG_US_MIN = 500_000;
/** From spawn to the first answers of QMP and of the preload library, ms. QemuError. */
export const LAUNCH_DEADLINE_MS = 30_000;
/** How long a failed launch waits for QEMU to end and say why, ms. Then without its words. */
export const LAST_WORDS_MS = 1000;
/**
 * From a kill to the end of the process, ms; a SIGKILL ends all but uninterruptible waits.
 * QemuError.
 */
export const KILL_DEADLINE_MS = 30_000;

/**
 * Device state, bytes: 105 kB for a small PC, about 10 kB more per vCPU. It has its place in the
 * VM-state file, of which only touched pages use memory. QemuError when saving, ProtocolError when
 * loading.
 */
export const DEVICE_STATE_BYTES_MAX = 8 * 2 ** 20;

/** The BIOS of a PC, bytes: QEMU itself takes no larger one. ProtocolError. */
export const FIRMWARE_BYTES_MAX = 16 * 2 ** 20;
/** Of QEMU's answers on the way into it, bytes at once: there are two of eight. ProtocolError. */
export const INCOMING_ANSWER_BYTES_MAX = 64;

/** Ranges of one drop request; RANGES_MAX of native/ram-preload.c. Longer lists are split. */
export const DROP_RANGES_MAX = 8192;

/** What is kept of QEMU's stderr for the reason of its end, bytes; older text is dropped. */
export const STDERR_KEPT_BYTES = 8192;
/**
 * The console log file, bytes; one older file beside it. What is older still is lost, and counted.
 */
export const CONSOLE_LOG_BYTES_MAX = 64 * 2 ** 20;

/** Unit of the compare tracker's reference copy, bytes: large enough to compare quickly. */
export const COMPARE_CHUNK_BYTES = 256 * 1024;

/**
 * Guest RAM per step from serving missing pages to tracking only, bytes: up to 2 ms under TCG in
 * which the guest waits if it touches a page for the first time.
 */
export const TRACK_PART_BYTES = 32 * 2 ** 20;

/** Throttle, per cent: with 100 the guest would not run at all. A bug above. */
export const THROTTLE_PERCENT_MAX = 99;
/**
 * Least length of the two parts of a throttle's period, us: timers are good to a millisecond, and a
 * guest that runs for less only fills caches. QEMU's own auto-converge runs it for 10 ms, too.
 */
export const THROTTLE_RUN_US = 10_000;
export const THROTTLE_STOP_US = 5_000;

/** A guest's own pages are put into the RAM file in pieces of at most this size, bytes. */
export const FOLD_CHUNK_BYTES = 2 ** 20;
/** After so many bytes their copies are dropped, and the event loop turns: some 20 ms. */
export const FOLD_TURN_BYTES = 32 * 2 ** 20;
/** For a guest to stand still before that, ms. Hit: the file stays as it is. */
export const FOLD_PAUSE_MS = 2000;
