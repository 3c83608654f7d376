/** Bounds of the checkpoint protocol; each with its unit and what happens when it is reached. */

/** Bytes of page data in one RAM frame: small enough that a frame never delays others for long. */
export const RAM_FRAME_DATA_BYTES = 512 * 1024;

/** Pages, zero pages included, in one RAM frame; reaching it starts the next frame. */
export const RAM_FRAME_PAGES = 4096;

/** Bytes of one device state (about 105 kB for a small guest); more is refused by both sides. */
export const DEVICE_STATE_BYTES = 3 * 1024 * 1024;

/** Disks of one guest; more is refused in the configuration and in the hello. */
export const DISKS = 32;

/** Bytes of the JSON text of a hello; more is a protocol error. */
export const HELLO_BYTES = 256 * 1024;

/** Bytes of a reason that the peer gives; longer ones are cut when sent, refused when received. */
export const REASON_BYTES = 4096;

/** For a hello, or its answer, which includes the launch of QEMU; then the session is dropped. */
export const HELLO_TIMEOUT_MS = 30_000;

/** Pages of which digests are wanted at a time, 64 KiB of them; more is a protocol error. */
export const DIGESTS_WANTED_PAGES = 4096;

/** Wishes for digests that may be unanswered; one more is a protocol error. */
export const DIGESTS_WANTED_MAX = 4;
