/**
 * What `colo` does, as a function of its arguments and the few things it touches: everything goes
 * to `Surroundings`, so the tests run it whole. With `--json` each outcome, errors too, is one
 * line of JSON on stdout; without, answers go to stdout and errors to stderr.
 */
import type { NodeStatus } from '../config/index.js';
import { ColoError, describeError, OperatorError } from '../lib/index.js';
import { type AgentChoice, type ColoWish, parseColoArguments } from './colo-arguments.js';
import { type Command, decodeDetail, decodeStatus, type Response } from './control-wire.js';
import { AgentUnreachable, EXIT, exitCodeOf } from './exit-codes.js';
import { ANSWER_MS_MAX, DEED_MS_MAX } from './limits.js';
import { formatStatus } from './status-text.js';

/** The world of one run of `colo`. */
export interface Surroundings {
  readonly version: string;
  readonly isTerminal: boolean;
  readonly print: (text: string) => void;
  readonly complain: (text: string) => void;
  readonly call: (path: string, command: Command, timeoutMs: number) => Promise<Response>;
  /** File names in a folder; none when there is no such folder. */
  readonly list: (folder: string) => Promise<string[]>;
  /** Waits for the next look of `--watch`; false ends it. */
  readonly nextLook: () => Promise<boolean>;
}

type Call = Extract<ColoWish, { kind: 'call' }>;

/** Clear from the top left corner on (ECMA-48 CUP, ED). */
const CLEAR_SCREEN = '\x1b[H\x1b[J';

/** Runs `colo` with these arguments; gives the exit code. */
export async function runColo(argv: readonly string[], around: Surroundings): Promise<number> {
  const wish = await parseColoArguments(argv, around.version);
  switch (wish.kind) {
    case 'print':
      around.print(wish.text);
      return EXIT.ok;
    case 'usage':
      report(around, wish.json, { code: 'COLO_E_USAGE', reason: wish.message });
      return EXIT.usage;
    case 'call':
      return wish.watch ? await watch(wish, around) : await callOnce(wish, around);
  }
}

async function callOnce(wish: Call, around: Surroundings, before = ''): Promise<number> {
  try {
    const path = await findSocket(wish.agent, around.list);
    const { command } = wish;
    const quick = command.command === 'status' || command.command === 'set-period';
    const response = await around.call(path, command, quick ? ANSWER_MS_MAX : DEED_MS_MAX);
    if (!response.ok) {
      report(around, wish.json, response.error);
      return EXIT.failed;
    }
    around.print(before + formatResult(wish, response.result));
    return EXIT.ok;
  } catch (error) {
    if (!(error instanceof ColoError)) throw error;
    report(around, wish.json, { code: error.code, reason: describeError(error) });
    return exitCodeOf(error);
  }
}

/** Goes on through failures: a watch is for the moment when the agent comes back. */
async function watch(wish: Call, around: Surroundings): Promise<number> {
  const clear = around.isTerminal && !wish.json ? CLEAR_SCREEN : '';
  let exitCode: number = EXIT.ok;
  do {
    exitCode = await callOnce(wish, around, clear);
    if (exitCode === EXIT.usage) return exitCode;
  } while (await around.nextLook());
  return exitCode;
}

function formatResult(wish: Call, result: unknown): string {
  if (wish.command.command === 'status') {
    const status: NodeStatus = decodeStatus(result);
    return wish.json ? `${JSON.stringify(status)}\n` : formatStatus(status);
  }
  const detail = decodeDetail(result);
  return wish.json ? `${JSON.stringify({ ok: true, detail })}\n` : `${detail}\n`;
}

function report(
  around: Surroundings,
  json: boolean,
  error: { code: string; reason: string },
): void {
  const { code, reason } = error;
  if (json) around.print(`${JSON.stringify({ ok: false, code, reason })}\n`);
  else around.complain(`colo: ${reason} (${code})\n`);
}

/** The socket that is meant; with nothing said, the only one there is. */
async function findSocket(
  agent: AgentChoice,
  list: (folder: string) => Promise<string[]>,
): Promise<string> {
  if (agent.socket !== undefined) return agent.socket;
  if (agent.vm !== undefined) return `${agent.runDir}/${agent.vm}.sock`;
  const names = (await list(agent.runDir)).filter((name) => name.endsWith('.sock')).sort();
  const only = names[0];
  if (only === undefined) {
    const expected = 'expected one; start it, or name its socket with --socket or --run-dir';
    throw new AgentUnreachable(`Found no agent in ${agent.runDir}, ${expected}`);
  }
  if (names.length > 1) {
    const vms = names.slice(0, 20).map((name) => name.slice(0, -'.sock'.length));
    const message = `Found ${names.length} agents in ${agent.runDir} (${vms.join(', ')})`;
    throw new OperatorError('COLO_E_USAGE', `${message}, expected one; choose with --vm`);
  }
  return `${agent.runDir}/${only}`;
}
