/**
 * Whether a history of one register is linearizable: each operation seems to happen at one moment
 * between its call and its answer.
 *
 * In: operations with the times of call and answer, on one clock. An operation without an answer
 * may have happened at any time after its call, or never. Out: a verdict.
 *
 * The search is that of Wing and Gong with Lowe's memory (J. Wing, C. Gong, "Testing and Verifying
 * Concurrent Objects", 1993; G. Lowe, "Testing for Linearizability", 2017): calls and answers as one
 * list in the order of time; the next to happen is one of the calls before the first answer; it is
 * taken off the list with its answer, and put back when that leads nowhere. What is left of the
 * list and the register's value are a state, and no state is tried twice. Registers are independent,
 * so that a history of many is one search for each.
 */

/** The value that nobody has written yet is null; every value is written once at most. */
export interface Operation {
  readonly kind: 'read' | 'write' | 'swap';
  /** What it writes; of a read null. */
  readonly writes: string | null;
  /** What it has read; undefined for a write, and for what was not answered. */
  readonly reads?: string | null | undefined;
  readonly calledUs: number;
  /** Undefined: nobody knows whether it has happened. */
  readonly answeredUs?: number | undefined;
}

export type Verdict =
  | { readonly kind: 'linearizable' }
  /** `stuck`: whatever came before it, this one's answer can't be explained. */
  | { readonly kind: 'violation'; readonly stuck: Operation }
  /** Too many states were tried. */
  | { readonly kind: 'unknown' };

/** More than any history of a register needs whose clients wait for their answers. */
const STATES_MAX = 5_000_000;

/** A call or an answer in the list. */
interface Entry {
  readonly index: number;
  readonly operation: Operation;
  readonly isCall: boolean;
  /** Of a call that was answered. */
  answer: Entry | undefined;
  before: Entry | undefined;
  after: Entry | undefined;
}

interface Taken {
  readonly entry: Entry;
  readonly value: string | null;
}

export function checkRegister(operations: readonly Operation[]): Verdict {
  const head = listOf(operations);
  const tried = new Set<string>();
  const path: Taken[] = [];
  let value: string | null = null;
  let stuck: Entry | undefined;
  let entry = head.after;
  for (;;) {
    // What is left has no answers: it may have never happened.
    if (entry === undefined) return { kind: 'linearizable' };
    if (entry.isCall) {
      const next = happen(entry.operation, value);
      if (next !== undefined) {
        takeOff(entry);
        const state = stateOf(head, next.value);
        if (!tried.has(state)) {
          if (tried.size >= STATES_MAX) return { kind: 'unknown' };
          tried.add(state);
          path.push({ entry, value });
          value = next.value;
          entry = head.after;
          continue;
        }
        putBack(entry);
      }
      entry = entry.after;
      continue;
    }
    if (stuck === undefined || entry.index > stuck.index) stuck = entry;
    const last = path.pop();
    if (last === undefined) return { kind: 'violation', stuck: stuck.operation };
    value = last.value;
    putBack(last.entry);
    entry = last.entry.after;
  }
}

/** The register after it, or undefined if it could not have answered what it did. */
function happen(
  { kind, writes, reads }: Operation,
  value: string | null,
): { readonly value: string | null } | undefined {
  if (reads !== undefined && reads !== value) return undefined;
  return { value: kind === 'read' ? value : writes };
}

/** Ordered by time; at the same time calls come first, so that the two are concurrent. */
function listOf(operations: readonly Operation[]): Entry {
  const seen = new Set(operations.map(({ reads }) => reads));
  const timed: { atUs: number; isCall: boolean; operation: Operation }[] = [];
  for (const operation of operations) {
    const { kind, writes, calledUs, answeredUs } = operation;
    if (answeredUs === undefined) {
      // One that nobody has seen the effect of is as good as one that never happened.
      if (kind === 'read' || !seen.has(writes)) continue;
    } else timed.push({ atUs: answeredUs, isCall: false, operation });
    timed.push({ atUs: calledUs, isCall: true, operation });
  }
  timed.sort((a, b) => a.atUs - b.atUs || Number(b.isCall) - Number(a.isCall));
  const calls = new Map<Operation, Entry>();
  const none = { answer: undefined, before: undefined, after: undefined };
  const nobody: Operation = { kind: 'read', writes: null, calledUs: 0 };
  const head: Entry = { ...none, index: -1, operation: nobody, isCall: true };
  let last = head;
  for (const [index, { isCall, operation }] of timed.entries()) {
    const entry: Entry = { ...none, index, operation, isCall, before: last };
    if (isCall) calls.set(operation, entry);
    else (calls.get(operation) as Entry).answer = entry;
    last.after = entry;
    last = entry;
  }
  return head;
}

function takeOff(call: Entry): void {
  unlink(call);
  if (call.answer !== undefined) unlink(call.answer);
}

/** In the opposite order. */
function putBack(call: Entry): void {
  if (call.answer !== undefined) link(call.answer);
  link(call);
}

function unlink({ before, after }: Entry): void {
  if (before !== undefined) before.after = after;
  if (after !== undefined) after.before = before;
}

function link(entry: Entry): void {
  if (entry.before !== undefined) entry.before.after = entry;
  if (entry.after !== undefined) entry.after.before = entry;
}

/**
 * What is left: all from the first answer on, for what is called after it can't have happened yet,
 * and the calls before it.
 */
function stateOf(head: Entry, value: string | null): string {
  const words: string[] = [];
  for (let entry = head.after; entry !== undefined; entry = entry.after) {
    words.push(String(entry.index));
    if (!entry.isCall) break;
  }
  return `${words.join(' ')}=${value}`;
}
