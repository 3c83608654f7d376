/**
 * Child processes of the harness: short commands that are waited for, and long-lived ones with a
 * log file. Long-lived children are in a process group of their own, so that Ctrl-C reaches only
 * the script, which then stops them in order; and the kernel kills them when the script itself is
 * killed (PDEATHSIG through util-linux' setpriv).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { createInterface } from 'node:readline';

/** Output kept of a command; the rest is dropped, and the end matters most when it fails. */
const OUTPUT_BYTES_MAX = 1 << 20;
const COMMAND_DEADLINE_MS = 60_000;

/**
 * Runs a command to its end and returns its stdout; rejects with its stderr unless it exits with 0.
 * Ctrl-C does not reach it: it may be a step of the cleanup.
 */
export function run(
  command: readonly string[],
  options: { deadlineMs?: number; stderr?: 'inherit' } = {},
): Promise<string> {
  const [file = '', ...args] = command;
  const deadlineMs = options.deadlineMs ?? COMMAND_DEADLINE_MS;
  const child = spawn(file, args, {
    stdio: ['ignore', 'pipe', options.stderr ?? 'pipe'],
    detached: true,
  });
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name]?.setEncoding('utf8').on('data', (text: string) => {
      output[name] = (output[name] + text).slice(-OUTPUT_BYTES_MAX);
    });
  }
  const timer = setTimeout(() => signalGroup(child, 'SIGKILL'), deadlineMs);
  return new Promise((resolve, reject) => {
    child.once('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    child.once('close', (code, signal) => {
      clearTimeout(timer);
      if (code === 0) {
        resolve(output.stdout);
        return;
      }
      const why = (output.stderr.trim() || output.stdout.trim()).slice(-2000);
      const how = signal === null ? `exit code ${code}` : `${signal}, allowed: ${deadlineMs} ms`;
      reject(new Error(`${command.join(' ').slice(0, 200)}: ${how}: ${why}`));
    });
  });
}

function signalGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, signal);
}

export interface ChildOptions {
  readonly name: string;
  readonly command: readonly string[];
  /** Stderr, and stdout unless `onLine` takes it, are appended to this file. */
  readonly logPath: string;
  /** Called for each line of stdout. */
  readonly onLine?: (line: string) => void;
  readonly env?: Readonly<Record<string, string>>;
}

export interface ChildEnd {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** A long-lived child; `ended` resolves when it is gone and all its output was read. */
export class Child {
  readonly name: string;
  readonly ended: Promise<ChildEnd>;
  readonly #process: ChildProcess;
  #end: ChildEnd | undefined;

  constructor(options: ChildOptions) {
    this.name = options.name;
    const log = openSync(options.logPath, 'a');
    const [file = '', ...args] = ['setpriv', '--pdeathsig', 'KILL', ...options.command];
    this.#process = spawn(file, args, {
      stdio: ['pipe', options.onLine === undefined ? log : 'pipe', log],
      detached: true,
      env: { ...process.env, ...options.env },
    });
    closeSync(log);
    this.ended = new Promise((resolve) => {
      const end = (code: number | null, signal: NodeJS.Signals | null): void => {
        this.#end = { code, signal };
        resolve(this.#end);
      };
      this.#process.once('close', end);
      this.#process.once('error', () => end(127, null));
    });
    this.#process.stdin?.on('error', () => {});
    const { stdout } = this.#process;
    if (stdout !== null && options.onLine !== undefined) {
      createInterface({ input: stdout }).on('line', options.onLine);
    }
  }

  /** How it ended; undefined while it runs. */
  get end(): ChildEnd | undefined {
    return this.#end;
  }

  get pid(): number {
    return this.#process.pid ?? -1;
  }

  writeLine(line: string): void {
    this.#process.stdin?.write(`${line}\n`);
  }

  endInput(): void {
    this.#process.stdin?.end();
  }

  kill(signal: NodeJS.Signals): void {
    this.#process.kill(signal);
  }

  /** Asks with SIGTERM and insists with SIGKILL after `graceMs`; resolves when it is gone. */
  async stop(graceMs = 5000): Promise<ChildEnd> {
    if (this.#end !== undefined) return this.#end;
    this.kill('SIGTERM');
    const timer = setTimeout(() => this.kill('SIGKILL'), graceMs);
    const end = await this.ended;
    clearTimeout(timer);
    return end;
  }
}
