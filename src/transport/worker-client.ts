/**
 * The main thread's side of a worker: typed calls with promises, notices both ways, one failure.
 *
 * Two interfaces are the contract: what the worker does (`Calls`) and what it tells (`Notices`).
 * The worker's entry file calls `serveWorker<Calls, Notices>`, and the main thread starts it by
 * its place beside the caller, which is the same in the compiled tree:
 *
 *     new WorkerClient<Calls, Notices>(new URL('./nic-worker-shell.js', import.meta.url), options)
 *
 * Invariants: messages arrive in the order they were posted, both ways; after the failure, or
 * `terminate`, no notice is delivered and no call stays pending; the failure is told once.
 */
import type { Worker } from 'node:worker_threads';
import { assert, ColoError, type Logger, unreachable } from '../lib/index.js';
import { unpackError } from './error-parcel.js';
import { endSpares, endWorker, takeWorker } from './spare-workers.js';
import type { ArgumentsOf, Handlers, NameOf, ResultOf, ToMain, ToWorker } from './worker-wire.js';

export interface WorkerClientOptions<Notices extends Handlers<Notices>> {
  /** Also of the thread. */
  readonly name: string;
  /** The worker's log lines come out here. */
  readonly log: Logger;
  /** What the worker may notify of. */
  readonly notices: Notices;
  /**
   * The thread has ended by itself; `error` is what nothing caught there, of its own class if that
   * is one of ours, or a ColoError `COLO_E_WORKER`. Not called after `terminate`.
   */
  readonly onFailure: (error: Error) => void;
}

/** Whose threads have not ended. */
const running = new Set<{ terminate(): Promise<void> }>();

/** Ends all threads of this process, before it exits: see src/linux/poll.ts. */
export async function endWorkers(): Promise<void> {
  await Promise.all([...[...running].map((each) => each.terminate()), endSpares()]);
}

interface Pending {
  readonly resolve: (value: never) => void;
  readonly reject: (error: Error) => void;
}

/** One worker thread. `Calls` is the type of the handlers that it serves. */
export class WorkerClient<Calls extends Handlers<Calls>, Notices extends Handlers<Notices>> {
  readonly #options: WorkerClientOptions<Notices>;
  readonly #worker: Worker;
  readonly #pending = new Map<number, Pending>();
  #nextId = 1;
  /** What the thread said of its end; the end itself follows. */
  #fatal: Error | undefined;
  #over: Error | undefined;
  #termination: Promise<void> | undefined;

  /** Starts the thread; a file that can't be loaded is a failure like any later one. */
  constructor(entry: URL, options: WorkerClientOptions<Notices>) {
    this.#options = options;
    this.#worker = takeWorker(entry, options.name);
    running.add(this);
    this.#worker.once('exit', () => running.delete(this));
    this.#worker.on('message', (message: ToMain) => this.#onMessage(message));
    this.#worker.on('messageerror', (error) => this.#onMessageError(error));
    // Node's copy of the error has lost its class; ours, posted before it, may still be under way.
    this.#worker.on('error', (error) => {
      this.#fatal ??= error;
    });
    this.#worker.on('exit', (code) => this.#onExit(code));
  }

  /**
   * Resolves with what the handler returns, rejects with what it throws, of the same class if that
   * is one of ours. Rejects with COLO_E_WORKER when the thread ends first, or has ended.
   */
  call<Name extends NameOf<Calls>>(
    name: Name,
    ...args: ArgumentsOf<Calls, Name>
  ): Promise<ResultOf<Calls, Name>> {
    if (this.#over !== undefined) return Promise.reject(this.#over);
    const id = this.#nextId;
    this.#nextId += 1;
    return new Promise((resolve, reject) => {
      // Throws, and thereby rejects, if an argument can't be cloned.
      this.#post({ kind: 'invoke', id, name, args });
      this.#pending.set(id, { resolve, reject });
    });
  }

  /** Runs a handler for which nobody waits. Does nothing once the thread has ended. */
  notify<Name extends NameOf<Calls>>(name: Name, ...args: ArgumentsOf<Calls, Name>): void {
    if (this.#over === undefined) this.#post({ kind: 'invoke', name, args });
  }

  /**
   * Ends the thread, in the middle of whatever it does; what must be finished first is a call.
   * Idempotent. Resolves when the thread is gone and the descriptors of its sockets are closed.
   */
  terminate(): Promise<void> {
    this.#end(new ColoError('COLO_E_WORKER', `The thread ${this.#options.name} was terminated`));
    this.#termination ??= endWorker(this.#worker);
    return this.#termination;
  }

  /**
   * The same at once, of a thread that does not answer and must not come back to life. If it is
   * being called by what it watches, the process ends as well: see src/linux/poll.ts.
   */
  kill(): void {
    this.#end(new ColoError('COLO_E_WORKER', `The thread ${this.#options.name} was killed`));
    this.#termination ??= this.#worker.terminate().then(() => undefined);
  }

  #post(message: ToWorker): void {
    this.#worker.postMessage(message);
  }

  #onMessage(message: ToMain): void {
    if (this.#over !== undefined) return;
    switch (message.kind) {
      case 'invoke':
        this.#onNotice(message.name, message.args);
        break;
      case 'result':
        this.#take(message.id).resolve(message.value as never);
        break;
      case 'error':
        this.#take(message.id).reject(unpackError(message.error));
        break;
      case 'log':
        this.#options.log[message.level](message.message, message.fields);
        break;
      case 'ending':
        break;
      case 'fatal':
        this.#fatal = unpackError(message.error);
        break;
      default:
        unreachable(message);
    }
  }

  #onNotice(name: string, args: readonly unknown[]): void {
    const notices = this.#options.notices as Readonly<Record<string, unknown>>;
    const handler = notices[name] as ((...args: readonly unknown[]) => unknown) | undefined;
    assert(handler !== undefined, `No notice has the name ${name}`);
    handler.apply(notices, [...args]);
  }

  #take(id: number): Pending {
    const pending = this.#pending.get(id);
    assert(pending !== undefined, `Call ${id} of thread ${this.#options.name} is answered twice`);
    this.#pending.delete(id);
    return pending;
  }

  #onMessageError(cause: Error): void {
    const text = `A message of the thread ${this.#options.name} can not be read`;
    this.#fatal ??= new ColoError('COLO_E_WORKER', text, { cause });
    void endWorker(this.#worker);
  }

  #onExit(code: number): void {
    if (this.#over !== undefined) return;
    const { name, onFailure } = this.#options;
    const ended = `The thread ${name} has ended`;
    const failure =
      this.#fatal ?? new ColoError('COLO_E_WORKER', `${ended} by itself with code ${code}`);
    this.#end(new ColoError('COLO_E_WORKER', ended, { cause: failure }));
    onFailure(failure);
  }

  #end(over: Error): void {
    if (this.#over !== undefined) return;
    this.#over = over;
    for (const { reject } of this.#pending.values()) reject(over);
    this.#pending.clear();
  }
}
