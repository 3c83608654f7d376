/**
 * The agent's end of systemd's notify protocol (NOTIFY_SOCKET, WATCHDOG_USEC); without such an
 * environment it does nothing.
 *
 * The sign of life is sent by a timer of the main thread, which is where the state machines run,
 * and only after the node has told its status: an agent whose main loop hangs, or whose node is
 * broken, is ended by systemd, and QEMU with it.
 */
import type { NodeStatus } from '../config/index.js';
import { describeError, type Logger } from '../lib/index.js';
import { UnixDatagramSender } from '../linux/index.js';
import {
  encodeNotice,
  lookEveryMs,
  type Notice,
  serviceStatus,
  watchdogUs,
} from './service-notice.js';

export class ServiceManager {
  readonly #log: Logger;
  readonly #watchdogUs: number | undefined;
  #sender: UnixDatagramSender | undefined;
  #timer: NodeJS.Timeout | undefined;
  #toldStatus = '';
  #complained = false;

  /** Takes the variables out of `env`: no child process of ours is meant. */
  constructor(env: NodeJS.ProcessEnv, log: Logger) {
    this.#log = log;
    this.#watchdogUs = watchdogUs(env, process.pid);
    const address = env['NOTIFY_SOCKET'];
    for (const name of ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID']) delete env[name];
    if (address === undefined || address === '') return;
    this.#attempt(() => {
      this.#sender = new UnixDatagramSender(address);
    });
  }

  /** The node answers its operator; from now on it is looked at until `close`. */
  ready(status: () => NodeStatus): void {
    if (this.#sender === undefined) return;
    this.#tell({ ready: true });
    const look = (): void => this.#look(status);
    look();
    this.#timer = setInterval(look, lookEveryMs(this.#watchdogUs));
  }

  /** The end has begun. Signs of life go on until `close`. */
  stopping(): void {
    this.#tell({ stopping: true });
  }

  /** Idempotent. */
  close(): void {
    clearInterval(this.#timer);
    this.#sender?.close();
    this.#sender = undefined;
  }

  #look(status: () => NodeStatus): void {
    const text = serviceStatus(status());
    const changed = text !== this.#toldStatus;
    this.#toldStatus = text;
    const watchdog = this.#watchdogUs !== undefined;
    this.#tell({ watchdog, status: changed ? text : undefined });
  }

  #tell(notice: Notice): void {
    const sender = this.#sender;
    const bytes = encodeNotice(notice);
    if (sender === undefined || bytes === undefined) return;
    this.#attempt(() => sender.send(bytes));
  }

  /** A service manager that is away is no reason for the guest to stop. */
  #attempt(act: () => void): void {
    try {
      act();
      this.#complained = false;
    } catch (error) {
      if (this.#complained) return;
      this.#complained = true;
      const reason = describeError(error);
      this.#log.warn('The service manager can not be told', { reason });
    }
  }
}
