/**
 * Talks QMP over a stream: one write per command, answers matched by id, events handed on. Commands
 * may be sent without waiting for the ones before; QEMU carries them out in order.
 *
 * Any breach of the protocol, a silence beyond the deadline or the end of the stream fails every
 * command under way and all later ones with the same reason: a QEMU that has lost its place is
 * not asked again.
 */
import type { Duplex } from 'node:stream';
import { type Logger, ProtocolError } from '../lib/index.js';
import { QemuError } from './errors.js';
import { QMP_COMMAND_DEADLINE_MS, QMP_LINE_BYTES_MAX, QMP_PENDING_MAX } from './limits.js';
import {
  encodeQmpCommand,
  type JsonObject,
  QmpDecoder,
  type QmpEvent,
  type QmpMessage,
} from './qmp-wire.js';

interface Pending {
  readonly command: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

interface EventWaiter {
  readonly matches: (event: QmpEvent) => boolean;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

export interface QmpClientOptions {
  readonly stream: Duplex;
  readonly log: Logger;
  readonly commandDeadlineMs?: number;
  readonly lineBytesMax?: number;
}

export class QmpClient {
  readonly #stream: Duplex;
  readonly #log: Logger;
  readonly #deadlineMs: number;
  readonly #decoder: QmpDecoder;
  readonly #pending = new Map<number, Pending>();
  readonly #listeners: ((event: QmpEvent) => void)[] = [];
  readonly #waiters = new Set<EventWaiter>();
  readonly #greeting: Promise<string>;
  #greet: { resolve: (version: string) => void; reject: (error: Error) => void } | undefined;
  #nextId = 1;
  #heard = 0;
  #failure: Error | undefined;

  constructor(options: QmpClientOptions) {
    this.#stream = options.stream;
    this.#log = options.log;
    this.#deadlineMs = options.commandDeadlineMs ?? QMP_COMMAND_DEADLINE_MS;
    this.#decoder = new QmpDecoder(options.lineBytesMax ?? QMP_LINE_BYTES_MAX);
    this.#greeting = new Promise((resolve, reject) => {
      this.#greet = { resolve, reject };
    });
    // Someone may fail before anyone has asked for the greeting.
    this.#greeting.catch(() => undefined);
    this.#stream.on('data', (chunk: Buffer) => this.#receive(chunk));
    this.#stream.on('error', (cause) => this.fail(new QemuError('QMP broke', { cause })));
    this.#stream.on('close', () => this.fail(new QemuError('QEMU closed QMP')));
    this.#stream.on('end', () => this.fail(new QemuError('QEMU ended QMP')));
  }

  /** Waits for the greeting and leaves negotiation mode. Resolves to QEMU's version. */
  async start(): Promise<string> {
    const timer = setTimeout(
      () => this.fail(new QemuError(`QEMU did not greet within ${this.#deadlineMs} ms`)),
      this.#deadlineMs,
    );
    try {
      const version = await this.#greeting;
      await this.execute('qmp_capabilities');
      return version;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Commands are under way. */
  get waiting(): boolean {
    return this.#pending.size > 0;
  }

  /** Pieces of anything that came so far. */
  get heard(): number {
    return this.#heard;
  }

  /** Resolves to what the command returns; rejects with QemuError and QEMU's own text. */
  execute(command: string, args: JsonObject = {}): Promise<unknown> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (this.#pending.size >= QMP_PENDING_MAX) {
      return Promise.reject(
        new QemuError(`${command}: ${QMP_PENDING_MAX} commands are under way already`),
      );
    }
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.fail(new QemuError(`QEMU did not answer ${command} within ${this.#deadlineMs} ms`));
      }, this.#deadlineMs);
      this.#pending.set(id, { command, resolve, reject, timer });
      this.#stream.write(encodeQmpCommand(id, command, args));
    });
  }

  onEvent(listener: (event: QmpEvent) => void): void {
    this.#listeners.push(listener);
  }

  /**
   * Sends a command that ends with an event, and resolves when both its answer and the first event
   * that `matches` are there. Rejects when the command does.
   */
  async executeUntil(
    command: string,
    args: JsonObject,
    matches: (event: QmpEvent) => boolean,
  ): Promise<void> {
    let waiter: EventWaiter | undefined;
    const happened = new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.fail(new QemuError(`${command} did not end within ${this.#deadlineMs} ms`));
      }, this.#deadlineMs);
      waiter = { matches, resolve, reject, timer };
      this.#waiters.add(waiter);
    });
    try {
      await Promise.all([this.execute(command, args), happened]);
    } finally {
      if (waiter !== undefined) this.#forget(waiter);
    }
  }

  /** Fails everything under way and to come with `error`. Idempotent. */
  fail(error: Error): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.#greet?.reject(error);
    for (const pending of this.#pending.values()) {
      clearTimeout(pending.timer);
      pending.reject(error);
    }
    this.#pending.clear();
    for (const waiter of this.#waiters) {
      waiter.reject(error);
      this.#forget(waiter);
    }
    this.#stream.destroy();
  }

  #forget(waiter: EventWaiter): void {
    clearTimeout(waiter.timer);
    this.#waiters.delete(waiter);
  }

  #receive(chunk: Buffer): void {
    this.#heard += 1;
    if (this.#failure !== undefined) return;
    try {
      for (const message of this.#decoder.write(chunk)) this.#obey(message);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#log.error('QEMU broke the monitor protocol', { reason: error.message });
      this.fail(error);
    }
  }

  #obey(message: QmpMessage): void {
    switch (message.kind) {
      case 'greeting':
        if (this.#greet === undefined) throw new ProtocolError('QEMU greeted twice');
        this.#greet.resolve(message.qemuVersion);
        this.#greet = undefined;
        return;
      case 'event':
        for (const listener of this.#listeners) listener(message);
        for (const waiter of this.#waiters) {
          if (!waiter.matches(message)) continue;
          waiter.resolve();
          this.#forget(waiter);
        }
        return;
      case 'return':
        this.#take(message.id).resolve(message.value);
        return;
      case 'error': {
        const pending = this.#take(message.id);
        pending.reject(new QemuError(`${pending.command}: ${message.description}`));
      }
    }
  }

  #take(id: number | undefined): Pending {
    const pending = id === undefined ? undefined : this.#pending.get(id);
    if (id === undefined || pending === undefined) {
      throw new ProtocolError(`QEMU answered a command ${id} that is not under way`);
    }
    this.#pending.delete(id);
    clearTimeout(pending.timer);
    return pending;
  }
}
