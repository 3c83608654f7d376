/**
 * The error families of STYLE section 4. Compare `code`, never text or class.
 * Each message is one sentence with the values in it; the reason underneath is in `cause`.
 */
export class ColoError extends Error {
  readonly code: string;

  constructor(code: `COLO_E_${string}`, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
    this.name = new.target.name;
  }
}

/** The peer, a guest's driver or QEMU broke a format or an order: drop that link and count it. */
export class ProtocolError extends ColoError {
  constructor(message: string, options?: { cause?: unknown }) {
    super('COLO_E_PROTOCOL', message, options);
  }
}

/** A command or a configuration value is wrong: found, expected, what to change. Exit 64 or 78. */
export class OperatorError extends ColoError {}

/** The text of anything that was thrown, with the chain of causes behind it. */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause === undefined
    ? error.message
    : `${error.message} (${describeError(error.cause)})`;
}
