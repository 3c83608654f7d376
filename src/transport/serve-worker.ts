/**
 * The worker's side of a thread: it carries out what the main thread calls, and tells it of events.
 *
 * Messages are taken in the order of the calls, each handler is started before the next message is
 * looked at. What a *called* handler throws goes to the caller; what a notified one throws, or what
 * nothing catches, ends the thread, and the main thread hears of it with the error's own class.
 */
import { parentPort } from 'node:worker_threads';
import { assert, describeError, type Logger } from '../lib/index.js';
import { closePolls } from '../linux/index.js';
import { packError } from './error-parcel.js';
import type { ArgumentsOf, Handlers, Invocation, NameOf, ToMain, ToWorker } from './worker-wire.js';

/** The main thread, as a worker sees it. `Notices` are the handlers given to `WorkerClient`. */
export interface MainThread<Notices extends Handlers<Notices>> {
  /** Writes to the main thread's log. */
  readonly log: Logger;
  /** Runs a handler of the main thread, once it gets to it. */
  notify<Name extends NameOf<Notices>>(name: Name, ...args: ArgumentsOf<Notices, Name>): void;
}

/**
 * To be called once, from a worker's entry file, with what makes the handlers. Keeps the thread
 * alive until it is terminated.
 */
export function serveWorker<Calls extends Handlers<Calls>, Notices extends Handlers<Notices>>(
  create: (main: MainThread<Notices>) => Calls,
): void {
  assert(parentPort !== null, 'serveWorker was called outside of a worker');
  const port = parentPort;
  const post = (message: ToMain): void => port.postMessage(message);
  process.on('uncaughtExceptionMonitor', (error) => {
    closePolls();
    post({ kind: 'fatal', error: packError(error) });
  });
  const main: MainThread<Notices> = {
    log: forwardingLog(post),
    notify: (name, ...args) => post({ kind: 'invoke', name, args }),
  };
  const handlers = create(main);
  port.on('message', (message: ToWorker) => {
    if (message.kind === 'invoke') return invoke(handlers, message, post);
    closePolls();
    post({ kind: 'ending' });
  });
}

type Handler = (...args: readonly unknown[]) => unknown;

function invoke(
  handlers: object,
  { id, name, args }: Invocation,
  post: (message: ToMain) => void,
): void {
  const handler = (handlers as Readonly<Record<string, Handler | undefined>>)[name];
  assert(handler !== undefined, `No handler has the name ${name}`);
  const run = (): unknown => handler.apply(handlers, [...args]);
  if (id === undefined) run();
  else void answer(id, run, post);
}

/** Not async up to the handler's first await: the next message must find it started. */
async function answer(
  id: number,
  run: () => unknown,
  post: (message: ToMain) => void,
): Promise<void> {
  try {
    post({ kind: 'result', id, value: await run() });
  } catch (error) {
    // Also when the result can't be cloned.
    post({ kind: 'error', id, error: packError(error) });
  }
}

function forwardingLog(post: (message: ToMain) => void): Logger {
  const line =
    (level: 'debug' | 'info' | 'warn' | 'error') =>
    (message: string, fields?: Record<string, unknown>): void => {
      post({ kind: 'log', level, message, fields: fields && cloneable(fields) });
    };
  return { debug: line('debug'), info: line('info'), warn: line('warn'), error: line('error') };
}

/** A log line is never the reason that a thread dies: what can't be cloned goes as text. */
function cloneable(fields: Record<string, unknown>): Record<string, unknown> {
  const entries = Object.entries(fields).map(([key, value]) => [key, cloneableValue(value)]);
  return Object.fromEntries(entries) as Record<string, unknown>;
}

function cloneableValue(value: unknown): unknown {
  if (value instanceof Error) return describeError(value);
  if (typeof value === 'function' || typeof value === 'symbol') return String(value);
  if (typeof value !== 'object' || value === null) return value;
  try {
    return structuredClone(value);
  } catch {
    return String(value);
  }
}
