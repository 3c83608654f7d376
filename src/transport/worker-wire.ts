/**
 * What the main thread and a worker of ours post to each other. Both are of one build, so nothing
 * is checked that the types promise; the order of messages is kept both ways.
 */
import type { ErrorParcel } from './error-parcel.js';

/** Functions that may be called from the other thread. Arguments and results are cloned. */
export type Handlers<T> = { readonly [Name in keyof T]: (...args: never[]) => unknown };

/** The names of a set of handlers. */
export type NameOf<T> = keyof T & string;

/** The arguments of one handler. */
export type ArgumentsOf<T extends Handlers<T>, Name extends keyof T> = Parameters<T[Name]>;

/** What a call of one handler resolves with. */
export type ResultOf<T extends Handlers<T>, Name extends keyof T> = Awaited<ReturnType<T[Name]>>;

/** Without `id` nobody waits for an answer. */
export interface Invocation {
  readonly kind: 'invoke';
  readonly id?: number;
  readonly name: string;
  readonly args: readonly unknown[];
}

/** `end`: the thread will be terminated; it closes what must not be open then, and says `ending`. */
export type ToWorker = Invocation | { readonly kind: 'end' };

export type ToMain =
  | Invocation
  | { readonly kind: 'ending' }
  | { readonly kind: 'result'; readonly id: number; readonly value: unknown }
  | { readonly kind: 'error'; readonly id: number; readonly error: ErrorParcel }
  | {
      readonly kind: 'log';
      readonly level: 'debug' | 'info' | 'warn' | 'error';
      readonly message: string;
      readonly fields: Readonly<Record<string, unknown>> | undefined;
    }
  /** Nothing has caught this one; the thread ends. */
  | { readonly kind: 'fatal'; readonly error: ErrorParcel };
