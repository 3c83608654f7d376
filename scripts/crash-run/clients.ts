/** The writers and the reader as children in the client's namespace. */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Child, run } from '../harness/child.js';
import { withDeadline } from '../harness/cleanup.js';
import { GUEST_ADDRESS } from '../harness/lab.js';
import type { PairLab } from '../harness/pair-lab.js';
import type { Contents } from './contents.js';
import type { Ledger, WriterReport } from './ledger.js';
import type { ReadAnswer, ReadRequest } from './reader.js';

/** A guest under TCG answers its first requests slowly. */
const START_DEADLINE_MS = 30_000;
/** Answers that are due may take 10 s each. */
const STOP_DEADLINE_MS = 60_000;

type Message = { readonly type: 'started' } | ({ readonly type: 'report' } & WriterReport);

export class Writers {
  readonly #child: Child;
  readonly #waiting = new Map<Message['type'], (message: Message) => void>();

  private constructor(pair: PairLab, name: string) {
    this.#child = new Child({
      name: 'writers',
      command: [
        ...pair.lab.client.enter,
        ...[process.execPath, join(pair.buildDir, 'scripts/crash-run/writers.js')],
        ...['--target', GUEST_ADDRESS, '--run', name],
      ],
      logPath: join(pair.directory, 'writers.log'),
      onLine: (line) => {
        const message = JSON.parse(line) as Message;
        this.#waiting.get(message.type)?.(message);
      },
    });
  }

  /** `name` tells this run's writes from those of others; resolves when all writers run. */
  static async start(pair: PairLab, name: string): Promise<Writers> {
    const writers = new Writers(pair, name);
    await writers.#expect('started', START_DEADLINE_MS);
    return writers;
  }

  /** `stop` waits for answers that are due, `abandon` knows that nobody answers any more. */
  async end(how: 'stop' | 'abandon'): Promise<WriterReport> {
    const report = this.#expect('report', STOP_DEADLINE_MS);
    this.#child.writeLine(how);
    return report;
  }

  async #expect<T extends Message['type']>(
    type: T,
    deadlineMs: number,
  ): Promise<Extract<Message, { type: T }>> {
    const message = new Promise<Message>((resolve) => this.#waiting.set(type, resolve));
    const ended = this.#child.ended.then((end) => {
      throw new Error(`The writers ended early (${end.signal ?? `exit code ${end.code}`})`);
    });
    const first = withDeadline(Promise.race([message, ended]), deadlineMs, `The writers' ${type}`);
    return (await first) as Extract<Message, { type: T }>;
  }
}

/** Everything of the ledger that the running guest has. */
export async function readGuest(pair: PairLab, ledger: Ledger): Promise<Contents> {
  const [request, answer] = ['request', 'answer'].map((name) => {
    return join(pair.directory, `reader-${name}.json`);
  }) as [string, string];
  const wanted: ReadRequest = { keys: ledger.keys, directories: ledger.directories };
  await writeFile(request, JSON.stringify(wanted));
  await run([
    ...pair.lab.client.enter,
    ...[process.execPath, join(pair.buildDir, 'scripts/crash-run/reader.js')],
    ...['--target', GUEST_ADDRESS, '--request', request, '--answer', answer],
  ]);
  const { sets, files, load } = JSON.parse(await readFile(answer, 'utf8')) as ReadAnswer;
  return { sets: new Map(sets), files: new Map(files), load };
}
