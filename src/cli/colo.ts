#!/usr/bin/env node
/** `colo`: the operator's command. */
import { readdir } from 'node:fs/promises';
import { setTimeout } from 'node:timers/promises';
import { runColo, type Surroundings } from './colo-command.js';
import { callAgent } from './control-client-shell.js';
import { EXIT } from './exit-codes.js';
import { WATCH_MS } from './limits.js';
import { packageVersion } from './version.js';

const surroundings: Surroundings = {
  version: packageVersion(),
  isTerminal: process.stdout.isTTY === true,
  print: (text) => {
    process.stdout.write(text);
  },
  complain: (text) => {
    process.stderr.write(text);
  },
  call: callAgent,
  list: async (folder) => {
    try {
      return await readdir(folder);
    } catch (error) {
      if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return [];
      throw error;
    }
  },
  nextLook: async () => {
    await setTimeout(WATCH_MS);
    return true;
  },
};

// `colo status | head -1` closes the pipe; that is the reader's good right.
process.stdout.on('error', () => process.exit(EXIT.ok));

try {
  process.exitCode = await runColo(process.argv.slice(2), surroundings);
} catch (error) {
  process.stderr.write(`colo: a bug: ${error instanceof Error ? error.stack : String(error)}\n`);
  process.exitCode = EXIT.bug;
}
