/**
 * The first message of a session, both ways: JSON inside the control channel's hello frames.
 *
 * The primary says what guest it runs and what an SVM of it needs; the secondary launches QEMU from
 * that, or refuses with a reason that an operator can act on, before any RAM is sent. The machine
 * definition itself is checked by src/emulator, what is said of disk images by src/blockrep; here
 * they are passed through as they are.
 */
import { z } from 'zod';
import { GUEST_PANIC_ACTIONS, MODES } from '../config/index.js';
import { ProtocolError } from '../lib/index.js';

/** Raised whenever a message changes so that an older peer would misread it. */
export const REPLICATION_VERSION = 6;

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

const instance = z.string().regex(/^[0-9a-f]{32}$/);

const policy = z.object({
  mode: z.enum(MODES),
  /** Left out: what is usual for the mode. */
  period: z.union([z.literal('auto'), z.number().int().positive()]).optional(),
  minIntervalUs: z.number().int().positive(),
  compareTimeoutUs: z.number().int().positive(),
  /** A digest of all guest RAM goes with each checkpoint. */
  verify: z.boolean(),
  onGuestPanic: z.enum(GUEST_PANIC_ACTIONS),
});

const ports = z.array(z.number().int().min(1).max(65535)).min(1).max(2);

/** What the hosts' guards need of each other; see src/failover/heartbeat. */
const speechOffer = z.object({
  /** The secret of this session's heartbeats, hexadecimal. */
  key: z.string().regex(/^[0-9a-f]{64}$/),
  /** Tells this session from others in heartbeats. */
  session: z.number().int().nonnegative(),
  /** The newest alone token that the primary knows. */
  token: z.number().int().nonnegative(),
  /** Of UDP, where the primary hears heartbeats: by the replication link, and by a second path. */
  ports,
});

const speechAnswer = z.object({ ports });

const ramDigests = z.object({
  /** Of these digests, hexadecimal: random, and the guest never sees it. */
  salt: z.string().regex(/^[0-9a-f]{32}$/),
});

const helloSchema = z.object({
  version: z.number().int(),
  vm: z.string().max(32),
  host: z.string().max(256),
  /** The epoch that the guest runs now. */
  epoch: z.number().int().nonnegative(),
  definition: z.unknown(),
  /** What the secondary judges its images by: PrimaryImage of each that has two. */
  images: z.unknown(),
  /** Of a guest that moves: SharedProof of each disk of which both hosts have the same image. */
  sharedDisks: z.unknown().optional(),
  qemuVersion: z.string().max(256),
  accelerator: z.enum(['kvm', 'tcg']),
  pageSizeBytes: z.number().int(),
  dirtyTracker: z.string().max(32),
  /** Where the primary itself listens: there the secondary asks whether it is alive. */
  port: z.number().int().min(1).max(65535),
  /** Of the primary's process, hexadecimal: another one there means that this one is gone. */
  instance,
  /** What the secondary goes on with after a failover. */
  policy,
  /** Digests of the files that the guest boots from; the secondary's must be the same. */
  kernelSha256: sha256.nullable(),
  initrdSha256: sha256.nullable(),
  /** Null without a witness. */
  speech: speechOffer.nullable(),
  /** The secondary may say that it has RAM of this guest. Left out: it may not. */
  ramDigests: ramDigests.optional(),
});

const helloReplySchema = z.discriminatedUnion('ok', [
  z.object({
    ok: z.literal(true),
    host: z.string().max(256),
    qemuVersion: z.string().max(256),
    instance,
    speech: speechAnswer.nullable(),
    /** AcceptedImage of each disk that is not read-only. */
    verdicts: z.unknown(),
    /** It has such RAM, and digests of it can be asked for. Left out: it has none. */
    ramDigests: z.boolean().optional(),
  }),
  z.object({
    ok: z.literal(false),
    reason: z.string().max(4096),
    /** It stays so until somebody decides something: there is no use in asking again soon. */
    needsOperator: z.boolean(),
  }),
]);

/** How the pair is to be run; whoever runs the guest says it. Times in microseconds. */
export type Policy = z.infer<typeof policy>;
export type SpeechOffer = z.infer<typeof speechOffer>;
export type SpeechAnswer = z.infer<typeof speechAnswer>;
export type Hello = z.infer<typeof helloSchema>;
export type HelloReply = z.infer<typeof helloReplySchema>;

/** Parses the primary's hello. Throws `ProtocolError` naming the first wrong field. */
export function parseHello(json: string): Hello {
  const value = parseJson(json);
  const version: unknown =
    typeof value === 'object' && value !== null && 'version' in value ? value.version : undefined;
  if (version !== REPLICATION_VERSION) {
    throw new ProtocolError(
      `The peer speaks replication version ${String(version)}, this is ${REPLICATION_VERSION}`,
    );
  }
  return checked(helloSchema.safeParse(value), 'hello');
}

/** Parses the secondary's answer. Throws `ProtocolError` naming the first wrong field. */
export function parseHelloReply(json: string): HelloReply {
  return checked(helloReplySchema.safeParse(parseJson(json)), 'hello reply');
}

function parseJson(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch (error) {
    throw new ProtocolError('The hello is not JSON', { cause: error });
  }
}

function checked<T>(result: z.ZodSafeParseResult<T>, what: string): T {
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new ProtocolError(`The ${what}'s ${issue?.path.join('.') || 'text'}: ${issue?.message}`);
}
