import { ColoError } from '../lib/index.js';

/** Why a peer could not be reached or listened for. */
export type LinkErrorKind =
  | 'refused' // ECONNREFUSED: the host is up and nothing listens there
  | 'rejected' // the peer answered attachRefused; its reason is in the message
  | 'unreachable' // no route to the host
  | 'timeout' // no answer in time
  | 'lost' // connected, then closed or reset
  | 'aborted' // our own AbortSignal
  | 'closed' // we used a link that is closed
  | 'listen'; // the listening socket could not be opened

/** A connection failed or can't be made: the world's fault, an input to whoever decides. */
export class LinkError extends ColoError {
  readonly kind: LinkErrorKind;

  constructor(kind: LinkErrorKind, message: string, options?: { cause?: unknown }) {
    super(`COLO_E_LINK_${kind.toUpperCase()}`, message, options);
    this.kind = kind;
  }
}

/** The last two are about our own end: an address this host has not, or that leads nowhere. */
const UNREACHABLE = new Set([
  'EHOSTUNREACH',
  'ENETUNREACH',
  'EHOSTDOWN',
  'ENOTFOUND',
  'EADDRNOTAVAIL',
  'EINVAL',
]);

/** From the code of a socket's error. */
export function connectErrorKind(error: unknown): 'refused' | 'unreachable' | 'timeout' | 'lost' {
  const code = errorCode(error);
  if (code === 'ECONNREFUSED') return 'refused';
  if (code === 'ETIMEDOUT') return 'timeout';
  if (code !== undefined && (UNREACHABLE.has(code) || code.startsWith('EAI_'))) {
    return 'unreachable';
  }
  return 'lost';
}

const RESET_CODES = new Set(['ECONNRESET', 'EPIPE', 'ECONNREFUSED', 'ECONNABORTED']);
const TIMEOUT_CODES = new Set(['ETIMEDOUT', 'EHOSTUNREACH', 'ENETUNREACH', 'EHOSTDOWN']);

/** What the error of a connected socket says about the peer; undefined: nothing, it is our own. */
export function lossKind(error: unknown): 'reset' | 'timeout' | undefined {
  const code = errorCode(error) ?? '';
  if (RESET_CODES.has(code)) return 'reset';
  return TIMEOUT_CODES.has(code) ? 'timeout' : undefined;
}

/** The `code` of a Node error, such as ECONNRESET. */
export function errorCode(error: unknown): string | undefined {
  const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined;
  return typeof code === 'string' ? code : undefined;
}
