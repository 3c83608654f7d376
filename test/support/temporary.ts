/** A folder of a test's own, removed when the test ends, whatever its outcome. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';

/** Makes the folder; the path is short enough for unix sockets. */
export function temporaryFolder(t: ExecutionContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'colo-test-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}
