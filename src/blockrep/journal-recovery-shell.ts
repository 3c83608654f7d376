/**
 * Opens a guest's journal: what a crash left in it goes to the images, then it begins anew.
 *
 * All complete epochs are replayed, oldest first, over images that hold any part of them: those
 * before the oldest one were synced before the journal forgot them, so the result is exactly the
 * state at the end of the newest one. That may be an epoch that was completely stored but not
 * committed when the crash came. It is a state that the primary's guest really had, and the
 * successor of the committed one; nothing of it was dropped (a drop is durable before anybody goes
 * on), so nobody has seen anything that contradicts it (I1).
 *
 * Silent: a torn tail. Refused with an OperatorError, before an image is touched: damage before the
 * tail, an unknown version, another guest's journal, a file that is missing beside one that counts.
 */
import { randomBytes } from 'node:crypto';
import { type Logger, OperatorError } from '../lib/index.js';
import type { DiskOperation } from './disk-operation.js';
import {
  type DecodedHeader,
  decodeHeader,
  decodeIdentity,
  JOURNAL_NONCE_BYTES,
  type JournalHeader,
  type JournalIdentity,
} from './journal-format.js';
import {
  type EpochExtent,
  findMark,
  firstMark,
  readEpoch,
  type Scan,
  type ScannedSegment,
  type ScanState,
  scanSegment,
} from './journal-scan.js';
import { Journal } from './journal-shell.js';
import { JOURNAL_BLOCK_BYTES, JOURNAL_VM_BYTES_MAX, JOURNAL_WINDOW_BYTES } from './limits.js';
import type { StorageDirectory, StorageFile, StorageImage } from './storage-shell.js';

export interface JournalOpening {
  readonly vm: string;
  readonly images: readonly StorageImage[];
  readonly storage: StorageDirectory;
  readonly segmentBytes: number;
  readonly log: Logger;
  onFailure(reason: string): void;
}

export interface OpenedJournal {
  readonly journal: Journal;
  /** The images are at the end of this epoch, durably; undefined when the journal told nothing. */
  readonly epoch: number | undefined;
}

/** Names of a guest's two files in their directory. */
export function journalNames(vm: string): [string, string] {
  return [`${vm}.journal-0`, `${vm}.journal-1`];
}

/** Replays, empties, and opens for writing. Throws OperatorError as above, or DiskError. */
export async function openJournal(opening: JournalOpening): Promise<OpenedJournal> {
  const found = await openFiles(opening);
  try {
    const recovered = await recover(opening, found);
    return await begin(opening, found, recovered);
  } catch (error) {
    for (const file of found) await file?.close();
    throw error;
  }
}

/** Replays what is there and removes the files: for a guest whose disks are written directly. */
export async function retireJournal(opening: JournalOpening): Promise<number | undefined> {
  const found = await openFiles(opening);
  const some = found.some((file) => file !== undefined);
  for (const file of found) await file?.close();
  if (!some) return undefined;
  const { journal, epoch } = await openJournal(opening);
  try {
    await journal.reset(undefined, { clean: true });
  } finally {
    await journal.close();
  }
  for (const name of journalNames(opening.vm)) await opening.storage.remove(name);
  return epoch;
}

type Files = [StorageFile | undefined, StorageFile | undefined];

async function openFiles({ vm, storage }: JournalOpening): Promise<Files> {
  if (Buffer.byteLength(vm) > JOURNAL_VM_BYTES_MAX) {
    const message = `The guest's name is longer than ${JOURNAL_VM_BYTES_MAX} bytes`;
    throw new OperatorError('COLO_E_JOURNAL_OPEN', message);
  }
  const [first, second] = journalNames(vm);
  const opened = await storage.open(first);
  try {
    return [opened, await storage.open(second)];
  } catch (error) {
    await opened?.close();
    throw error;
  }
}

interface Recovered {
  readonly epoch: number | undefined;
  readonly sequence: number;
  readonly older: 0 | 1;
}

async function begin(opening: JournalOpening, found: Files, recovered: Recovered) {
  const { vm, images, storage, segmentBytes, log } = opening;
  const names = journalNames(vm);
  for (const index of [0, 1] as const) {
    const file = found[index];
    if (file !== undefined && file.sizeBytes >= segmentBytes) continue;
    // Only files that hold nothing can be too small: others were made with their size.
    if (file === undefined || file.sizeBytes < JOURNAL_BLOCK_BYTES) {
      await file?.close();
      found[index] = await storage.create(names[index], segmentBytes);
    }
  }
  const [first, second] = found;
  if (first === undefined || second === undefined) throw new Error('No files');
  const journal = new Journal({
    files: [first, second],
    identity: { vm, diskSizes: images.map((image) => image.sizeBytes) },
    nonce: randomBytes(JOURNAL_NONCE_BYTES),
    sequence: recovered.sequence,
    older: recovered.older,
    segmentBytes,
    log,
    syncImages: async () => {
      await Promise.all(images.map((image) => image.flush()));
    },
    onFailure: (reason) => opening.onFailure(reason),
  });
  await journal.reset(recovered.epoch, { clean: false });
  return { journal, epoch: recovered.epoch };
}

interface Known {
  readonly index: 0 | 1;
  readonly file: StorageFile;
  readonly block: Buffer;
  readonly header: JournalHeader;
}

async function recover(opening: JournalOpening, found: Files): Promise<Recovered> {
  const known: Known[] = [];
  for (const index of [0, 1] as const) {
    const file = found[index];
    if (file === undefined || file.sizeBytes < JOURNAL_BLOCK_BYTES) continue;
    const block = await file.read(0, JOURNAL_BLOCK_BYTES);
    const decoded: DecodedHeader = decodeHeader(block);
    if (decoded.kind === 'bad') throw damaged(file, decoded.reason);
    if (decoded.kind === 'blank') continue;
    const { header } = decoded;
    if (file.sizeBytes < header.sizeBytes) throw damaged(file, 'it has been cut');
    known.push({ index, file, block, header });
  }
  known.sort((a, b) => a.header.sequence - b.header.sequence);
  const [lower] = known;
  const newest = known.at(-1);
  if (lower === undefined || newest === undefined) {
    return { epoch: undefined, sequence: 2, older: 0 };
  }
  const { sequence, baseEpoch } = newest.header;
  // A file without a header was never used, and goes first: nothing in it can be lost.
  const older = known.length === 2 ? lower.index : ((1 - lower.index) as 0 | 1);
  if (known.every(({ header }) => header.clean)) return { epoch: baseEpoch, sequence, older };
  const replay = await check(opening, known);
  if (replay.length === 0) return { epoch: baseEpoch, sequence, older };
  await apply(opening, replay);
  return { epoch: replay.at(-1)?.extent.epoch, sequence, older };
}

interface Replay {
  readonly known: Known;
  readonly segment: ScannedSegment;
  readonly extent: EpochExtent;
}

/** What must be replayed, once everything is known to be as it should. */
async function check(opening: JournalOpening, known: readonly Known[]): Promise<Replay[]> {
  const replay: Replay[] = [];
  let state: ScanState = { chain: undefined, run: 0, lastEpoch: -1 };
  let stoppedAt: { known: Known; end: number } | undefined;
  for (const each of known) {
    const { file, header } = each;
    const identity = decodeIdentity(each.block);
    const segment = { header, sizeBytes: file.sizeBytes, diskSizes: identity?.diskSizes ?? [] };
    const windows = new Windows(file);
    const mark = await run(firstMark(segment), windows);
    if (mark !== undefined && identity === undefined) {
      throw damaged(file, 'the name of its guest is not readable');
    }
    if (stoppedAt !== undefined) {
      const follows = mark !== undefined && mark.run >= state.run;
      if (follows && mark.previous !== (state.chain ?? 0)) {
        throw damaged(stoppedAt.known.file, `it can not be read from byte ${stoppedAt.end} on`);
      }
      state = { ...state, chain: state.chain ?? 0 };
    }
    const scan = await run(scanSegment(segment, state), windows);
    const behind = findMark(segment, scan.end + JOURNAL_BLOCK_BYTES, scan.run);
    if (await run(behind, windows)) {
      throw damaged(file, `it can not be read from byte ${scan.end} on`);
    }
    for (const extent of scan.epochs) replay.push({ known: each, segment, extent });
    stoppedAt = { known: each, end: scan.end };
    state = scan;
  }
  if (replay.length > 0) checkOwner(opening, known);
  return replay;
}

function sameOwner({ vm, images }: JournalOpening, block: Buffer): boolean {
  const identity = decodeIdentity(block);
  const sizes = images.map((image) => image.sizeBytes);
  return identity?.vm === vm && identity.diskSizes.join() === sizes.join();
}

/** Only asked when there is something to replay: with an empty journal nothing is lost. */
function checkOwner(opening: JournalOpening, known: readonly Known[]): void {
  const [first, second] = known;
  if (first === undefined) return;
  if (known.length !== 2 || second === undefined) {
    throw damaged(first.file, 'the other file of the pair is missing or empty');
  }
  if (second.header.sequence !== first.header.sequence + 1) {
    throw damaged(first.file, 'the two files are not of the same time');
  }
  for (const { file, block } of known) {
    if (sameOwner(opening, block)) continue;
    const identity = decodeIdentity(block);
    const theirs = identity === undefined ? 'nobody' : describeOwner(identity);
    const ours = describeOwner({
      vm: opening.vm,
      diskSizes: opening.images.map((image) => image.sizeBytes),
    });
    const message =
      `The journal ${file.path} belongs to ${theirs}, not to ${ours}; put the right images ` +
      `in place, or remove both journal files to lose what only they hold`;
    throw new OperatorError('COLO_E_JOURNAL_FOREIGN', message);
  }
}

function describeOwner({ vm, diskSizes }: JournalIdentity): string {
  return `guest ${vm} with disks of ${diskSizes.join(', ')} bytes`;
}

function damaged(file: StorageFile, reason: string): OperatorError {
  const message =
    `The journal ${file.path} is damaged (${reason}); the images beside it may be a mixture: ` +
    `remove both journal files and the guest's images, and let the primary send them anew`;
  return new OperatorError('COLO_E_JOURNAL_DAMAGED', message);
}

/** Nothing is reported as an epoch before the images hold it durably. */
async function apply(opening: JournalOpening, replay: readonly Replay[]): Promise<void> {
  const { images, log } = opening;
  for (const { known, segment, extent } of replay) {
    const windows = new Windows(known.file);
    const complete = await run(readEpoch(segment, extent), windows, async (disk, operation) => {
      const image = images[disk];
      if (image === undefined) throw new Error(`There is no disk ${disk}`);
      if (operation.kind === 'write') await image.write(operation.offset, operation.data, false);
      else {
        const options = { mayTrim: operation.kind === 'trim', fua: false };
        await image.writeZeroes(operation.offset, operation.length, options);
      }
    });
    if (!complete) throw damaged(known.file, `epoch ${extent.epoch} reads differently now`);
  }
  await Promise.all(images.map((image) => image.flush()));
  const epoch = replay.at(-1)?.extent.epoch;
  log.info('Replayed the journal', { epochs: replay.length, epoch });
}

type OnOperation = (disk: number, operation: DiskOperation) => Promise<void>;

/** Answers a scan's wishes. */
async function run<T>(scan: Scan<T>, windows: Windows, onOperation?: OnOperation): Promise<T> {
  let answer = NOTHING;
  for (;;) {
    const { done, value } = scan.next(answer);
    if (done === true) return value;
    if (value.kind === 'read') answer = await windows.read(value.offset, value.length);
    else await onOperation?.(value.disk, value.operation);
  }
}

const NOTHING: Buffer = Buffer.alloc(0);

/** Small reads of a file from large ones. */
class Windows {
  readonly #file: StorageFile;
  #start = 0;
  #window = NOTHING;

  constructor(file: StorageFile) {
    this.#file = file;
  }

  /** Fewer bytes where the file ends. */
  async read(offset: number, length: number): Promise<Buffer> {
    const wanted = Math.max(0, Math.min(length, this.#file.sizeBytes - offset));
    if (offset < this.#start || offset + wanted > this.#start + this.#window.length) {
      const most = Math.max(wanted, JOURNAL_WINDOW_BYTES);
      const size = Math.max(0, Math.min(most, this.#file.sizeBytes - offset));
      this.#window = size === 0 ? NOTHING : await this.#file.read(offset, size);
      this.#start = offset;
    }
    return this.#window.subarray(offset - this.#start, offset - this.#start + wanted);
  }
}
