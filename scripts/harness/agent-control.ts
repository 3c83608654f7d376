/**
 * What the harness asks a running agent over its control socket: one JSON object a line each way.
 * Unix sockets have paths, not addresses, so no namespace has to be entered. Spoken here and not
 * through the `colo` program, because a process for every poll would take the CPU from the guests.
 */
import { connect } from 'node:net';

const ANSWER_DEADLINE_MS = 5000;
const ANSWER_BYTES_MAX = 1 << 20;

/** The part of the agent's status that the harness uses; times are milliseconds. */
export interface AgentStatus {
  readonly role: 'primary' | 'secondary';
  readonly phase: string;
  readonly state: string;
  readonly mode: string;
  readonly peer: { readonly state: string };
  readonly epoch: number;
  readonly committedEpoch: number | null;
  readonly checkpoints: { readonly total: number; readonly failed: number };
  readonly pauseMs: {
    readonly last: number | null;
    readonly median: number | null;
    readonly p99: number | null;
  };
  readonly dirtyPages: { readonly last: number | null; readonly inPause: number | null };
  readonly downtimeMs: number | null;
  readonly dirtyTracker: string;
  readonly accelerator: string;
  readonly sync: { readonly doneBytes: number; readonly totalBytes: number } | null;
  readonly diskMemoryBytes: number;
  readonly verified: number;
  readonly lastSync: {
    readonly durationMs: number;
    readonly ramSentBytes: number;
    readonly ramKeptBytes: number;
  } | null;
  readonly lastFailure: string | null;
  readonly security: {
    readonly transport: 'tls' | 'plain';
    readonly certificate: { readonly names: readonly string[]; readonly daysLeft: number } | null;
    readonly peerCertificate: { readonly names: readonly string[] } | null;
  } | null;
  /** Null without a witness. */
  readonly speech: { readonly state: string; readonly granted: boolean } | null;
  readonly compare: { readonly running: boolean; readonly confirmedFrames: number } | null;
  readonly migration: {
    readonly state: string;
    /** Of RAM. */
    readonly doneBytes: number;
    readonly totalBytes: number;
    readonly throttlePercent: number;
    readonly downtimeMs: number | null;
    readonly sentBytes: number;
    readonly faults: {
      readonly count: number;
      readonly p50Us: number;
      readonly p99Us: number;
    } | null;
  } | null;
}

export type AgentCommand =
  | { readonly command: 'status'; readonly arguments: Record<string, never> }
  | { readonly command: 'failover'; readonly arguments: { readonly force: boolean } }
  | { readonly command: 'switchover'; readonly arguments: Record<string, never> }
  | { readonly command: 'detach'; readonly arguments: Record<string, never> }
  | { readonly command: 'attach'; readonly arguments: Record<string, never> }
  | { readonly command: 'stop'; readonly arguments: { readonly peer: boolean } }
  | { readonly command: 'set-period'; readonly arguments: { readonly periodUs: number } }
  | { readonly command: 'checkpoint'; readonly arguments: Record<string, never> };

interface Answer {
  readonly ok: boolean;
  readonly result?: unknown;
  readonly error?: { readonly code: string; readonly reason: string };
}

/** The result of a command; rejects when the agent does not answer or refuses. */
export async function callAgent(
  socketPath: string,
  command: AgentCommand,
  deadlineMs = ANSWER_DEADLINE_MS,
): Promise<unknown> {
  const socket = connect(socketPath);
  const late = new Error(`${socketPath}: no answer within ${deadlineMs} ms`);
  const timer = setTimeout(() => socket.destroy(late), deadlineMs);
  try {
    socket.write(`${JSON.stringify({ id: 1, ...command })}\n`);
    let text = '';
    for await (const chunk of socket) {
      text += chunk;
      if (text.length > ANSWER_BYTES_MAX) throw new Error(`${socketPath}: the answer is too long`);
      if (!text.includes('\n')) continue;
      const answer = JSON.parse(text) as Answer;
      if (answer.ok) return answer.result;
      throw new Error(`${command.command}: ${answer.error?.reason ?? 'refused without a reason'}`);
    }
    throw new Error(`${socketPath}: the agent hung up`);
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
}

export async function agentStatus(socketPath: string, deadlineMs?: number): Promise<AgentStatus> {
  const status = { command: 'status', arguments: {} } as const;
  return (await callAgent(socketPath, status, deadlineMs)) as AgentStatus;
}

/**
 * A failover now would lose nothing: the secondary holds a committed checkpoint and is connected.
 */
export function isProtected(status: AgentStatus): boolean {
  return status.role === 'primary' && status.state === 'protected';
}
