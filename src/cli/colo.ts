#!/usr/bin/env node
/** `colo`: the operator's command. */
import { readdir } from 'node:fs/promises';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { setTimeout } from 'node:timers/promises';
import { runColo, type Surroundings } from './colo-command.js';
import { compareFiles } from './compare-files.js';
import { checkConfigFile } from './config-check.js';
import { thisHost } from './config-check-host.js';
import { callAgent } from './control-client-shell.js';
import { carryOutDiscard, planDiscard } from './discard-images.js';
import { EXIT, permissionDenied } from './exit-codes.js';
import { WATCH_MS } from './limits.js';
import { initAuthority, issueCertificate } from './pki/authority.js';
import { showCertificates } from './pki/certificate-file.js';
import { ProgressBar } from './progress-bar.js';
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
  list,
  captureFolder: (dir) => resolve(dir ?? `colo-capture-${timeInName()}`),
  absolute: (path) => resolve(path),
  compareFiles: async (wish) => {
    const bar = new ProgressBar('comparing');
    const interrupt = new AbortController();
    // The first interrupt ends the work in order, a second one the process.
    process.once('SIGINT', () => interrupt.abort());
    try {
      const onProgress = (done: number, total: number): void => bar.update(done, total);
      return await compareFiles(wish, { onProgress, signal: interrupt.signal });
    } finally {
      bar.stop();
    }
  },
  checkConfig: (file, role) => checkConfigFile(resolve(file), role, thisHost),
  planDiscard: (wish) => {
    const config = wish.config === undefined ? undefined : resolve(wish.config);
    const image = wish.image === undefined ? undefined : resolve(wish.image);
    const { hostname, readFile } = thisHost;
    return planDiscard({ ...wish, config, image }, { hostname, readFile, list });
  },
  carryOutDiscard,
  makeCertificate: (wish) => {
    const interrupt = new AbortController();
    process.once('SIGINT', () => interrupt.abort());
    return wish.kind === 'init'
      ? initAuthority(wish.init, interrupt.signal)
      : issueCertificate(wish.issue, interrupt.signal);
  },
  showCertificates: ({ show }) => showCertificates(show, list),
  confirm: async (question) => {
    if (process.stdin.isTTY !== true) return false;
    const lines = createInterface({ input: process.stdin, output: process.stderr });
    const answer = await lines.question(question);
    lines.close();
    return answer.trim() === 'yes';
  },
  onInterrupt: (deed) => {
    const onSignal = (): void => {
      // A second one ends this command, whatever the agent does.
      process.once('SIGINT', () => process.exit(130));
      void deed();
    };
    process.once('SIGINT', onSignal);
    return () => process.removeListener('SIGINT', onSignal);
  },
  nextLook: async () => {
    await setTimeout(WATCH_MS);
    return true;
  },
};

async function list(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? '';
    if (['ENOENT', 'ENOTDIR'].includes(code)) return [];
    if (['EACCES', 'EPERM'].includes(code)) throw permissionDenied(folder, error);
    throw error;
  }
}

/** Such as 20260131-094500, UTC. */
function timeInName(): string {
  const digits = new Date().toISOString().replace(/\D/g, '');
  return `${digits.slice(0, 8)}-${digits.slice(8, 14)}`;
}

// `colo status | head -1` closes the pipe; that is the reader's good right.
process.stdout.on('error', () => process.exit(EXIT.ok));

try {
  process.exitCode = await runColo(process.argv.slice(2), surroundings);
} catch (error) {
  process.stderr.write(`colo: a bug: ${error instanceof Error ? error.stack : String(error)}\n`);
  process.exitCode = EXIT.bug;
}
