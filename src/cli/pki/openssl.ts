/** Runs Debian's `openssl`, which makes certificates; Node can read and check them, not make them. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { ColoError } from '../../lib/index.js';
import { Interrupted } from '../exit-codes.js';
import { PROGRAM_MS_MAX, PROGRAM_OUTPUT_BYTES_MAX } from '../limits.js';

/** Resolves when it has done its work. Throws ColoError with what it complained about. */
export async function runOpenssl(args: readonly string[], signal?: AbortSignal): Promise<void> {
  try {
    await promisify(execFile)('openssl', [...args], {
      // The host's own configuration may add to a certificate what we did not ask for.
      env: { PATH: process.env['PATH'], LC_ALL: 'C', OPENSSL_CONF: '/dev/null' },
      timeout: PROGRAM_MS_MAX,
      maxBuffer: PROGRAM_OUTPUT_BYTES_MAX,
      ...(signal === undefined ? {} : { signal }),
    });
  } catch (error) {
    if (signal?.aborted === true) throw new Interrupted();
    const { code, stderr } = error as { readonly code?: unknown; readonly stderr?: string };
    if (code === 'ENOENT') {
      const message = 'Found no program openssl, expected it in PATH; install openssl';
      throw new ColoError('COLO_E_PKI', message);
    }
    const said = stderr?.trim().split('\n')[0] ?? '';
    throw new ColoError('COLO_E_PKI', `openssl failed: ${said}`, { cause: error });
  }
}
