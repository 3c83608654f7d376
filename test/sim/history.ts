/**
 * What happened to the guest, as a tree: each thing a guest does gets a number and names the one
 * before it. A guest keeps its newest numbers in its RAM, so a restored state knows its own past,
 * and "state S implies output O" is "O's number is on the path from S to the root".
 *
 * The life of one guest is a chain of numbers that nobody else has. What it says in a flow is
 * another: there, two guests that do the same after the same past have the same number, and
 * numbers that differ are words that differ.
 */

/** Labels that one event's successors may have; more than any client asks. */
const LABELS_MAX = 2 ** 20;

export class History {
  /** parents[event]; event 0 is the guest's boot. */
  readonly #parents: number[] = [0];
  readonly #children = new Map<number, number>();

  get newest(): number {
    return this.#parents.length - 1;
  }

  /** Something that only this guest has done. */
  append(parent: number): number {
    this.#parents.push(parent);
    return this.#parents.length - 1;
  }

  /** What any guest does that has this past and does what `label` says. */
  child(parent: number, label: number): number {
    const key = parent * LABELS_MAX + label;
    const known = this.#children.get(key);
    if (known !== undefined) return known;
    const event = this.append(parent);
    this.#children.set(key, event);
    return event;
  }

  /** Whether a guest whose newest event is `head` has done `event`. Cost: events in between. */
  implies(head: number, event: number): boolean {
    let at = head;
    while (at > event) at = this.#parents[at] as number;
    return at === event;
  }

  /** All that a guest with this newest event has done. */
  past(head: number): Set<number> {
    const past = new Set<number>([0]);
    for (let at = head; at > 0; at = this.#parents[at] as number) past.add(at);
    return past;
  }
}
