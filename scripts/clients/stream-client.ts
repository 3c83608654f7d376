/**
 * One long-lived connection that receives numbered lines. Each number must be the one before plus
 * one; the outage is the longest time between two right lines. A connection that ends is counted as
 * lost and replaced, and the numbers of the new one are checked from its first.
 */
import { connect, type Socket } from 'node:net';
import type { EventSink, LoadClient, StreamReport, Target } from './client.js';
import { nowUs } from './clock.js';
import { Continuity } from './continuity.js';
import { SequenceCheck, type SequenceCounts } from './sequence.js';

const RECONNECT_AFTER_MS = 100;

export interface StreamOptions extends Target {
  readonly tellGapAboveUs: number;
}

export class StreamClient implements LoadClient<StreamReport> {
  readonly #options: StreamOptions;
  readonly #onEvent: EventSink;
  readonly #continuity: Continuity;
  #counts: SequenceCounts = { lines: 0, missing: 0, repeats: 0, malformed: 0 };
  #socket: Socket | undefined;
  #reconnect: NodeJS.Timeout | undefined;
  #stopping = false;
  #lost = 0;
  successes = 0;

  constructor(options: StreamOptions, onEvent: EventSink) {
    this.#options = options;
    this.#onEvent = onEvent;
    this.#continuity = new Continuity(options.tellGapAboveUs);
  }

  start(): void {
    this.#continuity.start(nowUs());
    this.#connect();
  }

  endWarmUp(): void {
    this.#continuity.restart(nowUs());
  }

  async stop(): Promise<StreamReport> {
    this.#stopping = true;
    const { longest } = this.#continuity.finish(nowUs());
    clearTimeout(this.#reconnect);
    this.#socket?.destroy();
    return {
      ...this.#counts,
      successes: this.successes,
      longestGap: longest,
      connectionsLost: this.#lost,
    };
  }

  #connect(): void {
    const before = this.#counts;
    const check = new SequenceCheck();
    const socket = connect({ host: this.#options.host, port: this.#options.port, noDelay: true });
    this.#socket = socket;
    let reason = 'The connection was closed';
    socket.on('data', (chunk) => {
      if (this.#stopping) return;
      const good = check.write(chunk);
      this.#counts = add(before, check.counts);
      if (good > 0) this.#success(good);
    });
    socket.on('error', (error) => {
      reason = error.message;
    });
    socket.on('end', () => socket.destroy());
    socket.on('close', () => {
      if (this.#stopping) return;
      this.#lost++;
      this.#onEvent({ type: 'lost', client: 'stream', atUs: nowUs(), reason });
      this.#reconnect = setTimeout(() => this.#connect(), RECONNECT_AFTER_MS);
    });
  }

  #success(lines: number): void {
    this.successes += lines;
    const gap = this.#continuity.success(nowUs());
    if (gap !== undefined) this.#onEvent({ type: 'gap', client: 'stream', gap });
  }
}

function add(a: SequenceCounts, b: SequenceCounts): SequenceCounts {
  return {
    lines: a.lines + b.lines,
    missing: a.missing + b.missing,
    repeats: a.repeats + b.repeats,
    malformed: a.malformed + b.malformed,
  };
}
