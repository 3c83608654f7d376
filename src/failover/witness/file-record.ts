/**
 * The register of witness.ts in a shared folder, as numbered records that are never changed:
 *
 *     VM.000000000017.json   what holds from here on, until record 18
 *
 * Who wants anything writes the next record, and the file system lets only one make a file of that
 * name (link(2), atomic on NFS too). So a record is read, judged, and followed by one that is true
 * only if nothing came in between. That the newest record seen is not the newest there is, because
 * a client of NFS trusts its cache, is no harm: the next number is taken then.
 *
 * Nobody compares two hosts' clocks: a grant has expired once its record has been the newest for
 * its whole time to live *on the clock of the one who looks*, from when it was first seen.
 */
import { z } from 'zod';
import { CLOCK_DRIFT_PART, LEASE_MARGIN_US } from '../limits.js';
import type { WitnessIdentity, WitnessRequest } from './witness.js';

const integer = z.int().min(0);
const text = z.string().max(100);

const recordSchema = z.object({
  version: z.literal(1),
  vm: text,
  number: integer,
  state: z.enum(['held', 'released']),
  host: text,
  role: text,
  instance: text,
  ttlUs: integer,
  aloneToken: integer,
  aloneHost: text,
  /** Of the writing: tells one's own file from another's of the same name. */
  nonce: text,
});

export type FileRecord = z.infer<typeof recordSchema>;

/** The newest record, and since when this process has seen it. */
export interface Observation {
  readonly record: FileRecord;
  readonly sinceUs: number;
}

export type FileVerdict =
  | { readonly kind: 'write'; readonly record: FileRecord }
  | { readonly kind: 'held' | 'stale'; readonly holder: string };

const DIGITS = 12;

export function recordName(vm: string, number: number): string {
  return `${vm}.${String(number).padStart(DIGITS, '0')}.json`;
}

/** The number of a record of this VM; undefined for any other name. */
export function recordNumber(vm: string, name: string): number | undefined {
  const digits = name.slice(vm.length + 1, vm.length + 1 + DIGITS);
  return /^\d+$/.test(digits) && name === recordName(vm, Number(digits))
    ? Number(digits)
    : undefined;
}

export function encodeRecord(record: FileRecord): string {
  return `${JSON.stringify(record)}\n`;
}

/** Undefined for anything else than record `number` of this VM. */
export function decodeRecord(bytes: string, vm: string, number: number): FileRecord | undefined {
  let json: unknown;
  try {
    json = JSON.parse(bytes);
  } catch {
    return undefined;
  }
  const { data } = recordSchema.safeParse(json);
  return data !== undefined && data.vm === vm && data.number === number ? data : undefined;
}

/** What a request comes to, given what is seen at `nowUs`. */
export function judge(
  seen: Observation | undefined,
  asked: { who: WitnessIdentity; request: WitnessRequest; ttlUs: number; nonce: string },
  nowUs: number,
): FileVerdict {
  const { who, request, ttlUs, nonce } = asked;
  const before = seen?.record;
  if (seen !== undefined && before !== undefined) {
    if (before.aloneToken > request.knownToken && before.aloneHost !== who.host) {
      return { kind: 'stale', holder: before.aloneHost };
    }
    const expiresUs = seen.sinceUs + before.ttlUs * (1 + CLOCK_DRIFT_PART) + LEASE_MARGIN_US;
    const isHeld = before.state === 'held' && before.instance !== who.instance;
    if (isHeld && nowUs < expiresUs) return { kind: 'held', holder: before.host };
  }
  const number = (before?.number ?? 0) + 1;
  const alone = request.purpose === 'alone';
  return {
    kind: 'write',
    record: {
      version: 1,
      vm: who.vm,
      number,
      state: 'held',
      host: who.host,
      role: who.role,
      instance: who.instance,
      ttlUs,
      aloneToken: alone ? number : (before?.aloneToken ?? 0),
      aloneHost: alone ? who.host : (before?.aloneHost ?? ''),
      nonce,
    },
  };
}

/** The record that gives back what this process holds; undefined if it holds nothing. */
export function releasing(
  before: FileRecord | undefined,
  who: WitnessIdentity,
  nonce: string,
): FileRecord | undefined {
  if (before?.state !== 'held' || before.instance !== who.instance) return undefined;
  return { ...before, number: before.number + 1, state: 'released', nonce };
}
