/**
 * Makes the guest open connections to this client at random moments, and answers the numbered
 * dialogue (dialogue.ts) that the guest holds on each. Both ends check: the guest tells its own
 * count of what was wrong at the end, which covers the connections that clients opened as well.
 */
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { describeError } from '../../src/lib/index.js';
import type { DialledReport, EventSink, GuestTotals, LoadClient } from './client.js';
import { nowUs } from './clock.js';
import { type ConnectionRecord, Connections } from './connections.js';
import { ControlConnection } from './control-connection.js';
import { Answerer } from './dialogue.js';

/** How often it is looked who waits for too long. */
const SWEEPS_PER_DEADLINE = 20;
const RECONNECT_AFTER_MS = 100;
/** The guest's own choice of a source port is random, so half of the dials name one. */
const SOURCE_PORTS = { first: 20_000, count: 10_000 };

export interface DialledOptions {
  /** The guest's addresses, used in turn; it dials the address that it is reached from. */
  readonly hosts: readonly string[];
  readonly controlPort: number;
  /** Mean time from one dial to the next. */
  readonly openEveryMs: number;
  /** With so many open, each new connection ends the oldest. */
  readonly openMax: number;
  /** A connection that is silent, or not there, for so long is dead. */
  readonly deadlineMs: number;
}

interface Talk {
  readonly socket: Socket;
  readonly answerer: Answerer;
  readonly acceptedUs: number;
  /** Known from the first line on. */
  record: ConnectionRecord | undefined;
  /** The last sign of life. */
  heardUs: number;
}

export class DialledClient implements LoadClient<DialledReport> {
  readonly #options: DialledOptions;
  readonly #onEvent: EventSink;
  readonly #connections = new Connections();
  readonly #server: Server;
  readonly #controls: (ControlConnection | undefined)[] = [];
  readonly #dialling = new Map<number, ConnectionRecord>();
  readonly #talks = new Set<Talk>();
  #before: GuestTotals | undefined;
  #nextId = 1;
  #controlsLost = 0;
  #stopping = false;
  #dialTimer: NodeJS.Timeout | undefined;
  #sweeping: NodeJS.Timeout | undefined;
  #onDone: (() => void) | undefined;
  successes = 0;

  constructor(options: DialledOptions, onEvent: EventSink) {
    this.#options = options;
    this.#onEvent = onEvent;
    this.#server = createServer({ noDelay: true, allowHalfOpen: true }, (socket) =>
      this.#accept(socket),
    );
  }

  start(): void {
    this.#server.listen(0, '::', () => void this.#begin());
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

  /** Ends every connection in order, then asks what the guest saw. */
  async stop(): Promise<DialledReport> {
    this.#stopping = true;
    clearTimeout(this.#dialTimer);
    const done = new Promise<void>((resolve) => {
      this.#onDone = resolve;
    });
    for (const talk of this.#talks) this.#finish(talk);
    if (this.#talks.size + this.#dialling.size > 0) await done;
    clearInterval(this.#sweeping);
    this.#server.close();
    const guest = await this.#guestDifference();
    for (const control of this.#controls) control?.close();
    return {
      ...this.#connections.counts,
      successes: this.successes,
      ...guest,
      controlsLost: this.#controlsLost,
    };
  }

  async #begin(): Promise<void> {
    for (const [i, host] of this.#options.hosts.entries()) await this.#keepControl(i, host);
    this.#before = await this.#askTotals().catch(() => undefined);
    if (!this.#stopping) this.#dialLater();
  }

  /** Opens the control connection to a host; from then on its loss counts, and is repaired. */
  async #keepControl(index: number, host: string): Promise<void> {
    while (!this.#stopping) {
      try {
        this.#controls[index] = await ControlConnection.open({
          host,
          port: this.#options.controlPort,
        });
        return;
      } catch (error) {
        this.#loseControl(host, error);
        await delay(RECONNECT_AFTER_MS);
      }
    }
  }

  #loseControl(host: string, error: unknown): void {
    this.#controlsLost++;
    const reason = `control connection to ${host}: ${describeError(error)}`;
    this.#onEvent({ type: 'lost', client: 'dialled', atUs: nowUs(), reason });
  }

  #dialLater(): void {
    const waitMs = -Math.log(1 - Math.random()) * this.#options.openEveryMs;
    this.#dialTimer = setTimeout(() => {
      void this.#dial();
      this.#dialLater();
    }, waitMs);
  }

  async #dial(): Promise<void> {
    const id = this.#nextId++;
    const { hosts, openMax } = this.#options;
    const index = id % hosts.length;
    const control = this.#controls[index];
    if (control === undefined) return;
    const [oldest] = [...this.#talks].filter(({ socket }) => !socket.writableEnded);
    if (this.#talks.size >= openMax && oldest !== undefined) this.#finish(oldest);
    const record = this.#connections.begin(id, nowUs());
    this.#dialling.set(id, record);
    const { port } = this.#server.address() as AddressInfo;
    const chosen = Math.floor(id / hosts.length) % 2 === 0;
    const sourcePort = chosen ? SOURCE_PORTS.first + (id % SOURCE_PORTS.count) : 0;
    try {
      await control.command(`converse ${id} ${control.localAddress} ${port} ${sourcePort}`);
    } catch (error) {
      // Whether the guest dials is not known: the connection may still come.
      if (control.failure === undefined) {
        this.#endDial(id, describeError(error));
      } else if (this.#controls[index] === control) {
        this.#controls[index] = undefined;
        this.#loseControl(hosts[index] ?? '', error);
        await this.#keepControl(index, hosts[index] ?? '');
      }
    }
  }

  #accept(socket: Socket): void {
    const atUs = nowUs();
    const talk: Talk = {
      socket,
      answerer: new Answerer(),
      acceptedUs: atUs,
      record: undefined,
      heardUs: atUs,
    };
    this.#talks.add(talk);
    socket.on('data', (chunk) => this.#answer(talk, chunk));
    socket.on('end', () => {
      talk.answerer.end();
      if (!socket.writableEnded) this.#end(talk, 'dead', 'The guest closed the connection');
      else if (talk.answerer.wrong > 0) this.#end(talk, 'wrong', 'The connection ended in a line');
      else this.#end(talk, 'closed');
    });
    socket.on('error', (error) => this.#end(talk, 'dead', error.message));
    socket.on('close', () => this.#end(talk, 'dead', 'The connection was closed'));
  }

  #answer(talk: Talk, chunk: Buffer): void {
    const { socket, answerer } = talk;
    const before = answerer.right;
    const echo = answerer.write(chunk);
    talk.heardUs = nowUs();
    this.successes += answerer.right - before;
    if (talk.record === undefined && answerer.id !== undefined) this.#identify(talk, answerer.id);
    if (answerer.wrong > 0) this.#end(talk, 'wrong', 'A line was not the one that had to come');
    else if (!socket.writableEnded) socket.write(echo);
    if (this.#stopping && !socket.writableEnded) this.#finish(talk);
  }

  #identify(talk: Talk, id: number): void {
    const record = this.#dialling.get(id);
    if (record === undefined) {
      this.#end(talk, 'wrong', `Nobody asked for a connection ${id}`);
      return;
    }
    this.#dialling.delete(id);
    talk.record = record;
    this.#connections.establish(record, talk.acceptedUs);
  }

  /** Half-closes; the guest then closes its half. Before its first line we don't know who it is. */
  #finish(talk: Talk): void {
    if (talk.record === undefined || talk.socket.writableEnded) return;
    talk.heardUs = nowUs();
    talk.socket.end();
  }

  #sweep(): void {
    const { deadlineMs } = this.#options;
    const lateUs = nowUs() - deadlineMs * 1000;
    for (const talk of this.#talks) {
      if (talk.heardUs <= lateUs) this.#end(talk, 'dead', `Silent for ${deadlineMs} ms`);
    }
    for (const [id, { startedUs }] of this.#dialling) {
      if (startedUs <= lateUs) this.#endDial(id, `Not there within ${deadlineMs} ms`);
    }
  }

  #endDial(id: number, reason: string): void {
    const record = this.#dialling.get(id);
    if (record === undefined) return;
    this.#dialling.delete(id);
    this.#tellEnd(record, 'dead', reason);
  }

  #end(talk: Talk, fate: 'closed' | 'dead' | 'wrong', reason?: string): void {
    if (!this.#talks.delete(talk)) return;
    talk.socket.destroy();
    // Without a first line it is the dial's record that never becomes a connection.
    const record = talk.record ?? this.#connections.begin(0, talk.acceptedUs);
    this.#tellEnd(record, fate, reason);
  }

  #tellEnd(record: ConnectionRecord, fate: 'closed' | 'dead' | 'wrong', reason?: string): void {
    const atUs = nowUs();
    this.#connections.end(record, { fate, atUs, ...(reason === undefined ? {} : { reason }) });
    if (fate !== 'closed') {
      const text = `connection ${record.id}: ${reason}`;
      this.#onEvent({ type: 'lost', client: 'dialled', atUs, reason: text });
    }
    if (this.#stopping && this.#talks.size + this.#dialling.size === 0) this.#onDone?.();
  }

  /** What the guest counted since the start; undefined if it can't be asked. */
  async #guestDifference(): Promise<{ readonly guest: GuestTotals | undefined }> {
    const before = this.#before;
    const after = await this.#askTotals().catch(() => undefined);
    if (before === undefined || after === undefined) return { guest: undefined };
    return {
      guest: {
        lines: after.lines - before.lines,
        wrong: after.wrong - before.wrong,
        broken: after.broken - before.broken,
        failed: after.failed - before.failed,
      },
    };
  }

  async #askTotals(): Promise<GuestTotals> {
    const control = this.#controls.find((one) => one?.failure === undefined);
    const answer = await control?.command('conversations');
    const figure = (name: string): number => {
      const text = new RegExp(`${name}=(\\d+)`).exec(answer ?? '')?.[1];
      if (text === undefined) throw new Error(`The guest does not tell "${name}"`);
      return Number(text);
    };
    return {
      lines: figure('lines'),
      wrong: figure('wrong'),
      broken: figure('broken'),
      failed: figure('failed'),
    };
  }
}
