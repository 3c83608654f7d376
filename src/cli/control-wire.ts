/**
 * The control socket's format: one JSON object a line, in both directions.
 *
 *   {"id":1,"command":"set-period","arguments":{"periodUs":200000}}
 *   {"id":1,"ok":true,"result":{"detail":"The period is 200 ms"}}
 *   {"id":1,"ok":false,"error":{"code":"COLO_E_...","reason":"..."}}
 *
 * A line is UTF-8, at most LINE_BYTES_MAX bytes, and ends in "\n". A request names a command and
 * its arguments; a response has the id of its request, and responses come in the order of requests.
 * What is no request at all breaks the format (`ProtocolError`, the connection is dropped); a
 * request for something that this version does not know is answered with an error.
 */
import { z } from 'zod';
import {
  CAPTURE_BYTES_MAX,
  CAPTURE_BYTES_MIN,
  CAPTURE_DURATION_US_MAX,
  CAPTURE_DURATION_US_MIN,
  type CaptureOptions,
  DISKS_MAX,
  type EventsAnswer,
  type EventsQuery,
  type LastSync,
  MODES,
  type Mode,
  NICS_MAX,
  NODE_PHASES,
  type NodeStatus,
  PERIOD_US_MAX,
  PERIOD_US_MIN,
  quote,
  type VerifiedDisk,
  type VerifyOptions,
} from '../config/index.js';
import { ProtocolError } from '../lib/index.js';
import {
  EVENTS_WAIT_MS_MAX,
  LINE_BYTES_MAX,
  PATH_LENGTH_MAX,
  REASON_LENGTH_MAX,
} from './limits.js';
import {
  figuresSchema,
  MIGRATION_COMMANDS,
  type MigrationCommand,
  migrationSchema,
} from './migration-wire.js';

/** The envelope of a request; what it asks is not looked at yet. */
export interface Request {
  readonly id: number;
  readonly command: string;
  readonly arguments: Record<string, unknown>;
}

/** The answer to the request with the same id. */
export type Response =
  | { readonly id: number; readonly ok: true; readonly result: unknown }
  | {
      readonly id: number;
      readonly ok: false;
      readonly error: { readonly code: string; readonly reason: string };
    };

/** Everything an agent can be asked. */
export type Command =
  | { readonly command: 'status'; readonly arguments: Record<string, never> }
  | { readonly command: 'failover'; readonly arguments: { readonly force: boolean } }
  | { readonly command: 'switchover'; readonly arguments: Record<string, never> }
  | { readonly command: 'detach'; readonly arguments: Record<string, never> }
  | { readonly command: 'attach'; readonly arguments: Record<string, never> }
  | { readonly command: 'stop'; readonly arguments: { readonly peer: boolean } }
  | { readonly command: 'set-period'; readonly arguments: { readonly periodUs: number | 'auto' } }
  | { readonly command: 'set-mode'; readonly arguments: { readonly mode: Mode } }
  | { readonly command: 'capture'; readonly arguments: CaptureOptions }
  | { readonly command: 'checkpoint'; readonly arguments: Record<string, never> }
  | { readonly command: 'verify'; readonly arguments: VerifyOptions }
  | { readonly command: 'events'; readonly arguments: EventsQuery }
  | MigrationCommand;

const requestId = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
const shortText = z.string().max(REASON_LENGTH_MAX);

const requestSchema = z.strictObject({
  id: requestId,
  command: z.string().max(64),
  arguments: z.record(z.string().max(64), z.unknown()),
});

const doneSchema = z.object({ detail: shortText, migration: figuresSchema.optional() });
export type Done = z.infer<typeof doneSchema>;

const responseSchema = z.discriminatedUnion('ok', [
  z.strictObject({ id: requestId, ok: z.literal(true), result: z.unknown() }),
  z.strictObject({
    id: requestId,
    ok: z.literal(false),
    error: z.strictObject({ code: shortText, reason: shortText }),
  }),
]);

/** Without a zero byte, which no path of the kernel has. */
const ABSOLUTE_PATH = /^\/[^\0]*$/;

const integer = (min: number, max: number) => z.number().int().min(min).max(max);
const noArguments = z.strictObject({});
const COMMANDS = {
  status: noArguments,
  failover: z.strictObject({ force: z.boolean() }),
  switchover: noArguments,
  detach: noArguments,
  attach: noArguments,
  stop: z.strictObject({ peer: z.boolean() }),
  'set-period': z.strictObject({
    periodUs: z.union([z.literal('auto'), integer(PERIOD_US_MIN, PERIOD_US_MAX)]),
  }),
  'set-mode': z.strictObject({ mode: z.enum(['checkpoint', 'colo']) }),
  capture: z.strictObject({
    dir: z.string().max(PATH_LENGTH_MAX).regex(ABSOLUTE_PATH),
    durationUs: integer(CAPTURE_DURATION_US_MIN, CAPTURE_DURATION_US_MAX),
    nic: integer(0, NICS_MAX - 1),
    bytesMax: integer(CAPTURE_BYTES_MIN, CAPTURE_BYTES_MAX),
  }),
  checkpoint: noArguments,
  verify: z.strictObject({ disk: z.string().max(64).nullable(), repair: z.boolean() }),
  events: z.strictObject({
    after: integer(0, Number.MAX_SAFE_INTEGER).nullable(),
    waitMs: integer(0, EVENTS_WAIT_MS_MAX),
  }),
  ...MIGRATION_COMMANDS,
} as const satisfies Record<Command['command'], z.ZodType>;

const count = z.number();
const countOrNone = z.number().nullable();
const certificateSchema = z.object({
  names: z.array(z.string()),
  validUntil: z.string(),
  daysLeft: z.number().int(),
});

const lastSyncSchema = z.object({
  durationMs: count,
  ramSentBytes: count,
  ramKeptBytes: count,
}) satisfies z.ZodType<LastSync>;

const statusSchema = z.object({
  vm: z.string(),
  host: z.string(),
  role: z.enum(['primary', 'secondary']),
  phase: z.enum(NODE_PHASES),
  state: z.string(),
  mode: z.enum(MODES),
  peer: z.object({
    address: z.string(),
    state: z.enum(['connected', 'connecting', 'lost', 'none']),
    lastHeardMs: countOrNone,
  }),
  epoch: count,
  committedEpoch: countOrNone,
  periodMs: count,
  checkpoints: z.object({
    total: count,
    byTrigger: z.record(z.string(), z.number()),
    failed: count,
  }),
  pauseMs: z.object({ last: countOrNone, median: countOrNone, p99: countOrNone }),
  dirtyPages: z.object({ last: countOrNone, inPause: countOrNone }),
  bytesSent: count,
  held: z.object({ frames: count, bytes: count }),
  compare: z
    .object({
      running: z.boolean(),
      flows: count,
      confirmedFrames: count,
      divergences: count,
      timeouts: count,
    })
    .nullable(),
  downtimeMs: countOrNone,
  dirtyTracker: z.string(),
  accelerator: z.string(),
  qemuVersion: z.string(),
  sync: z
    .object({
      phase: z.string(),
      doneBytes: count,
      totalBytes: count,
      disks: z.array(
        z.object({
          name: z.string(),
          phase: z.string(),
          candidates: count,
          compared: count,
          differing: count,
          sentBytes: count,
          leftBytes: count,
          remainingS: countOrNone,
        }),
      ),
    })
    .nullable(),
  lastSync: lastSyncSchema.nullable(),
  verify: z
    .object({ disk: z.string(), compared: count, clusters: count, differing: count })
    .nullable(),
  disks: z.array(
    z.object({
      name: z.string(),
      sizeBytes: count,
      bufferedBytes: count,
      overlayBytes: count,
      generation: z.object({ id: z.string(), epoch: count, state: z.string() }).nullable(),
    }),
  ),
  diskMemoryBytes: count,
  uptimeMs: count,
  verified: z.number().int().nonnegative(),
  speech: z
    .object({
      witness: z.string(),
      state: z.string(),
      granted: z.boolean(),
      leaseMs: count,
      token: count,
      peer: z.string(),
      gateway: z.enum(['reachable', 'unreachable']).nullable(),
      trouble: z.string().nullable(),
    })
    .nullable(),
  migration: migrationSchema.nullable(),
  security: z
    .object({
      transport: z.enum(['tls', 'plain']),
      certificate: certificateSchema.nullable(),
      peerCertificate: certificateSchema.nullable(),
    })
    .nullable(),
  lastFailure: z.string().nullable(),
}) satisfies z.ZodType<NodeStatus>;

const verifySchema = z.object({
  disks: z
    .array(
      z.object({
        name: z.string(),
        clusters: count,
        differing: count,
        ranges: z.array(z.object({ offset: count, length: count })),
        notCompared: count,
        repairedBytes: count,
        remaining: count,
      }),
    )
    .max(DISKS_MAX),
});

const phase = z.enum(NODE_PHASES);
const ofEvent = { sequence: count, timeUs: count, role: z.enum(['primary', 'secondary']) };
const event = <K extends string, S extends z.ZodRawShape>(kind: K, shape: S) =>
  z.object({ ...ofEvent, reason: z.string(), kind: z.literal(kind), ...shape });
const eventsSchema = z.object({
  events: z.array(
    z.discriminatedUnion('kind', [
      event('state', { from: phase.nullable(), to: phase }),
      event('failover', {
        continuedFrom: z.enum(['running', 'checkpoint']),
        epoch: count,
        downtimeMs: countOrNone,
      }),
      event('checkpoint-failed', { epoch: count }),
      event('resync', {
        step: z.enum(['begin', 'progress', 'end']),
        doneBytes: count,
        totalBytes: count,
        synced: lastSyncSchema.optional(),
      }),
      event('disk', {}),
      event('witness', { state: z.enum(['lost', 'regained']) }),
      event('peer', { state: z.enum(['alive', 'suspect', 'lost']) }),
      event('guest', { what: z.enum(['reset', 'shutdown', 'panic', 'watchdog']) }),
      event('operator', { command: z.string() }),
      event('lost', { count }),
    ]),
  ),
  next: z.number().int().nonnegative(),
}) satisfies z.ZodType<EventsAnswer>;

/** Splits bytes into lines. A line is bounded while it grows, before it is whole. */
export class LineDecoder {
  readonly #text = new TextDecoder('utf-8', { fatal: true });
  #parts: Buffer[] = [];
  #lengthBytes = 0;

  /** Bytes held of a line that is not whole yet; at most LINE_BYTES_MAX. */
  get heldBytes(): number {
    return this.#lengthBytes;
  }

  /** The lines that `chunk` completed, without their ends. Throws `ProtocolError`. */
  write(chunk: Buffer): string[] {
    const lines: string[] = [];
    let start = 0;
    while (start < chunk.length) {
      const newline = chunk.indexOf(0x0a, start);
      const end = newline === -1 ? chunk.length : newline;
      this.#add(chunk.subarray(start, end));
      if (newline === -1) break;
      lines.push(this.#take());
      start = newline + 1;
    }
    return lines;
  }

  /** The stream is over. Throws `ProtocolError` in the middle of a line. */
  end(): void {
    if (this.#lengthBytes > 0) {
      throw new ProtocolError(`The stream ended ${this.#lengthBytes} bytes into a line`);
    }
  }

  #add(part: Buffer): void {
    this.#lengthBytes += part.length;
    if (this.#lengthBytes > LINE_BYTES_MAX) {
      throw new ProtocolError(`A line exceeds ${LINE_BYTES_MAX} bytes`);
    }
    // Copied: the slice is borrowed, and would keep its whole chunk alive.
    if (part.length > 0) this.#parts.push(Buffer.from(part));
    // A sender of single bytes must not make the list larger than its contents.
    if (this.#parts.length > 256) this.#parts = [Buffer.concat(this.#parts)];
  }

  #take(): string {
    const bytes = Buffer.concat(this.#parts);
    this.#parts = [];
    this.#lengthBytes = 0;
    try {
      return this.#text.decode(bytes);
    } catch (error) {
      throw new ProtocolError('A line is not UTF-8', { cause: error });
    }
  }
}

/** A request's line, with its end. */
export function encodeRequest(id: number, command: Command): string {
  return `${JSON.stringify({ id, ...command })}\n`;
}

/** A response's line, with its end. A reason, which may quote QEMU, is cut to its limit. */
export function encodeResponse(response: Response): string {
  if (response.ok) return `${JSON.stringify(response)}\n`;
  const { code, reason } = response.error;
  const cut =
    reason.length > REASON_LENGTH_MAX ? `${reason.slice(0, REASON_LENGTH_MAX - 3)}...` : reason;
  return `${JSON.stringify({ ...response, error: { code, reason: cut } })}\n`;
}

/** The envelope in a line. Throws `ProtocolError`. */
export function decodeRequest(line: string): Request {
  return decode(line, requestSchema, 'request');
}

/** The response in a line. Throws `ProtocolError`. */
export function decodeResponse(line: string): Response {
  return decode(line, responseSchema, 'response');
}

/** What a request asks, or why this version can't be asked that. */
export function decodeCommand(
  request: Request,
): { ok: true; command: Command } | { ok: false; code: string; reason: string } {
  if (!Object.hasOwn(COMMANDS, request.command)) {
    const known = Object.keys(COMMANDS).join(', ');
    const reason = `Found the command ${quote(request.command)}, expected one of ${known}`;
    return { ok: false, code: 'COLO_E_UNKNOWN_COMMAND', reason };
  }
  const name = request.command as Command['command'];
  const parsed = COMMANDS[name].safeParse(request.arguments);
  if (!parsed.success) {
    const reason = `The arguments of ${name} are wrong: ${describeIssue(parsed.error)}`;
    return { ok: false, code: 'COLO_E_USAGE', reason };
  }
  return { ok: true, command: { command: name, arguments: parsed.data } as Command };
}

/** The result of `status`. Throws `ProtocolError`. */
export function decodeStatus(result: unknown): NodeStatus {
  return check(result, statusSchema, 'status');
}

/** The result of `verify`. Throws `ProtocolError`. */
export function decodeVerified(result: unknown): VerifiedDisk[] {
  return check(result, verifySchema, 'verification').disks;
}

/** The result of `events`. Throws `ProtocolError`. */
export function decodeEvents(result: unknown): EventsAnswer {
  return check(result, eventsSchema, 'list of events');
}

/** The result of every other command. Throws `ProtocolError`. */
export function decodeDone(result: unknown): Done {
  return check(result, doneSchema, 'result');
}

function decode<T>(line: string, schema: z.ZodType<T>, what: string): T {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new ProtocolError(`The ${what} is not JSON`, { cause: error });
  }
  return check(value, schema, what);
}

function check<T>(value: unknown, schema: z.ZodType<T>, what: string): T {
  const parsed = schema.safeParse(value);
  if (!parsed.success)
    throw new ProtocolError(`The ${what} is wrong: ${describeIssue(parsed.error)}`);
  return parsed.data;
}

/** The first thing that is wrong, bounded: it may quote the sender. */
function describeIssue(error: z.ZodError): string {
  const issue = error.issues[0];
  if (issue === undefined) return 'no reason given';
  const path = issue.path.length === 0 ? '' : `${issue.path.map(String).join('.')}: `;
  return JSON.stringify(`${path}${issue.message}`.slice(0, 200)).slice(1, -1);
}
