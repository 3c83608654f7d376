/**
 * Who says something with the guest's address: every frame with its MAC as the source, at the LAN's
 * end of each host's wire.
 */
import { join } from 'node:path';
import { Child } from './child.js';
import type { Cleanup } from './cleanup.js';
import { GUEST_MAC, type HostName } from './lab.js';
import type { PairLab } from './pair-lab.js';

interface Heard {
  readonly host: HostName;
  readonly atUs: number;
}

/** One host, uninterrupted by the other. */
interface Turn {
  readonly host: HostName;
  readonly fromUs: number;
  untilUs: number;
  frames: number;
}

export class LanSniffer {
  #heard: Heard[] = [];
  readonly #children: Child[] = [];

  constructor(pair: PairLab, cleanup: Cleanup) {
    for (const host of ['hosta', 'hostb'] as const) {
      const child = new Child({
        name: `sniffer of ${host}`,
        command: [
          ...pair.lab.lan.enter,
          ...['tcpdump', '-i', `p-${host}`, '-Q', 'in', '-n', '-q', '-tt', '-l'],
          ...['--immediate-mode', '-s', '64', 'ether', 'src', GUEST_MAC],
        ],
        logPath: join(pair.directory, 'sniffer.log'),
        onLine: (line) => {
          const seconds = Number.parseFloat(line);
          if (!Number.isNaN(seconds)) this.#heard.push({ host, atUs: Math.round(seconds * 1e6) });
        },
      });
      this.#children.push(child);
      cleanup.add(child.name, async () => void (await child.stop()));
    }
  }

  /** Ends it: what the kernel still has is read first. */
  async stop(): Promise<void> {
    for (const child of this.#children) await child.stop();
  }

  /** What was heard so far counts no more. */
  forget(): void {
    this.#heard = [];
  }

  /** Frames of a host between two moments of `Date.now`. */
  count(host: HostName, { fromMs, untilMs }: { fromMs: number; untilMs: number }): number {
    const within = ({ atUs }: Heard): boolean => atUs > fromMs * 1000 && atUs < untilMs * 1000;
    return this.#heard.filter((one) => one.host === host && within(one)).length;
  }

  /** One after the other, each as often as it took the word from the other. */
  speakers(): HostName[] {
    return this.#turns().map(({ host }) => host);
  }

  /** The same in words, with how much each said and after what a silence. */
  story(): string {
    const turns = this.#turns();
    const tell = ({ host, fromUs, frames }: Turn, before: Turn | undefined): string => {
      const after = before && `${Math.round((fromUs - before.untilUs) / 1000)} ms later `;
      return `${after ?? ''}${frames} of ${host}`;
    };
    return turns.map((turn, at) => tell(turn, turns[at - 1])).join(', ');
  }

  #turns(): Turn[] {
    const turns: Turn[] = [];
    for (const { host, atUs } of [...this.#heard].sort((one, other) => one.atUs - other.atUs)) {
      const turn = turns.at(-1);
      if (turn?.host === host) {
        turn.untilUs = atUs;
        turn.frames++;
      } else turns.push({ host, fromUs: atUs, untilUs: atUs, frames: 1 });
    }
    return turns;
  }
}
