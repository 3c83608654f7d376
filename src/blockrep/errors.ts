import { ColoError } from '../lib/index.js';

/** A disk operation failed underneath. `cause` is the system's error. */
export class DiskError extends ColoError {
  /** The system's name for it, such as ENOSPC. */
  readonly errno: string;

  constructor(message: string, errno: string, options?: { cause?: unknown }) {
    super('COLO_E_DISK', message, options);
    this.errno = errno;
  }
}

/** The system's name of what went wrong (ENOSPC, EIO ...); EIO where there is none. */
export function errnoOf(error: unknown): string {
  if (error instanceof DiskError) return error.errno;
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' && /^E[A-Z0-9]+$/.test(code) ? code : 'EIO';
}
