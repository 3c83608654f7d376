/** What an operator sees of a host that a guest is being moved to. */
import type { Configuration, MigrationStatus, NodeStatus } from '../config/index.js';
import { guestFacts, type MigrationRecord, plainStatus, type Speech } from '../guest/index.js';
import { countBytes } from '../lib/index.js';
import type { DestinationCore, HelloSection } from '../migration/index.js';
import type { Hello } from '../replication/index.js';
import type { ArrivingGuest } from './arriving-guest-shell.js';

/** What the source has said of the guest. */
export interface ArrivingHello {
  readonly section: HelloSection;
  readonly json: Hello;
}

export interface DestinationFacts {
  readonly configuration: Configuration;
  readonly core: DestinationCore;
  readonly guest: ArrivingGuest | undefined;
  readonly hello: ArrivingHello | undefined;
  /** The source's address; empty before there was one. */
  readonly peer: string;
  readonly speech: Speech | undefined;
  readonly receivedBytes: number;
  readonly problem: string | null;
  readonly uptimeUs: number;
}

export function destinationStatus(facts: DestinationFacts): NodeStatus {
  const { configuration, uptimeUs, hello, speech } = facts;
  const guest = facts.guest?.guest;
  return {
    ...plainStatus(configuration, {
      ...{ phase: 'receiving', state: 'receiving', uptimeUs },
      ...(guest === undefined ? {} : guestFacts(guest)),
    }),
    role: facts.guest?.mayHaveSpoken === true ? 'primary' : 'secondary',
    epoch: hello?.json.epoch ?? 0,
    speech: speech?.status ?? null,
    migration: migrationStatus(facts),
    lastFailure: facts.problem,
  };
}

function migrationStatus(facts: DestinationFacts): MigrationStatus {
  const { core, guest, hello, peer, receivedBytes, problem } = facts;
  const ram = guest?.guest.emulator.ram.sizeBytes ?? 0;
  const missing = guest?.missing ?? [];
  const left = countBytes(missing);
  const faults = guest?.guest.emulator.missingPages?.figures();
  return {
    direction: 'incoming',
    peer,
    method: hello?.section.choices.mode ?? 'precopy',
    state: core.state.kind,
    round: 0,
    doneBytes: ram - left,
    totalBytes: ram,
    sentBytes: receivedBytes,
    bytesPerSecond: 0,
    remainingMs: null,
    throttlePercent: 0,
    downtimeMs: null,
    faults:
      faults === undefined
        ? null
        : { count: faults.faults, p50Us: faults.p50Us, p99Us: faults.p99Us },
    problem,
  };
}

/** What this host has to say of an earlier migration to it. */
export function recordedHere(record: MigrationRecord | undefined) {
  if (record === undefined) return undefined;
  const { migration, what } = record;
  const isOurs = what === 'taking' || what === 'owns' || what === 'discarded';
  return isOurs ? { migration, what } : undefined;
}
