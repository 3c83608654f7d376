/**
 * From a path to an image that is open, locked and has the right kind and size; or an OperatorError
 * that says what is in the way and what to change.
 *
 * A raw image is opened itself. A qcow2 image is opened by QEMU's storage daemon, and what is
 * opened here is the daemon's view of it (qcow2-export-shell.ts).
 */
import fs from 'node:fs';
import { describeError, type Logger, OperatorError } from '../lib/index.js';
import { dropCached, isRangeLocked, lockFile, seekSize } from '../linux/index.js';
import { errnoOf } from './errors.js';
import { SECTOR_BYTES } from './limits.js';
import { findLockOwners } from './lock-owner.js';
import { createQcow2, Qcow2Export } from './qcow2-export-shell.js';

/** How the bytes of the guest's disk lie in the image. */
export type ImageFormat = 'raw' | 'qcow2';

export interface ImageOptions {
  readonly path: string;
  /** Not given: raw, and an image that looks like something else is refused. */
  readonly format?: ImageFormat | undefined;
  readonly readOnly?: boolean | undefined;
  /** Creates a missing image, sparse, with this size; an existing one must have it. */
  readonly sizeBytes?: number | undefined;
  /** Another host may have written to it since this one has read it. */
  readonly writtenElsewhere?: boolean | undefined;
  /** For what happens to the image from outside while it is open. */
  readonly log?: Logger;
}

/** What an ImageFile works on. */
export interface OpenedImage {
  readonly fd: number;
  readonly sizeBytes: number;
  readonly isBlockDevice: boolean;
  /** After `fd` was closed: ends what stood behind it. */
  release(): Promise<void>;
}

/** First bytes of a qcow2 image: "QFI" and 0xfb. */
const QCOW2_MAGIC = 0x514649fb;

/**
 * Bytes that QEMU locks: from 100 on what it does with an image, from 200 on what others may not do
 * with it; 101 is writing. Source: QEMU 7.2, block/file-posix.c, RAW_LOCK_PERM_BASE.
 */
const QEMU_USER_BYTES: readonly (readonly [number, number])[] = [
  [100, 4],
  [200, 4],
];
const QEMU_WRITER_BYTES: typeof QEMU_USER_BYTES = [[101, 1]];

const ADVICE: Readonly<Record<string, string>> = {
  ENOENT: 'create it or correct the path',
  ENOTDIR: 'correct the path',
  EACCES: 'let the agent read and write it',
  EPERM: 'let the agent read and write it',
  EROFS: 'mount its file system for writing, or make the disk read-only',
  EBUSY: 'it is mounted or in use as a part of something else; free it or take another',
};

/** Throws OperatorError: COLO_E_IMAGE_OPEN, _KIND, _FORMAT, _LOCKED or _SIZE. */
export async function openImage(options: ImageOptions): Promise<OpenedImage> {
  const { path, format } = options;
  const found = await examine(options);
  const fresh = found === undefined;
  if (found !== undefined) checkKind(options, found);
  if (format === 'qcow2') {
    if (fresh) await createQcow2(path, options.sizeBytes ?? 0);
    const exported = await Qcow2Export.start(options);
    try {
      const image = await openChecked(options, exported.path, { isBlockDevice: false });
      return { ...image, isBlockDevice: false, release: () => exported.stop() };
    } catch (error) {
      await exported.stop();
      throw error;
    }
  }
  const isBlockDevice = found?.isBlockDevice() === true;
  const image = await openChecked(options, path, { isBlockDevice, fresh });
  return { ...image, isBlockDevice, release: () => Promise.resolve() };
}

/** Undefined: it is missing and shall be created. */
async function examine(options: ImageOptions): Promise<fs.Stats | undefined> {
  const { path } = options;
  try {
    return await fs.promises.stat(path);
  } catch (error) {
    const mayCreate = options.sizeBytes !== undefined && options.readOnly !== true;
    if (errnoOf(error) === 'ENOENT' && mayCreate) return undefined;
    throw openFailed('open', path, error);
  }
}

function checkKind(options: ImageOptions, stat: fs.Stats): void {
  const { path, format } = options;
  let problem: string | undefined;
  if (stat.isDirectory()) problem = 'is a directory, not an image; name a file in it';
  else if (!stat.isFile() && !stat.isBlockDevice()) {
    problem = 'is neither a regular file nor a block device';
  } else if (format === 'qcow2' && !stat.isFile()) {
    problem = 'is a block device, and a qcow2 image must be a regular file; move it to one';
  }
  if (problem === undefined) return;
  throw new OperatorError('COLO_E_IMAGE_KIND', `The image ${path} ${problem}`);
}

async function openChecked(
  options: ImageOptions,
  place: string,
  kind: { isBlockDevice: boolean; fresh?: boolean },
): Promise<{ fd: number; sizeBytes: number }> {
  const { path } = options;
  const { O_RDONLY, O_RDWR, O_CREAT, O_EXCL } = fs.constants;
  // On a block device O_EXCL means: not while it is mounted or a part of another device.
  const exclusive = kind.isBlockDevice ? O_EXCL : 0;
  let flags = options.readOnly === true ? O_RDONLY : O_RDWR | exclusive;
  if (kind.fresh === true) flags = O_RDWR | O_CREAT | O_EXCL;
  let fd: number;
  try {
    fd = await openFile(place, flags);
  } catch (error) {
    throw openFailed(kind.fresh === true ? 'create' : 'open', path, error);
  }
  try {
    checkLock(fd, options);
    // A file system knows by itself; a device's cache does not.
    if (kind.isBlockDevice && options.writtenElsewhere === true) dropCached(fd);
    checkFormat(fd, options);
    return { fd, sizeBytes: checkSize(fd, options) };
  } catch (error) {
    fs.closeSync(fd);
    throw error;
  }
}

function openFile(path: string, flags: number): Promise<number> {
  return new Promise((resolve, reject) => {
    fs.open(path, flags, 0o600, (error, fd) => (error ? reject(error) : resolve(fd)));
  });
}

function openFailed(action: 'open' | 'create', path: string, error: unknown): OperatorError {
  const advice = ADVICE[errnoOf(error)] ?? 'check the path and what it is on';
  const message = `Cannot ${action} the image ${path}: ${describeError(error)}; ${advice}`;
  return new OperatorError('COLO_E_IMAGE_OPEN', message, { cause: error });
}

/**
 * By flock among agents. QEMU does not heed that and has record locks of its own, which are looked
 * at here but not taken: people look into an image in use with QEMU's tools.
 */
function checkLock(fd: number, options: ImageOptions): void {
  const isFree = lockFile(fd, options.readOnly === true ? 'shared' : 'exclusive');
  const used = options.readOnly === true ? QEMU_WRITER_BYTES : QEMU_USER_BYTES;
  const isQemus = isFree && used.some(([at, length]) => isRangeLocked(fd, at, length));
  if (isFree && !isQemus) return;
  const user = isQemus ? 'QEMU or one of its tools' : describeOwners(fd);
  const message = `The image ${options.path} is in use by ${user}; stop that one first`;
  throw new OperatorError('COLO_E_IMAGE_LOCKED', message);
}

function describeOwners(fd: number): string {
  const { dev, ino } = fs.fstatSync(fd);
  const owners = findLockOwners(readText('/proc/locks'), { device: dev, inode: ino });
  const [first] = owners;
  if (first === undefined) return 'another process';
  const name = readText(`/proc/${first}/comm`).trim();
  const who = first === process.pid ? 'this process' : 'another process';
  return `${who} (PID ${first}${name === '' ? '' : `, ${name}`})`;
}

/** Empty when it can not be read: it is for a message only. */
function readText(path: string): string {
  try {
    return fs.readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** A qcow2 image taken for a raw one would show the guest its tables instead of a disk. */
function checkFormat(fd: number, options: ImageOptions): void {
  if (options.format !== undefined) return;
  const head = Buffer.alloc(4);
  if (fs.readSync(fd, head, 0, 4, 0) < 4 || head.readUInt32BE(0) !== QCOW2_MAGIC) return;
  const advice = 'say format=qcow2, or format=raw if the guest wrote that itself';
  const message = `The image ${options.path} looks like a qcow2 image; ${advice}`;
  throw new OperatorError('COLO_E_IMAGE_FORMAT', message);
}

/** Gives a new image its size. */
function checkSize(fd: number, options: ImageOptions): number {
  const { path, sizeBytes: wanted } = options;
  let found = seekSize(fd);
  // Only an empty file is given a size: a wrong size is somebody else's data.
  const isEmptyFile = found === 0 && options.format !== 'qcow2' && fs.fstatSync(fd).isFile();
  if (isEmptyFile && wanted !== undefined && options.readOnly !== true) {
    fs.ftruncateSync(fd, wanted);
    found = wanted;
  }
  if (wanted !== undefined && found !== wanted) {
    const message = `The image ${path} has ${found} bytes where ${wanted} are expected`;
    throw new OperatorError('COLO_E_IMAGE_SIZE', message);
  }
  if (found === 0 || found % SECTOR_BYTES !== 0) {
    const message = `The image ${path} has ${found} bytes, not a positive multiple of ${SECTOR_BYTES}; it must be a whole image`;
    throw new OperatorError('COLO_E_IMAGE_SIZE', message);
  }
  return found;
}
