/**
 * Keeps the order of overlapping requests in flight: each entry waits for the earlier entries that
 * it overlaps and conflicts with (one of the two is exclusive), and for nothing else.
 *
 * In: `enter` and `leave`; out: which entries became free. First come, first served, so nobody
 * starves. A linear scan: there are at most a few hundred entries, mostly a dozen.
 */

/** One request in flight. `blockers` counts what it still waits for; 0 means it may run. */
export interface RangeTicket {
  readonly start: number;
  readonly end: number;
  readonly exclusive: boolean;
  blockers: number;
  /** For the shell: what to do when `blockers` falls to 0. */
  resume: (() => void) | undefined;
}

export class RangeQueue {
  /** In the order of arrival. */
  readonly #tickets: RangeTicket[] = [];

  get size(): number {
    return this.#tickets.length;
  }

  enter(offset: number, length: number, exclusive: boolean): RangeTicket {
    const end = offset + length;
    let blockers = 0;
    for (const other of this.#tickets) {
      if (offset < other.end && other.start < end && (exclusive || other.exclusive)) blockers += 1;
    }
    const ticket = { start: offset, end, exclusive, blockers, resume: undefined };
    this.#tickets.push(ticket);
    return ticket;
  }

  /** Takes `ticket` out and returns those that may run now, in the order of arrival. */
  leave(ticket: RangeTicket): RangeTicket[] {
    const at = this.#tickets.indexOf(ticket);
    if (at < 0) return [];
    this.#tickets.splice(at, 1);
    const free: RangeTicket[] = [];
    for (let i = at; i < this.#tickets.length; i++) {
      const other = this.#tickets[i] as RangeTicket;
      const overlaps = ticket.start < other.end && other.start < ticket.end;
      if (!overlaps || !(ticket.exclusive || other.exclusive)) continue;
      other.blockers -= 1;
      if (other.blockers === 0) free.push(other);
    }
    return free;
  }
}
