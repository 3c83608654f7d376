/**
 * The channels of a session: each is a TCP connection of its own, so that bulk on one never delays
 * another. `control` carries the heartbeat too; `faults` the pages that a moved guest waits for.
 */
export const CHANNELS = ['control', 'ram', 'disk', 'network', 'faults'] as const;

/** One of a session's five connections. */
export type Channel = (typeof CHANNELS)[number];
