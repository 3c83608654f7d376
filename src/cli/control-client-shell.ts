/** `colo`'s side of the control socket: one connection, one request, one response. */
import { connect } from 'node:net';
import { clearTimeout, setTimeout } from 'node:timers';
import { ProtocolError } from '../lib/index.js';
import {
  type Command,
  decodeResponse,
  encodeRequest,
  LineDecoder,
  type Response,
} from './control-wire.js';
import { AgentUnreachable, permissionDenied } from './exit-codes.js';

const REQUEST_ID = 1;

/**
 * Asks the agent at `path`. Throws `AgentUnreachable` when none answers within `timeoutMs`, and
 * `ProtocolError` when what answers is no agent of this version.
 */
export async function callAgent(
  path: string,
  command: Command,
  timeoutMs: number,
): Promise<Response> {
  const socket = connect(path);
  let expired = false;
  const timer = setTimeout(() => {
    expired = true;
    socket.destroy(new Error(`No answer within ${timeoutMs} ms`));
  }, timeoutMs);
  try {
    socket.write(encodeRequest(REQUEST_ID, command));
    const decoder = new LineDecoder();
    for await (const chunk of socket) {
      const line = decoder.write(chunk as Buffer)[0];
      if (line !== undefined) return checkedResponse(line);
    }
    throw new AgentUnreachable(`The agent at ${path} hung up without an answer; see its log`);
  } catch (error) {
    if (expired) {
      const advice = 'it may be stopped or overloaded; see its log';
      throw new AgentUnreachable(
        `The agent at ${path} gave no answer in ${timeoutMs} ms; ${advice}`,
      );
    }
    throw explain(path, error);
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
}

function checkedResponse(line: string): Response {
  const response = decodeResponse(line);
  if (response.id !== REQUEST_ID) {
    throw new ProtocolError(`Found a response to request ${response.id}, expected ${REQUEST_ID}`);
  }
  return response;
}

function explain(path: string, error: unknown): unknown {
  switch ((error as NodeJS.ErrnoException).code) {
    case 'ENOENT':
      return new AgentUnreachable(
        `Found no socket at ${path}, expected an agent's; start it, or see --socket and --vm`,
      );
    case 'ECONNREFUSED':
    case 'ENOTSOCK':
      return new AgentUnreachable(`Nobody answers at ${path}; the agent is dead, start it again`);
    case 'EACCES':
    case 'EPERM':
      return permissionDenied(path, error);
    case 'ECONNRESET':
    case 'EPIPE':
      return new AgentUnreachable(`The agent at ${path} hung up; it may be busy, ask again`);
    default:
      return error;
  }
}
