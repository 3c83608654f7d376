/**
 * Assertions stay on in production: a broken invariant is a bug, and a node with a bug is silent.
 */
export class AssertionFailed extends Error {
  readonly code = 'COLO_E_BUG';
  override readonly name = 'AssertionFailed';
}

/** Throws `AssertionFailed` unless `condition`; the daemons answer it with exit code 70. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionFailed(message);
}

/** Marks the end of an exhaustive switch. */
export function unreachable(value: never): never {
  throw new AssertionFailed(`Unreachable case ${JSON.stringify(value)}`);
}
