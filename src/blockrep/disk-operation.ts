/** One change of a disk, as the primary's guest made it and as it crosses to the secondary. */
export type DiskOperation =
  | { readonly kind: 'write'; readonly offset: number; readonly data: Buffer }
  | { readonly kind: 'zero' | 'trim'; readonly offset: number; readonly length: number };

/** Bytes of the disk that the operation covers. */
export function operationLength(operation: DiskOperation): number {
  return operation.kind === 'write' ? operation.data.length : operation.length;
}

/** What both ends of the disk channel count per epoch, so that a lost message is noticed. */
export interface EpochTotals {
  readonly operations: number;
  /** Sum of the operations' lengths, zeroes and trims included. */
  readonly bytes: number;
}
