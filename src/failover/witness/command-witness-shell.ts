/**
 * The witness as the operator's own command, for IPMI, cluster managers and whatever else knows who
 * may be alone; its contract is in docs/witness.md and command-output.ts.
 *
 *     COMMAND acquire|renew|release VM HOST
 *
 * `renew` is what a process says that holds a grant which it has had from this command. The command
 * runs in a process group of its own, which is killed as a whole once its time is over.
 */
import { spawn } from 'node:child_process';
import { bootTimeUs } from '../../linux/index.js';
import { ANY_TOKEN, COMMAND_OUTPUT_BYTES_MAX } from '../limits.js';
import { readCommandOutput } from './command-output.js';
import type { Witness, WitnessAnswer, WitnessIdentity, WitnessRequest } from './witness.js';

export interface CommandWitnessOptions {
  readonly identity: WitnessIdentity;
  /** Absolute path of a program. */
  readonly command: string;
  readonly ttlUs: number;
  /** A command that fences needs longer than a lease; the speaker's lease runs on meanwhile. */
  readonly timeoutMs: number;
}

type Verb = 'acquire' | 'renew' | 'release';

interface Ended {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

export class CommandWitness implements Witness {
  readonly name: string;
  readonly #options: CommandWitnessOptions;
  readonly #running = new Set<number>();
  #holdsUntilUs = 0;

  constructor(options: CommandWitnessOptions) {
    this.#options = options;
    this.name = `command ${options.command}`;
  }

  async ask(request: WitnessRequest): Promise<WitnessAnswer> {
    const askedAtUs = bootTimeUs();
    const verb = askedAtUs < this.#holdsUntilUs ? 'renew' : 'acquire';
    const ended = await this.#run(verb, request);
    if (typeof ended === 'string') return { kind: 'unreachable', reason: ended };
    const answer = readCommandOutput(ended, { askedAtUs, ttlUs: this.#options.ttlUs });
    if (answer.kind === 'granted') this.#holdsUntilUs = askedAtUs + answer.ttlUs;
    if (answer.kind === 'denied') this.#holdsUntilUs = 0;
    return answer;
  }

  async release(): Promise<void> {
    this.#holdsUntilUs = 0;
    await this.#run('release', undefined);
  }

  close(): void {
    for (const pid of this.#running) killGroup(pid);
  }

  /** How it ended, or why nothing is known. */
  #run(verb: Verb, request: WitnessRequest | undefined): Promise<Ended | string> {
    const { command, identity, timeoutMs } = this.#options;
    return new Promise((resolve) => {
      const child = spawn(command, [verb, identity.vm, identity.host], {
        detached: true,
        stdio: ['ignore', 'pipe', 'pipe'],
        env: { ...process.env, ...this.#environment(request) },
      });
      const { pid } = child;
      let late: string | undefined;
      const giveUp = (reason: string): void => {
        late ??= reason;
        if (pid !== undefined) killGroup(pid);
        // What it started may keep its output open; nobody waits for that.
        child.stdout.destroy();
        child.stderr.destroy();
      };
      const output = { stdout: '', stderr: '' };
      for (const name of ['stdout', 'stderr'] as const) {
        child[name].setEncoding('utf8').on('data', (text: string) => {
          output[name] += text;
          if (output[name].length > COMMAND_OUTPUT_BYTES_MAX) giveUp('The command says too much');
        });
      }
      if (pid !== undefined) this.#running.add(pid);
      const timer = setTimeout(() => giveUp(`No answer within ${timeoutMs} ms`), timeoutMs);
      const end = (ended: Ended | string): void => {
        clearTimeout(timer);
        if (pid !== undefined) this.#running.delete(pid);
        resolve(late ?? ended);
      };
      child.once('error', (error) => end(`The command can't be run: ${error.message}`));
      child.once('close', (code, signal) => {
        end(code === null ? `The command was ended by ${signal}` : { exitCode: code, ...output });
      });
    });
  }

  #environment(request: WitnessRequest | undefined): Record<string, string> {
    const { identity, ttlUs, timeoutMs } = this.#options;
    const known = request?.knownToken;
    return {
      COLO_WITNESS_INSTANCE: identity.instance,
      COLO_WITNESS_ROLE: identity.role,
      COLO_WITNESS_TTL_MS: String(Math.floor(ttlUs / 1000)),
      COLO_WITNESS_TIMEOUT_MS: String(timeoutMs),
      COLO_WITNESS_PURPOSE: request?.purpose ?? '',
      COLO_WITNESS_KNOWN_TOKEN: known === ANY_TOKEN ? 'any' : String(known ?? ''),
    };
  }
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // All of them have ended.
  }
}
