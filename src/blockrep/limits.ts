/** Every bound of the disk path: unit, why this value, and what happens when it is reached. */

const KIB = 1024;
const MIB = 1024 * KIB;

/**
 * Largest read or write payload of one NBD request, bytes. It is the figure NBD's proto.md
 * recommends and QEMU's own client limit. A longer read is answered EINVAL; a longer write ends
 * the connection, because its payload would have to be swallowed.
 */
export const NBD_PAYLOAD_BYTES_MAX = 32 * MIB;

/** Longest export name, bytes (proto.md allows 4096 at most). A longer one ends the connection. */
export const NBD_NAME_BYTES_MAX = 4096;

/**
 * Longest option data, bytes: a name, its length and a generous list of information requests.
 * A longer option ends the connection.
 */
export const NBD_OPTION_BYTES_MAX = 8 * KIB;

/** Options one client may send before it must choose an export; more end the connection. */
export const NBD_OPTIONS_MAX = 64;

/** Information requests read from one GO or INFO; more are answered with an error. */
export const NBD_INFO_REQUESTS_MAX = 32;

/** A client that has not chosen an export by then is dropped, milliseconds. */
export const NBD_NEGOTIATION_MS_MAX = 10_000;

/** A client that does not take its last replies by then is cut off, milliseconds. */
export const NBD_CLOSE_MS_MAX = 2_000;

/** Connections of one server: one per disk and some for tools. Further ones are closed at once. */
export const NBD_CONNECTIONS_MAX = 16;

/** Requests of one connection in progress (QEMU sends at most 16 or 32). More: reading stops. */
export const NBD_REQUESTS_IN_FLIGHT_MAX = 128;

/** Payload bytes of one connection in progress. More: reading stops until some are answered. */
export const NBD_BYTES_IN_FLIGHT_MAX = 64 * MIB;

/** Reply bytes that the client has not taken yet, per connection. More: reading stops. */
export const NBD_REPLY_BYTES_MAX = 64 * MIB;

/** Sectors are 512 bytes; an image whose size is no multiple of it is refused. */
export const SECTOR_BYTES = 512;

/** One piece of zeroes written where the file system can not punch holes, bytes. */
export const ZERO_CHUNK_BYTES = 1 * MIB;
