/** A script from its options to its exit code; stderr tells what went wrong, 64 a wrong option. */
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

/** How a tool reads its command line; `parse` throws `OperatorError`. */
export interface ToolOptions<T> {
  readonly usage: string;
  readonly parse: (args: readonly string[], clockMs: number) => T;
}

/** Of a tool whose last line is JSON: with `--json` nothing that it says is printed but that. */
export function runTool<T extends { readonly help: boolean; readonly json: boolean }>(
  name: string,
  { usage, parse }: ToolOptions<T>,
  tool: (options: T, say: (text: string) => void) => Promise<number>,
): void {
  runMain(name, async () => {
    const options = parse(process.argv.slice(2), Date.now());
    if (!options.help) {
      return tool(options, (text) => {
        if (!options.json) process.stdout.write(`${text}\n`);
      });
    }
    process.stdout.write(usage);
    return 0;
  });
}
