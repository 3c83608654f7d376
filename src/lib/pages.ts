/** Pages are 4 KiB everywhere in Colo; a host with another page size is refused at the hello. */
export const PAGE_SIZE_BYTES = 4096;

/** A run of guest RAM: byte offset into the RAMBlock and length in bytes, both page-aligned. */
export interface PageRange {
  readonly offset: number;
  readonly length: number;
}
