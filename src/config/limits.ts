/**
 * Every bound of the configuration, with its unit and reason. A value outside is refused with one
 * line (exit 78 from a file, 64 from a flag); nothing is clamped in silence.
 */

/** Longest configuration file, bytes: a full one is below 10 KiB; more is a wrong file name. */
export const CONFIG_FILE_BYTES_MAX = 256 * 1024;

/** Longest value, characters: what Linux takes as a path, and QEMU as one argument of ours. */
export const VALUE_LENGTH_MAX = 4096;

/** Values of a repeatable key: far above any machine that QEMU's `pc` has slots for. */
export const REPEATS_MAX = 256;

/** Disks of one guest: each costs an NBD server and a PCI slot, `pc` has about 28 free. */
export const DISKS_MAX = 16;

/** NICs of one guest: each costs a TAP and a PCI slot. */
export const NICS_MAX = 8;

/** Problems printed at once; the rest is counted in one last line. */
export const PROBLEMS_SHOWN_MAX = 20;

/** Problems after which a file is not read on. */
export const PROBLEMS_MAX = 100;

/** Guest memory, bytes. Below 16 MiB no kernel boots; above 1 TiB nothing was ever tried. */
export const MEMORY_BYTES_MIN = 16 * 1024 ** 2;
export const MEMORY_BYTES_MAX = 1024 ** 4;

/** Guest CPUs: the most that the `pc` machine takes. */
export const VCPUS_MAX = 255;

/** Checkpoint period, microseconds: a pause costs milliseconds; output waits a whole period. */
export const PERIOD_US_MIN = 10_000;
export const PERIOD_US_MAX = 60_000_000;

/** Shortest time from a resume to the next checkpoint, microseconds. */
export const MIN_INTERVAL_US_MIN = 1_000;
export const MIN_INTERVAL_US_MAX = 60_000_000;

/** Silence that makes a peer lost, microseconds. Below 50 ms a busy host looks dead. */
export const PEER_TIMEOUT_US_MIN = 50_000;
export const PEER_TIMEOUT_US_MAX = 60_000_000;

/** How long a checkpoint may hold output up, microseconds; below, each busy moment ends it. */
export const HOLD_LIMIT_US_MIN = 200_000;
export const HOLD_LIMIT_US_MAX = 600_000_000;

/** Of the time-out: how long that is by default, at most `HOLD_LIMIT_US_DEFAULT_MAX`. */
export const HOLD_LIMIT_PEER_TIMEOUTS = 10;
export const HOLD_LIMIT_US_DEFAULT_MAX = 15_000_000;

/** Time between heartbeats, microseconds; also less than a third of the peer timeout. */
export const HEARTBEAT_INTERVAL_US_MIN = 1_000;
export const HEARTBEAT_INTERVAL_US_MAX = 10_000_000;

/**
 * Life of a witness's grant, microseconds. etcd grants no less than 2 s; beyond a minute nobody
 * waits for the host that died with it.
 */
export const WITNESS_TTL_US_MIN = 2_000_000;
export const WITNESS_TTL_US_MAX = 60_000_000;

/** How long the witness may take to answer, microseconds; also at most half of the grant's life. */
export const WITNESS_TIMEOUT_US_MIN = 100_000;
export const WITNESS_TIMEOUT_US_MAX = 30_000_000;

/** End points of one etcd cluster: nobody runs more members than seven, and one is asked. */
export const WITNESS_ENDPOINTS_MAX = 7;

/** Linux IFNAMSIZ less its zero byte: characters of an interface name. */
export const INTERFACE_NAME_LENGTH_MAX = 15;

/** Disk data a second of a synchronisation, bytes: below that a disk would take weeks. */
export const RESYNC_RATE_BYTES_MIN = 1024 ** 2;
export const RESYNC_RATE_BYTES_MAX = 1024 ** 4;

/** Disk space for the memory of a guest that has left, bytes; less than that fits no guest. */
export const KEEP_RAM_BYTES_MIN = 1024 ** 2;
export const KEEP_RAM_BYTES_MAX = 1024 ** 4;

/** How long it is kept, microseconds: 30 days on, nothing of it is still the guest's. */
export const KEEP_RAM_AGE_US_MIN = 1_000_000;
export const KEEP_RAM_AGE_US_MAX = 30 * 24 * 3600 * 1_000_000;

/** Characters of a VM, disk or NIC name: they become file names and QEMU ids. */
export const NAME_LENGTH_MAX = 32;

/** Bytes of a unix socket's path: `sun_path` is 108 with its zero byte (man 7 unix). */
export const SOCKET_PATH_BYTES_MAX = 107;

/** How long compare waits for the other guest, microseconds: its answer crosses the wire, too. */
export const COMPARE_TIMEOUT_US_MIN = 1_000;
export const COMPARE_TIMEOUT_US_MAX = 60_000_000;
export const COMPARE_TIMEOUT_US_DEFAULT = 200_000;

/** How long one capture runs, microseconds; its client waits as long. */
export const CAPTURE_DURATION_US_MIN = 100_000;
export const CAPTURE_DURATION_US_MAX = 600_000_000;
export const CAPTURE_DURATION_US_DEFAULT = 10_000_000;

/** All files of one capture, bytes: 1 GiB is 10 s of 1 Gbit/s. Hit: the capture ends. */
export const CAPTURE_BYTES_MIN = 1024 ** 2;
export const CAPTURE_BYTES_MAX = 1024 ** 4;
export const CAPTURE_BYTES_DEFAULT = 1024 ** 3;

/** Names that a peer's certificate may have one of: two hosts with a few addresses each. */
export const PEER_NAMES_MAX = 16;

/** A file with certificates or a key, bytes: a chain has some 10 KiB. Hit: the file is refused. */
export const TLS_FILE_BYTES_MAX = 64 * 1024;

/** An end that is nearer than this is warned of, days: time to renew without haste. */
export const EXPIRY_WARNING_DAYS = 30;
