/**
 * What happened to the guest, as a tree: each thing a guest does gets a number and names the one
 * before it. A guest keeps its newest number in its RAM, so a restored state knows its own past,
 * and "state S implies output O" is "O's number is on the path from S to the root".
 */

export class History {
  /** parents[event]; event 0 is the guest's boot. */
  readonly #parents: number[] = [0];

  append(parent: number): number {
    this.#parents.push(parent);
    return this.#parents.length - 1;
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
