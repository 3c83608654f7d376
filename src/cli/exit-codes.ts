/** Exit codes (docs/operating/commands.md); the large ones are those of sysexits.h. */
import { ConfigurationError } from '../config/index.js';
import { ColoError, OperatorError } from '../lib/index.js';

/** What a process of ours can end with. A signal's own is 128 + its number. */
export const EXIT = {
  ok: 0,
  /** The command was refused, or what it asked for failed; `colo compare`: the files differ. */
  failed: 1,
  /** EX_USAGE: a flag or an argument is wrong. */
  usage: 64,
  /** EX_DATAERR: a capture file is missing, or is none. */
  data: 65,
  /** EX_UNAVAILABLE: no agent answers. */
  unreachable: 69,
  /** EX_SOFTWARE: a bug of ours. */
  bug: 70,
  /** EX_CONFIG: the configuration file is wrong, or what it names does not fit this host. */
  configuration: 78,
  /** 128 + SIGINT. */
  interrupted: 130,
} as const;

/** No agent answers on a control socket. */
export class AgentUnreachable extends ColoError {
  constructor(message: string, options?: { cause?: unknown }) {
    super('COLO_E_UNREACHABLE', message, options);
  }
}

/** What is there is for root alone: an agent that can't be asked. */
export function permissionDenied(path: string, cause: unknown): AgentUnreachable {
  return new AgentUnreachable(`Permission to ${path} is denied; run colo as root`, { cause });
}

/** A file that `colo compare` was given is missing, or is no capture. */
export class CaptureFileError extends ColoError {
  constructor(path: string, reason: string, options?: { cause?: unknown }) {
    super('COLO_E_CAPTURE_FILE', `${path}: ${reason}`, options);
  }
}

/** The operator had enough. */
export class Interrupted extends ColoError {
  constructor() {
    super('COLO_E_INTERRUPTED', 'Interrupted before the end');
  }
}

/** The exit code for anything that was thrown. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof ConfigurationError) return error.exitCode;
  if (error instanceof AgentUnreachable) return EXIT.unreachable;
  if (error instanceof CaptureFileError) return EXIT.data;
  if (error instanceof Interrupted) return EXIT.interrupted;
  if (error instanceof OperatorError) {
    return error.code === 'COLO_E_USAGE' ? EXIT.usage : EXIT.configuration;
  }
  return error instanceof ColoError ? EXIT.failed : EXIT.bug;
}
