import { RangeQueue, type RangeTicket } from './range-queue.js';

/** A range queue to wait on. Requests take their place when they call, not when they resume. */
export class RangeLock {
  readonly #queue = new RangeQueue();

  /** Runs `work` once no conflicting earlier request is left; `exclusive` excludes every overlap. */
  async run<T>(
    range: { offset: number; length: number; exclusive: boolean },
    work: () => Promise<T>,
  ): Promise<T> {
    const ticket = this.#queue.enter(range.offset, range.length, range.exclusive);
    if (ticket.blockers > 0) await waitFor(ticket);
    try {
      return await work();
    } finally {
      for (const free of this.#queue.leave(ticket)) free.resume?.();
    }
  }
}

function waitFor(ticket: RangeTicket): Promise<void> {
  return new Promise((resolve) => {
    ticket.resume = resolve;
  });
}
