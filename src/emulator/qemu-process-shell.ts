/**
 * Starts QEMU so that it can't outlive this process, and knows how it ended. Everything it gets
 * from us it inherits: memory files, and one end of a socket pair each for QMP, console, the
 * preload library and the NICs.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import type { Duplex } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { isMainThread } from 'node:worker_threads';
import { assert, describeError, type Logger, OperatorError } from '../lib/index.js';
import { CHILD_FD } from './command-line.js';
import type { ExitReason } from './emulator.js';
import { QemuError } from './errors.js';
import { KILL_DEADLINE_MS, STDERR_KEPT_BYTES } from './limits.js';

/** build/native, seen from build/src/emulator. */
const PRELOAD_PATH = fileURLToPath(new URL('../../native/ram-preload.so', import.meta.url));

/** QEMU's ends of one NIC: see GuestPort in src/linux. */
export interface NicFds {
  readonly frames: number;
  readonly offload: number;
}

export interface QemuProcessOptions {
  readonly binary: string;
  readonly commandLine: readonly string[];
  readonly ramFd: number;
  readonly deviceStateFd: number;
  readonly vmStateFd: number;
  readonly nicFds: readonly NicFds[];
  /** On connections to sockets there a large write refers to guest RAM: native/disk-preload.c. */
  readonly diskDirectory: string;
  /** Whether it has a socket for a guest to come in by. */
  readonly incoming: boolean;
  /** Whether the preload library registers guest RAM for write tracking. */
  readonly track: boolean;
  readonly log: Logger;
}

export class QemuProcess {
  readonly exited: Promise<ExitReason>;
  readonly #child: ChildProcess;
  #ended = false;
  #stderr = '';

  constructor(options: QemuProcessOptions) {
    // PR_SET_PDEATHSIG fires when the *thread* that started the child ends.
    assert(isMainThread, 'QEMU must be started from the main thread');
    if (!existsSync(PRELOAD_PATH)) {
      throw new OperatorError(
        'COLO_E_NO_PRELOAD',
        `The preload library ${PRELOAD_PATH} is missing; run make -C native OUT=../build/native`,
      );
    }
    this.#child = spawn(options.binary, options.commandLine, {
      // Its own session: a Ctrl-C in our terminal is for us to decide about.
      detached: true,
      stdio: [
        'ignore',
        'ignore',
        'pipe',
        options.ramFd,
        options.deviceStateFd,
        options.vmStateFd,
        'pipe',
        'pipe',
        'pipe',
        options.incoming ? 'pipe' : 'ignore',
        ...options.nicFds.flatMap(({ frames, offload }) => [frames, offload]),
      ],
      env: {
        PATH: process.env['PATH'] ?? '',
        LANG: 'C',
        LD_PRELOAD: PRELOAD_PATH,
        COLO_AGENT: String(process.pid),
        COLO_RAM_FD: String(CHILD_FD.ram),
        COLO_CONTROL_FD: String(CHILD_FD.control),
        COLO_TRACK: options.track ? '1' : '0',
        COLO_DISK_DIRECTORY: options.diskDirectory,
        COLO_NIC_FDS: `${CHILD_FD.nics} ${options.nicFds.length}`,
      },
    });
    this.exited = this.#watch(options.log);
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  /** Whether the process is known to have ended. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Our end of one of QEMU's inherited sockets. */
  socket(name: 'control' | 'qmp' | 'console' | 'incoming'): Duplex {
    // Node's types know the first five streams only, and none of them as the socket that a pipe is.
    const streams = this.#child.stdio as readonly unknown[];
    return streams[CHILD_FD[name]] as Duplex;
  }

  /** Stops all of QEMU's threads, or lets them go on; nothing of it waits for an answer. */
  signal(name: 'SIGSTOP' | 'SIGCONT'): void {
    if (!this.#ended) this.#child.kill(name);
  }

  /** By a signal or a debugger: it will not go on by itself. */
  get isStopped(): boolean {
    try {
      // The state follows the name, which is in brackets and may hold any.
      return /^.*\) [Tt] /s.test(readFileSync(`/proc/${this.pid}/stat`, 'latin1'));
    } catch {
      // It is gone, which is told by its end.
      return false;
    }
  }

  /** SIGKILL. */
  abort(): void {
    if (!this.#ended) this.#child.kill('SIGKILL');
  }

  /** SIGKILL, then waits until the process is reaped. */
  async kill(): Promise<void> {
    this.abort();
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => {
        reject(new QemuError(`QEMU ${this.pid} did not end within ${KILL_DEADLINE_MS} ms`));
      }, KILL_DEADLINE_MS);
    });
    try {
      await Promise.race([this.exited, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  #watch(log: Logger): Promise<ExitReason> {
    const child = this.#child;
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      log.warn('QEMU says', { text: text.trim() });
      this.#stderr = (this.#stderr + text).slice(-STDERR_KEPT_BYTES);
    });
    const stderrClosed = new Promise<void>((resolve) => {
      child.stderr?.once('close', resolve);
    });
    return new Promise((resolve) => {
      child.once('error', (error) => {
        if (child.pid !== undefined) return;
        this.#ended = true;
        resolve({ reason: `QEMU can not be started: ${describeError(error)}` });
      });
      child.once('exit', (code, signal) => {
        this.#ended = true;
        const how = signal === null ? `ended with exit code ${code}` : `was ended by ${signal}`;
        stderrClosed
          .then(() => {
            const words = this.#stderr.trim();
            resolve({ reason: words === '' ? `QEMU ${how}` : `QEMU ${how}: ${words}` });
          })
          .catch(() => undefined);
      });
    });
  }
}
