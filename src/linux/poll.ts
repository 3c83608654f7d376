/**
 * Watches file descriptors that Node knows nothing of, from a thread's event loop (koffi's libuv
 * poll).
 *
 * The callback comes straight from libuv, and nobody asks whether the thread may still run
 * JavaScript: one that comes while a thread is being terminated ends the whole process ("FATAL
 * ERROR: Error::ThrowAsJavaScriptException napi_throw"). So whoever ends a thread closes all that
 * it watches first: `closePolls`.
 */
import koffi from 'koffi';

export interface PollEvents {
  readonly readable: boolean;
  readonly writable: boolean;
}

/** `status`: libuv's, negative when the descriptor is broken; libuv has stopped watching then. */
export type PollCallback = (status: number, events: PollEvents) => void;

type Handle = ReturnType<typeof koffi.node.poll>;
type KoffiCallback = Parameters<typeof koffi.node.poll>[1];

/** This thread's. Kept here as well: events stop silently once a handle is garbage collected. */
const open = new Set<Poll>();
let ending = false;

export class Poll {
  readonly #fd: number;
  readonly #callback: KoffiCallback;
  #handle: Handle | undefined;
  #closed = false;

  constructor(fd: number, callback: PollCallback) {
    this.#fd = fd;
    // Contrary to koffi's types the first argument is the status.
    this.#callback = callback as unknown as KoffiCallback;
  }

  /** What to watch from now on, in place of what was watched. Nothing happens once it is closed. */
  watch(events: PollEvents): void {
    if (this.#closed || ending) return;
    if (!events.readable && !events.writable) {
      this.#handle?.stop();
    } else if (this.#handle === undefined) {
      this.#handle = koffi.node.poll(this.#fd, { ...events }, this.#callback);
      open.add(this);
    } else {
      this.#handle.start({ ...events }, this.#callback);
    }
  }

  /** Before the descriptor is closed. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    open.delete(this);
    this.#handle?.close();
    this.#handle = undefined;
  }
}

/** Closes all that this thread watches, for good: it is about to end. */
export function closePolls(): void {
  ending = true;
  for (const poll of open) poll.close();
}
