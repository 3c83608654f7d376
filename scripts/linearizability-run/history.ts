/** The history of a run: one line of JSON for each operation, as worker.ts writes it. */
import { checkRegister, type Operation, type Verdict } from './linearizable.js';

export interface Recorded extends Operation {
  readonly key: string;
}

export interface Judged {
  readonly operations: number;
  /** Without an answer. */
  readonly unanswered: number;
  readonly registers: number;
  readonly bad: readonly { readonly key: string; readonly verdict: Verdict }[];
}

export function parseHistory(text: string): Recorded[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Recorded);
}

/** Each register by itself. */
export function judgeHistory(history: readonly Recorded[]): Judged {
  const byKey = new Map<string, Recorded[]>();
  for (const operation of history) {
    const operations = byKey.get(operation.key);
    if (operations === undefined) byKey.set(operation.key, [operation]);
    else operations.push(operation);
  }
  const verdicts = [...byKey].map(([key, operations]) => ({
    key,
    verdict: checkRegister(operations),
  }));
  return {
    operations: history.length,
    unanswered: history.filter(({ answeredUs }) => answeredUs === undefined).length,
    registers: byKey.size,
    bad: verdicts.filter(({ verdict }) => verdict.kind !== 'linearizable'),
  };
}
