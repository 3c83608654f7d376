/**
 * Worker threads that wait for their first work: a thread takes some 150 ms to load what it runs,
 * which a guest that is to come need not wait for. One of each entry at most; it keeps no process
 * alive, and one that fails is forgotten: whoever needs it starts another and hears of it there.
 */
import { Worker } from 'node:worker_threads';
import { WORKER_ENDING_MS_MAX } from './limits.js';
import type { ToMain, ToWorker } from './worker-wire.js';

const spares = new Map<string, { readonly worker: Worker; readonly forget: () => void }>();

/** Starts one, at once or after `delayMs`, unless there is one. */
export function prepareWorker(entry: URL, name: string, delayMs = 0): void {
  if (delayMs > 0) {
    setTimeout(() => prepareWorker(entry, name), delayMs).unref();
    return;
  }
  const key = entry.href;
  if (spares.has(key)) return;
  const worker = newWorker(entry, name);
  worker.unref();
  const forget = (): void => {
    spares.delete(key);
  };
  worker.on('error', forget);
  worker.on('exit', forget);
  spares.set(key, { worker, forget });
}

/** Descriptors are numbers that threads hand to each other: Node is not to keep books of them. */
function newWorker(entry: URL, name: string): Worker {
  return new Worker(entry, { name, trackUnmanagedFds: false });
}

/** The one that waits, or a new one. */
export function takeWorker(entry: URL, name: string): Worker {
  const spare = spares.get(entry.href);
  if (spare === undefined) return newWorker(entry, name);
  const { worker, forget } = spare;
  forget();
  worker.off('error', forget);
  worker.off('exit', forget);
  worker.ref();
  return worker;
}

/**
 * Ends a thread of ours in the middle of whatever it does, once it has closed what must not be open
 * then (src/linux/poll.ts). One that is busy, and so watches nothing at the moment, is not waited
 * for. Resolves when it is gone.
 */
export async function endWorker(worker: Worker): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  await new Promise<void>((resolve) => {
    worker.on('message', (message: ToMain) => {
      if (message.kind === 'ending') resolve();
    });
    worker.once('exit', resolve);
    timer = setTimeout(resolve, WORKER_ENDING_MS_MAX);
    worker.postMessage({ kind: 'end' } satisfies ToWorker);
  });
  clearTimeout(timer);
  await worker.terminate();
}

/** Ends those that wait; what they do to be quick later may be under way. */
export async function endSpares(): Promise<void> {
  await Promise.all([...spares.values()].map(({ worker }) => endWorker(worker)));
}
