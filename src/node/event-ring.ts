/**
 * The last events of a node, for any number of readers: each asks for what is behind the number
 * that it has seen last. Nothing is kept for a reader, so that one that is slow costs nothing: it
 * is told how many it has lost.
 */
import type { EventBody, EventsAnswer, NodeEvent } from '../config/index.js';
import { EVENT_REASON_LENGTH_MAX, EVENTS_ANSWER_LENGTH_MAX, EVENTS_KEPT_MAX } from './limits.js';

/** What an event carries beside its body. */
export interface EventPlace {
  readonly timeUs: number;
  readonly role: 'primary' | 'secondary';
}

export class EventRing {
  /** The oldest first; sequence numbers without a gap. */
  #events: NodeEvent[] = [];
  #last = 0;

  /** Sequence number of the newest; 0: there is none yet. */
  get last(): number {
    return this.#last;
  }

  add(body: EventBody, place: EventPlace): NodeEvent {
    const reason = shorten(body.reason);
    this.#last += 1;
    const event: NodeEvent = { sequence: this.#last, ...place, ...body, reason };
    this.#events.push(event);
    // Not at each event: a shift of the whole list is for many of them.
    if (this.#events.length >= 2 * EVENTS_KEPT_MAX) this.#events = this.#kept();
    return event;
  }

  /**
   * What is behind `after`, the oldest first, as much as fits one answer. A number that no event
   * has had yet is of an agent that has ended, and means all. Null: all, and none counts as lost.
   */
  since(after: number | null): EventsAnswer {
    const kept = this.#kept();
    const seen = after === null || after > this.#last ? 0 : after;
    const first = kept[0];
    const events: NodeEvent[] = [];
    if (first !== undefined && after !== null && first.sequence > seen + 1) {
      events.push(lost(first.sequence - seen - 1, first));
    }
    let next = seen;
    let length = 0;
    for (const event of kept) {
      if (event.sequence <= seen) continue;
      length += JSON.stringify(event).length;
      if (length > EVENTS_ANSWER_LENGTH_MAX) break;
      events.push(event);
      next = event.sequence;
    }
    return { events, next };
  }

  #kept(): NodeEvent[] {
    return this.#events.slice(-EVENTS_KEPT_MAX);
  }
}

/** In the place of the last event that is gone. */
function lost(count: number, first: NodeEvent): NodeEvent {
  const { sequence, timeUs, role } = first;
  const reason = `lost ${count} events`;
  return { sequence: sequence - 1, timeUs, role, kind: 'lost', count, reason };
}

function shorten(reason: string): string {
  const max = EVENT_REASON_LENGTH_MAX;
  return reason.length <= max ? reason : `${reason.slice(0, max - 3)}...`;
}
