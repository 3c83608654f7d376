/**
 * The channels of a session: each is a TCP connection of its own, so that bulk on one never delays
 * another. `control` carries the heartbeat too.
 */
export const CHANNELS = ['control', 'ram', 'disk', 'network'] as const;

/** One of a session's four connections. */
export type Channel = (typeof CHANNELS)[number];
