/** A worker thread for the tests of WorkerClient: each handler is one behaviour. */
import { closeSync, readFileSync } from 'node:fs';
import { assert, OperatorError, ProtocolError } from '../../../src/lib/index.js';
import { Poll, socketPair } from '../../../src/linux/index.js';
import { attachLink, type DetachedLink, serveWorker } from '../../../src/transport/index.js';

export interface RpcCalls {
  add(left: number, right: number): number;
  /** Resolves after `release`. */
  held(): Promise<string>;
  release(): void;
  fail(kind: 'operator' | 'protocol' | 'system' | 'text'): Promise<never>;
  /** Its result can't be cloned. */
  unclonable(): unknown;
  /** Notifies of `from` to `to`, then answers. */
  count(from: number, to: number): void;
  remember(value: number): void;
  remembered(): number[];
  log(): void;
  breakInvariant(): void;
  rejectUnnoticed(): void;
  exit(): void;
  spin(): void;
  /** Answers when it has been called back by a descriptor that is always ready. */
  watchReady(): Promise<void>;
  /** Attaches the link, then breaks an invariant when the first frame comes. */
  holdLink(detached: DetachedLink): void;
}

export interface RpcNotices {
  number(value: number): void;
}

serveWorker<RpcCalls, RpcNotices>((main) => {
  let release = (): void => {};
  const released = new Promise<string>((resolve) => {
    release = () => resolve('released');
  });
  const values: number[] = [];
  return {
    add: (left, right) => left + right,
    held: () => released,
    release: () => release(),
    async fail(kind) {
      if (kind === 'operator') {
        throw new OperatorError('COLO_E_TEST', 'Not so', { cause: new ProtocolError('Why') });
      }
      if (kind === 'protocol') throw new ProtocolError('A byte is wrong');
      if (kind === 'text') throw 'only a text';
      return readFileSync('/proc/no-such-file') as never;
    },
    unclonable: () => () => 1,
    count(from, to) {
      for (let value = from; value <= to; value += 1) main.notify('number', value);
    },
    remember(value) {
      values.push(value);
    },
    remembered: () => values,
    log() {
      main.log.debug('One');
      main.log.info('Two', { count: 2, big: 3n });
      main.log.warn('Three', { reason: new ProtocolError('why', { cause: new Error('how') }) });
      main.log.error('Four', { odd: () => 1, inside: { also: () => 1 }, bytes: [1, 2] });
    },
    breakInvariant: () => assert(false, 'One is two'),
    rejectUnnoticed() {
      void Promise.reject(new ProtocolError('Nobody awaits this'));
    },
    exit: () => process.exit(3),
    spin() {
      for (;;);
    },
    async watchReady() {
      const [near, far] = socketPair();
      closeSync(far);
      await new Promise<void>((resolve) => {
        new Poll(near, () => resolve()).watch({ readable: true, writable: true });
      });
    },
    holdLink(detached) {
      const link = attachLink(detached, { log: main.log });
      link.onFrame(() => assert(false, 'A frame came'));
    },
  };
});
