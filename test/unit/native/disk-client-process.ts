/** Starts a process that is QEMU to the preload library, and to the server that it connects to. */
import { spawn } from 'node:child_process';
import { closeSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ExecutionContext } from 'ava';
import { NbdServer, type NbdServerOptions } from '../../../src/blockrep/index.js';
import { createSealedMemoryFile } from '../../../src/linux/index.js';
import { collectingLog, temporaryDirectory } from '../blockrep/support.js';
import { RAM_BYTES } from './disk-plan.js';

export const RAM_DESCRIPTOR = 3;
const CONTROL_DESCRIPTOR = 4;

export interface ClientRun {
  /** The compiled program. */
  readonly program: string;
  /** Behind the socket's path. */
  readonly args: readonly string[];
  readonly server: Omit<NbdServerOptions, 'socketPath' | 'log'>;
  /** The library is told that the socket is one of the agent's. */
  readonly isDisk: boolean;
}

/** The line of JSON that the client ends with. */
export async function runClient<Result>(t: ExecutionContext, run: ClientRun): Promise<Result> {
  const directory = temporaryDirectory(t);
  const socketPath = path.join(directory, 'disk-0');
  const log = collectingLog();
  const server = new NbdServer({ ...run.server, socketPath, log });
  await server.start();
  t.teardown(() => server.stop());
  const ram = createSealedMemoryFile('colo-test-ram', RAM_BYTES);
  const program = fileURLToPath(new URL(run.program, import.meta.url));
  const child = spawn(process.execPath, [program, socketPath, ...run.args], {
    stdio: ['ignore', 'pipe', 'pipe', ram, 'pipe'],
    env: {
      COLO_AGENT: String(process.pid),
      COLO_RAM_FD: String(RAM_DESCRIPTOR),
      COLO_CONTROL_FD: String(CONTROL_DESCRIPTOR),
      COLO_DISK_DIRECTORY: run.isDisk ? directory : '/nowhere',
    },
  });
  t.teardown(() => child.kill('SIGKILL'));
  closeSync(ram);
  let output = '';
  let errors = '';
  child.stdout?.on('data', (chunk) => {
    output += String(chunk);
  });
  child.stderr?.on('data', (chunk) => {
    errors += String(chunk);
  });
  const code = await new Promise((resolve) => child.on('close', resolve));
  t.is(code, 0, `${errors}${log.lines.join('\n')}`);
  return JSON.parse(output) as Result;
}
