/**
 * Who must have the guest after one host of a precopy was killed: docs/protocol/migration.md, "The
 * switchover, and what is lost at each point". In: what was written down and what was seen. Out:
 * each violation in words. Pure.
 */
import type { ClientReports } from '../clients/client.js';
import type { HostName } from '../harness/lab.js';
import type { Kill } from './cells.js';
import { judgeClients } from './judge.js';

export interface KillFacts {
  readonly kill: Kill;
  /** What each host had written down when the victim was dead. */
  readonly sourceRecord: string;
  readonly destinationRecord: string;
  /** What an operator had to do, as `COMMAND at HOST`. */
  readonly decisions: readonly string[];
  /** Who answers for the guest at the end, and where a QEMU is. */
  readonly runningAt: readonly HostName[];
  readonly emulators: readonly HostName[];
  /** The guest has in memory what it had before. */
  readonly isSame: boolean;
  /** Who was heard on the LAN, each as often as it took the word from the other. */
  readonly heard: readonly HostName[];
  /** Undefined where the guest is another one. */
  readonly clients: ClientReports | undefined;
}

/** The shared disk has gone on from what the source has of the guest. */
const RELEASE = 'migrate-release at hosta';
const BOOT = 'failover --force at hosta';

interface Right {
  readonly at: HostName;
  readonly same: boolean;
  readonly allowed: readonly string[];
  readonly heard: readonly string[];
  /** The guest was never away for longer than clients wait. */
  readonly keepsClients: boolean;
}

export function rightAfter({
  kill,
  sourceRecord,
  destinationRecord,
  decisions,
}: Pick<KillFacts, 'kill' | 'sourceRecord' | 'destinationRecord' | 'decisions'>): Right {
  if (kill.side === 'destination') {
    const owned = destinationRecord === 'owns';
    if (owned && decisions.includes(RELEASE)) {
      return {
        ...{ at: 'hosta', same: false, allowed: [RELEASE, BOOT], keepsClients: false },
        heard: ['hosta', 'hosta,hostb,hosta'],
      };
    }
    return {
      // What was killed with its host was the newer one: that is for an operator to decide.
      ...{ at: 'hosta', same: true, allowed: owned ? ['migrate-force at hosta'] : [] },
      heard: owned ? ['hosta', 'hosta,hostb,hosta'] : ['hosta'],
      keepsClients: !owned,
    };
  }
  // Written down before the pause: what the destination has by then may be no guest yet, and is
  // discarded. Then the operator, who sees that it has none, has the source boot its own.
  const mayBeHere = sourceRecord === 'given-up' && destinationRecord !== 'owns';
  if (mayBeHere && decisions.includes(BOOT)) {
    return {
      ...{ at: 'hosta', same: false, allowed: [BOOT] },
      ...{ heard: ['hosta'], keepsClients: false },
    };
  }
  if (sourceRecord === 'given-up') {
    return {
      ...{ at: 'hostb', same: true, allowed: ['migrate-force at hostb'] },
      ...{ heard: ['hosta,hostb'], keepsClients: false },
    };
  }
  // It died with its host, which boots it again.
  return {
    ...{ at: 'hosta', same: false, allowed: ['migrate-cancel at hostb'] },
    ...{ heard: ['hosta'], keepsClients: false },
  };
}

export function judgeKill(facts: KillFacts): string[] {
  const right = rightAfter(facts);
  const problems: string[] = [];
  const { runningAt, emulators, isSame, heard, clients } = facts;
  if (runningAt.join() !== right.at) {
    problems.push(`${runningAt.join(' and ') || 'Nobody'} runs the guest instead of ${right.at}`);
  }
  if (emulators.join() !== right.at) {
    problems.push(`An emulator is left on ${emulators.join(' and ') || 'no host'}`);
  }
  if (isSame !== right.same) {
    problems.push(isSame ? 'The guest is the one that died' : 'The guest is not the one that was');
  }
  const unasked = facts.decisions.filter((decision) => !right.allowed.includes(decision));
  if (unasked.length > 0) problems.push(`An operator was needed: ${unasked.join(', ')}`);
  if (!right.heard.includes(heard.join())) {
    problems.push(`Heard on the LAN: ${heard.join(', ')}`);
  }
  if (right.keepsClients && clients !== undefined) problems.push(...judgeClients(clients));
  return problems;
}
