/** `colo events --follow --json` of a host's agent, as an operator runs it; a line is an event. */
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { nowUs } from '../../scripts/clients/clock.js';
import { Child } from '../../scripts/harness/child.js';
import type { HostName } from '../../scripts/harness/lab.js';
import type { PairLab } from '../../scripts/harness/pair-lab.js';
import { socketPath } from './pair-harness.js';

const EVENT_DEADLINE_MS = 60_000;
const POLL_MS = 20;

/** Of any kind; see src/config/events.ts. */
export interface ReadEvent {
  readonly sequence: number;
  readonly role: string;
  readonly kind: string;
  readonly reason: string;
  readonly [field: string]: unknown;
}

export class EventReader {
  readonly events: ReadEvent[] = [];
  readonly #child: Child;

  constructor(pair: PairLab, host: HostName) {
    this.#child = new Child({
      name: `events of ${host}`,
      command: [
        ...[process.execPath, join(pair.buildDir, 'src/cli/colo.js')],
        ...['events', '--follow', '--json', '--socket', socketPath(pair, host)],
      ],
      logPath: join(pair.directory, `${host}-events.log`),
      onLine: (line) => this.events.push(JSON.parse(line) as ReadEvent),
    });
  }

  /** The first event that fits, waited for; events that were seen already count. */
  async until(what: string, fits: (event: ReadEvent) => boolean): Promise<ReadEvent> {
    const untilUs = nowUs() + EVENT_DEADLINE_MS * 1000;
    for (;;) {
      const found = this.events.find(fits);
      if (found !== undefined) return found;
      if (nowUs() > untilUs) {
        const seen = this.events.map((event) => JSON.stringify(event)).join('\n');
        throw new Error(`No event within ${EVENT_DEADLINE_MS / 1000} s: ${what}, but\n${seen}`);
      }
      await delay(POLL_MS);
    }
  }

  /** Resolves to the exit code when it has ended by itself. */
  async ended(): Promise<number | null> {
    return (await this.#child.ended).code;
  }

  close(): void {
    this.#child.kill('SIGKILL');
  }
}
