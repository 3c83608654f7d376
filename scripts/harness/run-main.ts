/** The end of a script: its exit code, or what went wrong on stderr; 64 for a wrong option. */
import { describeError, OperatorError } from '../../src/lib/index.js';

/** `main` resolves to the exit code. */
export function runMain(name: string, main: () => Promise<number>): void {
  main().then(
    (code) => {
      process.exitCode = code;
    },
    (error: unknown) => {
      process.stderr.write(`${name}: error: ${describeError(error)}\n`);
      process.exitCode = error instanceof OperatorError ? 64 : 1;
    },
  );
}
