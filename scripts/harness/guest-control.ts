/**
 * The guest's control port (:7001): one command a line, one answer a line, "ok ..." or "error ...".
 * The connection is made inside the client's namespace by scripts/clients/pipe.ts.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { nowUs } from '../clients/clock.js';
import { Child } from './child.js';
import { withDeadline } from './cleanup.js';

const CONTROL_PORT = 7001;
/** A command may run the guest's disk bench or write much memory. */
const ANSWER_DEADLINE_MS = 120_000;
/** Boot takes up to 20 s under TCG on two cores. */
const READY_DEADLINE_MS = 90_000;
const PING_DEADLINE_MS = 3000;
const PING_AGAIN_MS = 200;

export interface GuestControlOptions {
  /** Prefix that enters the client's namespace. */
  readonly enter: readonly string[];
  readonly buildDir: string;
  readonly host: string;
  readonly logPath: string;
}

export class GuestControl {
  readonly #child: Child;
  readonly #waiters: ((line: string) => void)[] = [];

  constructor(options: GuestControlOptions) {
    this.#child = new Child({
      name: 'guest-control',
      command: [
        ...options.enter,
        process.execPath,
        `${options.buildDir}/scripts/clients/pipe.js`,
        options.host,
        String(CONTROL_PORT),
      ],
      logPath: options.logPath,
      onLine: (line) => this.#waiters.shift()?.(line),
    });
  }

  /** Sends a command and returns what follows "ok"; rejects on "error" and on a lost connection. */
  async command(line: string, deadlineMs = ANSWER_DEADLINE_MS): Promise<string> {
    const answer = new Promise<string>((resolve) => this.#waiters.push(resolve));
    const ended = this.#child.ended.then(() => {
      throw new Error(`The guest's control connection ended during ${JSON.stringify(line)}`);
    });
    this.#child.writeLine(line);
    const text = await withDeadline(Promise.race([answer, ended]), deadlineMs, `Guest: ${line}`);
    const match = /^ok ?(.*)$/.exec(text);
    if (match === null) throw new Error(`The guest answers ${JSON.stringify(line)} with ${text}`);
    return match[1] ?? '';
  }

  /** Runs a shell command in the guest; rejects unless it exits with 0. */
  async exec(command: string): Promise<string> {
    const [code = '', output = ''] = (await this.command(`exec ${command}`)).split(' ');
    const text = Buffer.from(output, 'base64').toString();
    if (code !== '0') throw new Error(`In the guest ${command} failed with ${code}: ${text}`);
    return text;
  }

  close(): void {
    this.#child.kill('SIGKILL');
  }
}

/** Waits until the guest answers on its control port, which it does once all its services run. */
export async function waitGuest(options: GuestControlOptions): Promise<void> {
  const untilUs = nowUs() + READY_DEADLINE_MS * 1000;
  for (;;) {
    const control = new GuestControl(options);
    try {
      await control.command('ping', PING_DEADLINE_MS);
      return;
    } catch (error) {
      const message = `The guest at ${options.host} is not up within ${READY_DEADLINE_MS / 1000} s`;
      if (nowUs() > untilUs) throw new Error(message, { cause: error });
      await delay(PING_AGAIN_MS);
    } finally {
      control.close();
    }
  }
}
