/** What a synchronisation came to, as status and events tell it. */

/** From the session's begin to its first commit. */
export interface LastSync {
  readonly durationMs: number;
  /** Of the guest's memory, with what belongs to it on the wire and the first device state. */
  readonly ramSentBytes: number;
  /** What was not sent, as the secondary had it from before; pages of zeroes do not count. */
  readonly ramKeptBytes: number;
}
