/** A node's events: who notices them, and who waits for them. They outlive its roles. */
import type {
  CommandResult,
  EventBody,
  EventsAnswer,
  EventsQuery,
  NodeStatus,
  RoleView,
} from '../config/index.js';
import type { RoleWatch } from '../guest/index.js';
import { EventRing } from './event-ring.js';
import { LOOK_MS } from './limits.js';
import { NodeWatch } from './node-watch.js';

export interface NodeEventsOptions {
  /** Of the role that the node has now. */
  readonly view: () => RoleView;
  /** Dear: it is asked for by the clock, and not at each step. */
  readonly sync: () => NodeStatus['sync'];
  /** Why the witness gave no grant when it was last asked; undefined without one. */
  readonly trouble: () => string | null | undefined;
}

export class NodeEvents implements RoleWatch {
  readonly #options: NodeEventsOptions;
  readonly #ring = new EventRing();
  readonly #watch = new NodeWatch();
  readonly #timer: NodeJS.Timeout;
  #waiting = new Set<() => void>();

  constructor(options: NodeEventsOptions) {
    this.#options = options;
    this.#timer = setInterval(() => this.#look(true), LOOK_MS);
  }

  stepped(): void {
    this.#look(false);
  }

  happened(event: EventBody): void {
    this.#ring.add(event, { timeUs: nowUs(), role: this.#options.view().role });
    for (const wake of this.#waiting) wake();
  }

  /** What an operator changed is an event; what was refused is none. */
  readonly told = (command: string, result: CommandResult): CommandResult => {
    if (result.ok) this.happened({ kind: 'operator', command, reason: result.detail });
    return result;
  };

  async read({ after, waitMs }: EventsQuery): Promise<EventsAnswer> {
    const first = this.#ring.since(after);
    if (first.events.length > 0 || waitMs <= 0) return first;
    await this.#next(waitMs);
    return this.#ring.since(first.next);
  }

  /** Nobody looks any more; who waits has his answer. */
  stop(): void {
    this.#look(false);
    clearInterval(this.#timer);
    for (const wake of this.#waiting) wake();
  }

  #look(isThorough: boolean): void {
    const { view, sync, trouble } = this.#options;
    const seen = { ...view(), trouble: trouble(), sync: isThorough ? sync() : null };
    for (const event of this.#watch.look(seen)) this.happened(event);
  }

  #next(waitMs: number): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(done);
        resolve();
      };
      const timer = setTimeout(done, waitMs);
      this.#waiting.add(done);
    });
  }
}

function nowUs(): number {
  return Date.now() * 1000;
}
