/**
 * A running capture: the four files, the writes to them, and its end. The data path calls the tap
 * and is never made to wait; a disk that is slow costs frames of the capture, a disk that fails
 * ends it.
 */
import { mkdir, open, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { clearTimeout, setImmediate, setTimeout } from 'node:timers';
import type { CaptureOptions, CommandResult } from '../../config/index.js';
import { describeError } from '../../lib/index.js';
import { monotonicUs } from '../../linux/index.js';
import {
  CAPTURE_FILES,
  type CaptureFile,
  type CaptureTap,
  CaptureWriter,
  captureFileName,
} from './capture-writer.js';
import { CAPTURE_SIDES, type DroppedCounts, type FrameCounts } from './verdict-wire.js';

/** What the data path gives for a capture. */
export interface CapturePoint {
  /** Bytes in front of each Ethernet header of its frames. */
  readonly vnetBytes: number;
  /** The running epoch. */
  readonly epoch: number;
  /** From now on the tap is called, until the function that it gives back is. */
  attach(tap: CaptureTap): () => void;
}

/** What a capture has written. */
export interface CaptureSummary {
  readonly reason: string;
  readonly frames: FrameCounts;
  readonly dropped: DroppedCounts;
  readonly bytes: number;
}

/** What is used of an open file. */
export interface CaptureOutput {
  write(piece: Buffer, from: number): Promise<{ bytesWritten: number }>;
  close(): Promise<void>;
}

/** For tests: a smaller queue, and a disk that is slow or full. */
export interface CaptureTuning {
  readonly queueBytesMax?: number;
  readonly openFile?: (path: string) => Promise<CaptureOutput>;
}

interface CaptureFilesOptions extends CaptureTuning {
  readonly dir: string;
  readonly nic: number;
  readonly bytesMax: number;
  readonly vnetBytes: number;
  readonly epoch: number;
}

/**
 * Captures for `durationUs`, until the files are full, the disk fails or `signal` is aborted: the
 * whole of `NodeControl.capture` but for the question whether there is anything to capture.
 */
export async function runCapture(
  options: CaptureOptions,
  point: CapturePoint,
  signal?: AbortSignal,
  tuning: CaptureTuning = {},
): Promise<CommandResult> {
  const { vnetBytes, epoch } = point;
  let files: CaptureFiles;
  try {
    files = await CaptureFiles.create({ ...options, ...tuning, vnetBytes, epoch });
  } catch (error) {
    const reason = `The capture could not begin: ${describeError(error)}`;
    return { ok: false, code: 'COLO_E_CAPTURE', reason };
  }
  const detach = point.attach(files.tap);
  const reason = await ended(files, options.durationUs, signal);
  detach();
  try {
    const summary = await files.close(reason);
    return { ok: true, detail: describeCapture(options.dir, summary) };
  } catch (error) {
    return {
      ok: false,
      code: 'COLO_E_CAPTURE',
      reason: `The capture in ${options.dir} is not complete: ${describeError(error)}`,
    };
  }
}

/** The files of one capture. */
export class CaptureFiles {
  readonly #writer: CaptureWriter;
  readonly #handles: ReadonlyMap<CaptureFile, CaptureOutput>;
  #writing: Promise<void> | undefined;
  #failure: unknown;
  #closed = false;
  readonly #finished: Promise<void>;
  #finish: () => void = () => {};
  /** What the data path calls. */
  readonly tap: CaptureTap = {
    frame: (side, batch, nowUs) => {
      if (this.#closed) return;
      this.#writer.frame(side, batch, nowUs);
      this.#kick();
    },
    verdict: (side, batch, start, verdict) => {
      if (this.#closed) return;
      this.#writer.verdict(side, batch, start, verdict);
      this.#kick();
    },
    edge: (edge, epoch, nowUs) => {
      if (this.#closed) return;
      this.#writer.edge(edge, epoch, nowUs);
      this.#kick();
    },
  };

  private constructor(
    options: CaptureFilesOptions,
    handles: ReadonlyMap<CaptureFile, CaptureOutput>,
  ) {
    const nowUs = monotonicUs();
    const wallOffsetUs = Date.now() * 1000 - nowUs;
    this.#writer = new CaptureWriter({ ...options, nowUs, wallOffsetUs });
    this.#handles = handles;
    this.#finished = new Promise((resolve) => {
      this.#finish = resolve;
    });
    this.#kick();
  }

  /** Makes the folder, if missing, and the files in it. Throws if one of them exists. */
  static async create(options: CaptureFilesOptions): Promise<CaptureFiles> {
    await mkdir(options.dir, { recursive: true, mode: 0o700 });
    const openFile = options.openFile ?? openExclusive;
    const handles = new Map<CaptureFile, CaptureOutput>();
    try {
      for (const file of CAPTURE_FILES) {
        handles.set(file, await openFile(join(options.dir, captureFileName(file))));
      }
    } catch (error) {
      for (const [file, handle] of handles) {
        await handle.close();
        await unlink(join(options.dir, captureFileName(file)));
      }
      throw error;
    }
    return new CaptureFiles(options, handles);
  }

  /** Resolves when the files are full or can't be written. */
  get finished(): Promise<void> {
    return this.#finished;
  }

  /** Why nothing more is taken; undefined while something is. */
  get endReason(): string | undefined {
    if (this.#failure !== undefined) return 'a write error';
    return this.#writer.full ? 'max-bytes' : undefined;
  }

  /** Writes what is left and closes the files. Throws when not everything could be written. */
  async close(reason: string): Promise<CaptureSummary> {
    this.#closed = true;
    const writer = this.#writer;
    writer.end(reason, monotonicUs());
    await this.#writing;
    await this.#writeAll();
    for (const handle of this.#handles.values()) {
      await handle.close().catch((error: unknown) => {
        this.#failure ??= error;
      });
    }
    if (this.#failure !== undefined) throw this.#failure;
    const { frames, dropped, bytes } = writer;
    return { reason, frames, dropped, bytes };
  }

  /** Sees to it that what the writer has reaches the files soon, many pieces at a time. */
  #kick(): void {
    if (this.#writer.full) this.#finish();
    if (this.#writing !== undefined || this.#failure !== undefined) return;
    this.#writing = new Promise<void>((resolve) => setImmediate(resolve))
      .then(() => this.#writeAll())
      .finally(() => {
        this.#writing = undefined;
      });
  }

  async #writeAll(): Promise<void> {
    for (let wrote = true; wrote && this.#failure === undefined; ) {
      wrote = false;
      for (const [file, handle] of this.#handles) {
        const pieces = this.#writer.take(file);
        if (pieces.length === 0) continue;
        wrote = true;
        await this.#append(handle, pieces);
      }
    }
  }

  async #append(handle: CaptureOutput, pieces: Buffer[]): Promise<void> {
    try {
      for (const piece of pieces) {
        for (let at = 0; at < piece.length; ) {
          at += (await handle.write(piece, at)).bytesWritten;
        }
        this.#writer.written(piece.length);
      }
    } catch (error) {
      // The capture ends; the data path does not notice. `close` tells.
      this.#failure ??= error;
      this.#closed = true;
      this.#finish();
    }
  }
}

/** Never another's file, and never through a link. */
async function openExclusive(path: string): Promise<CaptureOutput> {
  return await open(path, 'wx', 0o600);
}

async function ended(
  files: CaptureFiles,
  durationUs: number,
  signal: AbortSignal | undefined,
): Promise<string> {
  let timer: NodeJS.Timeout | undefined;
  let onAbort = (): void => {};
  const over = new Promise<string>((resolve) => {
    timer = setTimeout(() => resolve('duration'), durationUs / 1000);
    onAbort = () => resolve('stop');
    signal?.addEventListener('abort', onAbort);
    if (signal?.aborted === true) onAbort();
  });
  const full = files.finished.then(() => files.endReason ?? 'stop');
  try {
    return await Promise.race([over, full]);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  }
}

function describeCapture(dir: string, summary: CaptureSummary): string {
  const { frames, dropped, bytes, reason } = summary;
  const counts = CAPTURE_SIDES.map((side) => `${frames[side]} ${side}`).join(', ');
  const lost = CAPTURE_SIDES.reduce((sum, side) => sum + dropped[side], 0);
  const loss = lost === 0 ? '' : `; ${lost} frames were left out, the disk was too slow`;
  const misses = dropped.verdicts === 0 ? '' : `; ${dropped.verdicts} verdicts were left out`;
  return `Captured frames: ${counts}; ${bytes} bytes in ${dir}; ended by ${reason}${loss}${misses}`;
}
