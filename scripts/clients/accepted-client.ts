/**
 * Opens connections to the guest at random moments and keeps each open for long, with a numbered
 * dialogue (dialogue.ts) on it at random moments: whenever a fault comes there are connections that
 * are new, quiet, in the middle of a line, or just being opened.
 */
import { connect, type Socket } from 'node:net';
import { Histogram } from '../../src/lib/index.js';
import type { DialogueReport, EventSink, LoadClient } from './client.js';
import { nowUs } from './clock.js';
import { type ConnectionRecord, Connections } from './connections.js';
import { Asker } from './dialogue.js';

/** A turn is one to this many lines at once. */
const TURN_LINES_MAX = 3;
/** Long fillers make lines of several segments. */
const FILLER_BYTES = { usual: 100, long: 3500 };
const LONG_FILLER_SHARE = 0.1;
/** How often it is looked who waits for too long. */
const SWEEPS_PER_DEADLINE = 20;

export interface AcceptedOptions {
  /** The guest's addresses, used in turn. */
  readonly hosts: readonly string[];
  readonly port: number;
  /** Mean time from one opening to the next. */
  readonly openEveryMs: number;
  /** With so many open, each new connection ends the oldest. */
  readonly openMax: number;
  /** Longest time from the last answer of a turn to the next turn. */
  readonly pauseMsMax: number;
  /** A connection that owes something for so long is dead. */
  readonly deadlineMs: number;
}

interface Talk {
  readonly record: ConnectionRecord;
  readonly socket: Socket;
  readonly asker: Asker;
  turn: NodeJS.Timeout | undefined;
  /** Since when something is owed to us: an answer, the connection itself, or its end. */
  owedSinceUs: number | undefined;
  finishing: boolean;
}

export class AcceptedClient implements LoadClient<DialogueReport> {
  readonly #options: AcceptedOptions;
  readonly #onEvent: EventSink;
  readonly #connections = new Connections();
  readonly #talks = new Set<Talk>();
  readonly #times = new Histogram();
  #nextId = 0;
  #opening: NodeJS.Timeout | undefined;
  #sweeping: NodeJS.Timeout | undefined;
  #onDone: (() => void) | undefined;
  successes = 0;

  constructor(options: AcceptedOptions, onEvent: EventSink) {
    this.#options = options;
    this.#onEvent = onEvent;
  }

  start(): void {
    this.#openLater();
    this.#sweeping = setInterval(
      () => this.#sweep(),
      this.#options.deadlineMs / SWEEPS_PER_DEADLINE,
    );
  }

  endWarmUp(): void {}

  /** Connections that are open now and that somebody began to open after `atUs`. */
  openSince(atUs: number): number {
    return this.#connections.openSince(atUs);
  }

  /** Ends every connection in order, so that what its last answers lack is found. */
  async stop(): Promise<DialogueReport> {
    clearTimeout(this.#opening);
    const done = new Promise<void>((resolve) => {
      this.#onDone = resolve;
    });
    for (const talk of this.#talks) this.#finish(talk);
    if (this.#talks.size > 0) await done;
    clearInterval(this.#sweeping);
    return {
      ...this.#connections.counts,
      successes: this.successes,
      medianAnswerUs: this.#times.quantile(0.5),
      slowestAnswerUs: this.#times.max,
    };
  }

  #openLater(): void {
    // Exponential: the next opening is as likely now as at any other moment.
    const waitMs = -Math.log(1 - Math.random()) * this.#options.openEveryMs;
    this.#opening = setTimeout(() => {
      this.#open();
      this.#openLater();
    }, waitMs);
  }

  #open(): void {
    const living = [...this.#talks].filter((talk) => !talk.finishing);
    if (living.length >= this.#options.openMax && living[0] !== undefined) this.#finish(living[0]);
    const id = this.#nextId++;
    const { hosts, port } = this.#options;
    const host = hosts[id % hosts.length] ?? '';
    const atUs = nowUs();
    const talk: Talk = {
      record: this.#connections.begin(id, atUs),
      socket: connect({ host, port, noDelay: true, allowHalfOpen: true }),
      asker: new Asker(id),
      turn: undefined,
      owedSinceUs: atUs,
      finishing: false,
    };
    this.#talks.add(talk);
    this.#listen(talk);
  }

  #listen(talk: Talk): void {
    const { socket, asker } = talk;
    socket.on('connect', () => {
      this.#connections.establish(talk.record, nowUs());
      talk.owedSinceUs = undefined;
      if (talk.finishing) this.#endIfAnswered(talk);
      else this.#turnLater(talk);
    });
    socket.on('data', (chunk) => {
      const right = asker.write(chunk);
      this.successes += right;
      if (right > 0 && talk.owedSinceUs !== undefined) this.#times.add(nowUs() - talk.owedSinceUs);
      if (asker.wrong > 0) {
        this.#end(talk, 'wrong', 'An answer was not what had been said');
        return;
      }
      if (asker.waiting > 0) return;
      talk.owedSinceUs = undefined;
      if (talk.finishing) this.#endIfAnswered(talk);
      else if (talk.turn === undefined) this.#turnLater(talk);
    });
    socket.on('end', () => {
      asker.end();
      if (!socket.writableEnded) this.#end(talk, 'dead', 'The guest closed the connection');
      else if (asker.wrong > 0) this.#end(talk, 'wrong', 'The connection ended within a line');
      else this.#end(talk, 'closed');
    });
    socket.on('error', (error) => this.#end(talk, 'dead', error.message));
    socket.on('close', () => this.#end(talk, 'dead', 'The connection was closed'));
  }

  #turnLater(talk: Talk): void {
    talk.turn = setTimeout(() => {
      talk.turn = undefined;
      const lines = 1 + Math.floor(Math.random() * TURN_LINES_MAX);
      let text = '';
      for (let i = 0; i < lines; i++) text += talk.asker.ask(randomFiller());
      talk.owedSinceUs = nowUs();
      talk.socket.write(text);
    }, Math.random() * this.#options.pauseMsMax);
  }

  #finish(talk: Talk): void {
    talk.finishing = true;
    clearTimeout(talk.turn);
    if (!talk.socket.connecting) this.#endIfAnswered(talk);
  }

  /** Half-closes once all answers are there; the guest then closes its half. */
  #endIfAnswered(talk: Talk): void {
    if (talk.asker.waiting > 0 || talk.socket.writableEnded) return;
    talk.owedSinceUs = nowUs();
    talk.socket.end();
  }

  #sweep(): void {
    const { deadlineMs } = this.#options;
    const lateUs = nowUs() - deadlineMs * 1000;
    for (const talk of this.#talks) {
      if ((talk.owedSinceUs ?? Infinity) > lateUs) continue;
      const what = talk.socket.connecting ? 'Not connected' : 'No answer';
      this.#end(talk, 'dead', `${what} within ${deadlineMs} ms`);
    }
  }

  #end(talk: Talk, fate: 'closed' | 'dead' | 'wrong', reason?: string): void {
    if (!this.#talks.delete(talk)) return;
    clearTimeout(talk.turn);
    const atUs = nowUs();
    this.#connections.end(talk.record, { fate, atUs, ...(reason === undefined ? {} : { reason }) });
    talk.socket.destroy();
    if (fate !== 'closed') {
      const text = `connection ${talk.record.id}: ${reason}`;
      this.#onEvent({ type: 'lost', client: 'accepted', atUs, reason: text });
    }
    if (this.#talks.size === 0) this.#onDone?.();
  }
}

function randomFiller(): string {
  const { usual, long } = FILLER_BYTES;
  const max = Math.random() < LONG_FILLER_SHARE ? long : usual;
  return randomLetters(Math.floor(Math.random() * max));
}

function randomLetters(count: number): string {
  let text = '';
  while (text.length < count) text += Math.random().toString(36).slice(2);
  return text.slice(0, count);
}
