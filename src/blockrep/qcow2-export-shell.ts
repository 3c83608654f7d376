/**
 * A qcow2 image as a raw file, by way of QEMU's storage daemon and FUSE.
 *
 * One daemon per image. It mounts its view over the image itself, in a mount namespace of its own:
 * nobody else sees that, and nothing is left behind however it ends. The agent opens the view
 * through /proc/PID/root. Reads, writes, holes, discards and fdatasync pass through. Backing files
 * work as they do in QEMU, and QEMU's own lock keeps other programs of QEMU off the image.
 *
 * Lives: the daemon gets SIGTERM, and so flushes and ends, when the thread that started it ends in
 * whatever way. When the daemon dies, everything on the open file fails with ENOTCONN.
 *
 * Source: QEMU 7.2, qemu-storage-daemon(1); setpriv(1), unshare(1) of util-linux.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import fs from 'node:fs';
import { describeError, type Logger, OperatorError } from '../lib/index.js';
import { QCOW2_OUTPUT_BYTES_MAX, QCOW2_START_MS_MAX, QCOW2_STOP_MS_MAX } from './limits.js';

export interface Qcow2Options {
  readonly path: string;
  readonly readOnly?: boolean | undefined;
  readonly log?: Logger;
}

const DAEMON = 'qemu-storage-daemon';
/** f_type of a FUSE mount. Source: statfs(2). */
const FUSE_SUPER_MAGIC = 0x65735546;

export class Qcow2Export {
  /** Where this process finds the view, as long as the daemon lives. */
  readonly path: string;
  readonly #child: ChildProcess;
  readonly #gone: Promise<void>;
  #stopping = false;

  private constructor(child: ChildProcess, path: string, gone: Promise<void>) {
    this.#child = child;
    this.path = path;
    this.#gone = gone;
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  /** Throws OperatorError (COLO_E_IMAGE_OPEN) with what the daemon says. */
  static async start(options: Qcow2Options): Promise<Qcow2Export> {
    // The path below /proc/PID/root must not lead out of there again.
    const image = await fs.promises.realpath(options.path);
    const child = spawn('unshare', daemonCommand(image, options.readOnly === true), {
      // Its own session: a Ctrl-C in our terminal is for us to decide about.
      detached: true,
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { PATH: process.env['PATH'] ?? '', LANG: 'C' },
    });
    child.stdin?.on('error', () => undefined);
    const ended = watch(child);
    const place = `/proc/${child.pid}/root${image}`;
    const exported = new Qcow2Export(
      child,
      place,
      ended.then(() => undefined),
    );
    const reason = await Promise.race([ready(child), ended]);
    if (reason !== undefined || !(await isMounted(place))) {
      await exported.stop();
      throw refused('open', options.path, reason ?? 'the export is not there');
    }
    void ended.then((how) => {
      if (exported.#stopping) return;
      const fields = { path: options.path, reason: how };
      options.log?.error('The storage daemon of a qcow2 image is gone', fields);
    });
    return exported;
  }

  /** The daemon flushes and ends; resolves when it is gone. Idempotent. */
  async stop(): Promise<void> {
    if (this.#stopping) return this.#gone;
    this.#stopping = true;
    this.#child.kill('SIGTERM');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), QCOW2_STOP_MS_MAX);
    await this.#gone;
    clearTimeout(timer);
  }
}

/** Makes a sparse qcow2 image. Throws OperatorError. */
export async function createQcow2(path: string, sizeBytes: number): Promise<void> {
  const words = ['create', '-q', '-f', 'qcow2', path, String(sizeBytes)];
  const reason = await new Promise<string | undefined>((resolve) => {
    const options = { timeout: QCOW2_START_MS_MAX, maxBuffer: QCOW2_OUTPUT_BYTES_MAX };
    execFile('qemu-img', words, options, (error, _stdout, stderr) => {
      resolve(error === null ? undefined : stderr.trim() || describeError(error));
    });
  });
  if (reason !== undefined) throw refused('create', path, reason);
  await fs.promises.chmod(path, 0o600);
}

function refused(action: 'open' | 'create', path: string, reason: string): OperatorError {
  const message = `Cannot ${action} the qcow2 image ${path}: ${reason}`;
  return new OperatorError('COLO_E_IMAGE_OPEN', message);
}

function daemonCommand(image: string, readOnly: boolean): string[] {
  const node = {
    driver: 'qcow2',
    'node-name': 'image',
    'read-only': readOnly,
    discard: 'unmap',
    file: { driver: 'file', filename: image, discard: 'unmap' },
  };
  const view = {
    type: 'fuse',
    id: 'view',
    'node-name': 'image',
    mountpoint: image,
    writable: !readOnly,
  };
  return [
    ...['--mount', '--propagation', 'private', 'setpriv', '--pdeathsig', 'TERM', DAEMON],
    ...['--blockdev', JSON.stringify(node), '--export', JSON.stringify(view)],
    // The last one: when it greets, everything before it is done.
    ...['--chardev', 'stdio,id=qmp', '--monitor', 'chardev=qmp'],
  ];
}

/** Resolves to undefined when the daemon greets, else to what is wrong. */
function ready(child: ChildProcess): Promise<string | undefined> {
  return new Promise((resolve) => {
    const timer = setTimeout(
      () => resolve(`${DAEMON} did not start within ${QCOW2_START_MS_MAX} ms`),
      QCOW2_START_MS_MAX,
    );
    for (const end of ['exit', 'error']) child.once(end, () => clearTimeout(timer));
    child.stdout?.on('data', () => {
      clearTimeout(timer);
      resolve(undefined);
    });
  });
}

/** Resolves to how the daemon ended, with its last words. */
function watch(child: ChildProcess): Promise<string> {
  let words = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    words = (words + text).slice(-QCOW2_OUTPUT_BYTES_MAX);
  });
  return new Promise((resolve) => {
    child.once('error', (error) => {
      if (child.pid === undefined) resolve(`${DAEMON} can not be started: ${describeError(error)}`);
    });
    child.once('close', (code, signal) => {
      const how = signal === null ? `ended with exit code ${code}` : `was ended by ${signal}`;
      const said = words.replaceAll(/^(unshare|setpriv|qemu-storage-daemon): /gm, '').trim();
      resolve(said === '' ? `${DAEMON} ${how}` : withAdvice(said));
    });
  });
}

function withAdvice(words: string): string {
  if (!/^unshare failed|\bfuse\b/im.test(words)) return words;
  return `${words}; qcow2 images need /dev/fuse and the right to mount (CAP_SYS_ADMIN)`;
}

async function isMounted(path: string): Promise<boolean> {
  try {
    return (await fs.promises.statfs(path)).type === FUSE_SUPER_MAGIC;
  } catch {
    return false;
  }
}
