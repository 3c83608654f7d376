/**
 * A TCP connection that both guests opened since the last checkpoint, each with its own initial
 * sequence number and timestamps: what the secondary must know to translate between them.
 *
 * The primary's comparer sees both SYNs (or SYN-ACKs) and tells the secondary before it releases
 * the PVM's; so the translation is known before the first answer to it can arrive.
 */
export interface OpenedFlow {
  /** The flow's key, 11 words: see packet.ts. Owned by the record. */
  readonly key: Int32Array;
  /** Initial sequence numbers of the PVM (what the remote end knows) and of the SVM. */
  readonly primaryIsn: number;
  readonly secondaryIsn: number;
  /** TSval of the two SYNs; undefined when the SYNs carry no timestamps. */
  readonly timestamps: { readonly primary: number; readonly secondary: number } | undefined;
}
