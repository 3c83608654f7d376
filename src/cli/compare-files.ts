/**
 * Reads the files of `colo compare`, each only as far as the comparison needs it, and hands their
 * frames over. Memory is a few chunks a file, however long it is.
 */
import { type FileHandle, open, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { ProtocolError } from '../lib/index.js';
import {
  CAPTURE_SIDES,
  CaptureFileDecoder,
  type CaptureSide,
  type CompareReport,
  captureFileName,
  decodeVerdictLine,
  EDGES_MAX,
  type EpochEdge,
  makeOfflineCompare,
  type OfflineCompare,
} from '../proxy/index.js';
import type { CompareWish } from './colo-arguments.js';
import { LineDecoder } from './control-wire.js';
import { CaptureFileError, Interrupted } from './exit-codes.js';
import { READ_BYTES } from './limits.js';

/** Who is told how far it is, and who may end it. */
export interface CompareWatch {
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
  readonly signal: AbortSignal;
}

/** What the verdicts file says of the epochs. */
export interface Epochs {
  /** Undefined when no such file is used. */
  readonly path: string | undefined;
  readonly edges: readonly EpochEdge[];
  /** Frames that the capture left out: what is missing looks like a mismatch. */
  readonly droppedFrames: number;
  /** Undefined when the capture was cut off. */
  readonly endUs: number | undefined;
}

interface Source {
  readonly path: string;
  readonly handle: FileHandle;
  readonly decoder: CaptureFileDecoder;
}

const NO_EPOCHS: Epochs = { path: undefined, edges: [], droppedFrames: 0, endUs: undefined };
const NO_VERDICTS = 'none';
/** How such a line begins as we write it; one of another order is read like any other. */
const FRAME_LINE = '{"kind":"frame",';

/** What `colo compare` found. */
export interface CompareOutcome {
  readonly report: CompareReport;
  readonly epochs: Epochs;
}

/**
 * Compares the files. Throws `CaptureFileError` for one that is missing or no capture, and
 * `Interrupted`.
 */
export async function compareFiles(
  wish: CompareWish,
  watch: CompareWatch,
): Promise<CompareOutcome> {
  const epochs = await readEpochs(wish, watch.signal);
  const { compareTimeoutUs, split } = wish;
  const compare = makeOfflineCompare({
    compareTimeoutUs,
    split,
    edges: epochs.edges,
    endUs: epochs.endUs,
  });
  const reader = new FilesReader(watch);
  try {
    await reader.open('primary', wish.primary);
    await reader.open('secondary', wish.secondary);
    if (wish.inbound === undefined) compare.end('inbound');
    else await reader.open('inbound', wish.inbound);
    for (;;) {
      const side = compare.run();
      if (side === undefined) break;
      await reader.read(side, compare);
    }
    return { report: compare.report(), epochs };
  } finally {
    await reader.close();
  }
}

/** The open files, their decoders, and how much has been read. */
class FilesReader {
  readonly #sources = new Map<CaptureSide, Source>();
  readonly #watch: CompareWatch;
  #doneBytes = 0;
  #totalBytes = 0;

  constructor(watch: CompareWatch) {
    this.#watch = watch;
  }

  async open(side: CaptureSide, path: string): Promise<void> {
    await naming(path, async () => {
      const handle = await openFile(path);
      this.#sources.set(side, { path, handle, decoder: new CaptureFileDecoder() });
      this.#totalBytes += (await handle.stat()).size;
    });
  }

  /** Reads on until frames have come or the file is over. */
  async read(side: CaptureSide, compare: OfflineCompare): Promise<void> {
    const { path, handle, decoder } = this.#sources.get(side) as Source;
    await naming(path, async () => {
      for (;;) {
        if (this.#watch.signal.aborted) throw new Interrupted();
        // Not one buffer for all reads: the frames are slices of it.
        const chunk = Buffer.allocUnsafe(READ_BYTES);
        const { bytesRead } = await handle.read(chunk, 0, chunk.length);
        this.#doneBytes += bytesRead;
        this.#watch.onProgress(this.#doneBytes, this.#totalBytes);
        if (bytesRead === 0) {
          decoder.end();
          compare.end(side);
          return;
        }
        const frames = decoder.write(chunk.subarray(0, bytesRead));
        compare.push(side, frames);
        if (frames.length > 0) return;
      }
    });
  }

  async close(): Promise<void> {
    for (const { handle } of this.#sources.values()) await handle.close();
  }
}

/** The epochs of the capture that the primary's file belongs to, if it belongs to one. */
async function readEpochs(
  { primary, verdicts }: CompareWish,
  signal: AbortSignal,
): Promise<Epochs> {
  if (verdicts === NO_VERDICTS) return NO_EPOCHS;
  const path = verdicts ?? join(dirname(primary), captureFileName('verdicts'));
  let handle: FileHandle;
  try {
    handle = await openFile(path);
  } catch (error) {
    if (verdicts === undefined && isMissing(error)) return NO_EPOCHS;
    throw captureFileError(path, error);
  }
  try {
    return await naming(path, () => parseEpochs(path, handle, signal));
  } finally {
    await handle.close();
  }
}

async function parseEpochs(path: string, handle: FileHandle, signal: AbortSignal): Promise<Epochs> {
  const decoder = new LineDecoder();
  const edges: EpochEdge[] = [];
  let droppedFrames = 0;
  let endUs: number | undefined;
  let first = true;
  for await (const chunk of handle.createReadStream({ autoClose: false })) {
    if (signal.aborted) throw new Interrupted();
    for (const text of decoder.write(chunk as Buffer)) {
      // Nearly all lines are of frames, which nobody asks for here.
      if (!first && text.startsWith(FRAME_LINE)) continue;
      const line = decodeVerdictLine(text);
      if (first !== (line.kind === 'capture')) {
        throw new ProtocolError(`Found a line of kind ${line.kind}, expected a capture's first`);
      }
      first = false;
      if (line.kind === 'edge') edges.push(line);
      if (edges.length > EDGES_MAX) throw new ProtocolError(`More than ${EDGES_MAX} edges`);
      if (line.kind !== 'end') continue;
      endUs = line.timeUs;
      droppedFrames = CAPTURE_SIDES.reduce((sum, side) => sum + line.dropped[side], 0);
    }
  }
  // An agent that was killed leaves half a line.
  if (first) throw new ProtocolError('The file is no list of verdicts: it has no whole line');
  return { path, edges, droppedFrames, endUs };
}

/** A pipe would block us where no signal is heard, so only files are opened. */
async function openFile(path: string): Promise<FileHandle> {
  const found = await stat(path);
  if (found.isDirectory()) throw new ProtocolError('Found a folder, expected a capture file');
  if (!found.isFile()) throw new ProtocolError('Found no regular file, expected one');
  return await open(path, 'r');
}

/** Puts the file's name before what is wrong with it. */
async function naming<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const isOurs = error instanceof ProtocolError;
    if (!isOurs && (error as NodeJS.ErrnoException).syscall === undefined) throw error;
    throw captureFileError(path, error);
  }
}

function isMissing(error: unknown): boolean {
  return ['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '');
}

function captureFileError(path: string, error: unknown): CaptureFileError {
  if (error instanceof ProtocolError) return new CaptureFileError(path, error.message);
  if (isMissing(error)) {
    return new CaptureFileError(path, 'Found no such file, expected a capture');
  }
  return new CaptureFileError(path, 'The file could not be read', { cause: error });
}
