/**
 * The register of witness.ts in etcd: two keys for each VM, and one transaction for everything.
 *
 *   colo/VM/holder   who has the grant; bound to a lease, so that it vanishes when that expires
 *   colo/VM/alone    whose the alone token is; its mod-revision is the token
 *
 * Both hold the identity as JSON, always the same bytes for one process, so that "it is mine" is a
 * comparison of values. Every request has a new lease, which is granted by consensus: etcd's own
 * keep-alive is answered by a leader that may not know yet that it is none.
 *
 * Spoken is the JSON gateway of etcd v3 (etcd docs, v3.4, "gRPC gateway"): bytes are base64, 64-bit
 * numbers are decimal text, zero values are left out.
 */
import { z } from 'zod';
import { ProtocolError } from '../../lib/index.js';
import type { WitnessIdentity, WitnessRequest } from './witness.js';

const int64 = z.string().regex(/^-?\d{1,19}$/);
const header = z.object({ revision: int64 });
const entry = z.object({
  value: z.base64().optional(),
  mod_revision: int64,
});
const range = z.object({ kvs: z.array(entry).max(1).optional() });

const leaseReply = z.object({ ID: int64, TTL: int64 });

interface TransactionReply {
  succeeded?: boolean | undefined;
  responses?: { response_range?: z.infer<typeof range>; response_txn?: TransactionReply }[];
}

const transactionReply: z.ZodType<TransactionReply> = z.object({
  succeeded: z.boolean().optional(),
  get responses() {
    const one = z.object({
      response_range: range.optional(),
      response_txn: transactionReply.optional(),
    });
    return z.array(one).max(4).optional() as never;
  },
});

const topReply = z.object({ header });

const identity = z.object({ host: z.string().max(100), instance: z.string().max(100) });

/** What a transaction came to. */
export type EtcdOutcome =
  | { readonly kind: 'granted'; readonly revision: number }
  | { readonly kind: 'held'; readonly holder: string }
  /** The alone token is newer than known; `token` if it is this host's own all the same. */
  | { readonly kind: 'stale'; readonly holder: string }
  | { readonly kind: 'own'; readonly token: number };

/** The value of both keys. */
export function etcdValue({ host, role, instance }: WitnessIdentity): string {
  return JSON.stringify({ host, role, instance });
}

export function etcdKeys(vm: string): { holder: string; alone: string } {
  return { holder: `colo/${vm}/holder`, alone: `colo/${vm}/alone` };
}

/** Body of /v3/lease/grant; etcd knows whole seconds. */
export function encodeLease(ttlUs: number): object {
  return { TTL: String(Math.ceil(ttlUs / 1e6)) };
}

export function decodeLease(json: unknown): { id: string; ttlUs: number } {
  const reply = check(leaseReply, json);
  const seconds = Number(reply.TTL);
  if (!(seconds > 0 && seconds < 1e6)) throw new ProtocolError(`etcd gave a TTL of ${reply.TTL} s`);
  return { id: reply.ID, ttlUs: seconds * 1e6 };
}

/**
 * Body of /v3/kv/txn: if the alone token is not newer than known, and nobody else holds the grant,
 * take it or renew it.
 */
export function encodeAsk(who: WitnessIdentity, request: WitnessRequest, leaseId: string): object {
  const keys = etcdKeys(who.vm);
  const holder = base64(keys.holder);
  const alone = base64(keys.alone);
  const value = base64(etcdValue(who));
  const puts: object[] = [{ request_put: { key: holder, value, lease: leaseId } }];
  if (request.purpose === 'alone') puts.push({ request_put: { key: alone, value } });
  const newer = (BigInt(request.knownToken) + 1n).toString();
  const renew = {
    compare: [{ result: 'EQUAL', target: 'VALUE', key: holder, value }],
    success: puts,
    failure: [{ request_range: { key: holder } }],
  };
  const acquire = {
    compare: [{ result: 'EQUAL', target: 'CREATE', key: holder, create_revision: '0' }],
    success: puts,
    failure: [{ request_txn: renew }],
  };
  return {
    compare: [{ result: 'LESS', target: 'MOD', key: alone, mod_revision: newer }],
    success: [{ request_txn: acquire }],
    failure: [{ request_range: { key: alone } }],
  };
}

export function decodeAsk(json: unknown, host: string): EtcdOutcome {
  const { header } = check(topReply, json);
  const reply = check(transactionReply, json);
  if (reply.succeeded !== true) {
    const found = reply.responses?.[0]?.response_range?.kvs?.[0];
    const owner = ownerOf(found);
    if (found !== undefined && owner === host) {
      return { kind: 'own', token: revisionOf(found.mod_revision) };
    }
    return { kind: 'stale', holder: owner };
  }
  const acquired = reply.responses?.[0]?.response_txn;
  const renewed = acquired?.responses?.[0]?.response_txn;
  if (acquired?.succeeded === true || renewed?.succeeded === true) {
    return { kind: 'granted', revision: revisionOf(header.revision) };
  }
  if (renewed === undefined) throw new ProtocolError('etcd answered a transaction in half');
  return { kind: 'held', holder: ownerOf(renewed.responses?.[0]?.response_range?.kvs?.[0]) };
}

/**
 * Body of /v3/kv/txn: gives back the grant of this revision, and no later one, for the request may
 * be carried out long after it was given up.
 */
export function encodeRelease(vm: string, revision: number): object {
  const key = base64(etcdKeys(vm).holder);
  return {
    compare: [{ result: 'EQUAL', target: 'MOD', key, mod_revision: String(revision) }],
    success: [{ request_delete_range: { key } }],
  };
}

function ownerOf(found: z.infer<typeof entry> | undefined): string {
  try {
    const text = Buffer.from(found?.value ?? '', 'base64').toString('utf8');
    return identity.parse(JSON.parse(text)).host;
  } catch {
    // Whatever stands there, somebody has written it, and it is not us.
    return 'an unknown holder';
  }
}

function revisionOf(text: string): number {
  const revision = Number(text);
  if (!Number.isSafeInteger(revision) || revision <= 0) {
    throw new ProtocolError(`etcd answered with the revision ${text}`);
  }
  return revision;
}

function check<T>(schema: z.ZodType<T>, json: unknown): T {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  throw new ProtocolError('etcd answered what is not its protocol', { cause: parsed.error });
}

function base64(text: string): string {
  return Buffer.from(text, 'utf8').toString('base64');
}
