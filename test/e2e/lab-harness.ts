/**
 * What the end-to-end tests of lab and guest share: commands with a deadline, a lab, and an
 * unprotected guest on plain QEMU in one of its hosts.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

/** The source tree, seen from build/test/e2e. */
export const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
export const LAB_SCRIPT = join(ROOT, 'scripts/lab');
const TALK = fileURLToPath(new URL('talk.js', import.meta.url));

const COMMAND_DEADLINE_MS = 60_000;
/** The guest's promise is 20 s on two idle cores; tests run beside others. */
const BOOT_DEADLINE_MS = 90_000;
const OUTPUT_BYTES_MAX = 64 << 20;
/** System programs are found also by a root shell without their directories. */
const ENVIRONMENT = { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` };

/** Runs a command and returns its standard output; rejects unless it exits with 0. */
export async function run(file: string, args: readonly string[]): Promise<Buffer> {
  const { stdout } = await promisify(execFile)(file, args, {
    encoding: 'buffer',
    env: ENVIRONMENT,
    maxBuffer: OUTPUT_BYTES_MAX,
    timeout: COMMAND_DEADLINE_MS,
    killSignal: 'SIGKILL',
  });
  return stdout;
}

/** Runs a command and returns its standard output as lines. */
export async function runLines(file: string, args: readonly string[]): Promise<string[]> {
  return (await run(file, args)).toString().split('\n').filter(Boolean);
}

/** The exit code of a command, or the signal that ended it. */
export function exitOf(child: ChildProcess): Promise<number | NodeJS.Signals> {
  return new Promise((resolve) => {
    child.once('exit', (code, signal) => resolve(code ?? signal ?? -1));
  });
}

export type Node = 'hosta' | 'hostb' | 'client' | 'lan';

/** One lab; this process owns it, so it goes away with us at the latest at the next `up`. */
export class Lab {
  readonly id: string;

  constructor(id: string) {
    this.id = id;
  }

  async up(): Promise<void> {
    await run(LAB_SCRIPT, ['up', '--id', this.id]);
  }

  async down(): Promise<void> {
    await run(LAB_SCRIPT, ['down', '--id', this.id]);
  }

  /** Arguments for scripts/lab that run a command on a node. */
  on(node: Node, ...command: readonly string[]): string[] {
    return ['exec', '--id', this.id, node, '--', ...command];
  }

  exec(node: Node, ...command: readonly string[]): Promise<Buffer> {
    return run(LAB_SCRIPT, this.on(node, ...command));
  }

  spawn(node: Node, ...command: readonly string[]): ChildProcess {
    return spawn(LAB_SCRIPT, this.on(node, ...command), { stdio: ['ignore', 'pipe', 'inherit'] });
  }

  talk(...args: readonly (string | number)[]): Promise<Buffer> {
    return this.exec('client', process.execPath, TALK, ...args.map(String));
  }

  spawnTalk(...args: readonly (string | number)[]): ChildProcess {
    return this.spawn('client', process.execPath, TALK, ...args.map(String));
  }

  /** The namespaces of this lab that exist. */
  async namespaces(): Promise<string[]> {
    const names = (await runLines('ip', ['netns', 'list'])).map((line) => line.split(' ')[0] ?? '');
    return names.filter((name) => name.startsWith(`colo-${this.id}-`));
  }
}

/** The part of the guest's manifest.json that we use. */
interface Manifest {
  readonly commandLine: string;
  readonly fileSha256: string;
}

/** The test guest without protection, on hosta. */
export interface PlainGuest {
  readonly fileSha256: string;
  /** The directory of the built guest. */
  readonly files: string;
  /** Its disk, a copy of the built one. */
  readonly image: string;
  /** From the start of QEMU to the guest's "ready" line. */
  readonly bootMs: number;
  readonly exited: Promise<number | NodeJS.Signals>;
  /** Ends it by force and removes its image; for a guest that is gone, only the latter. */
  destroy(): Promise<void>;
}

export async function bootGuest(lab: Lab): Promise<PlainGuest> {
  const guest = (await runLines(join(ROOT, 'scripts/build-guest'), ['--print']))[0] ?? '';
  const manifest = JSON.parse(await readFile(join(guest, 'manifest.json'), 'utf8')) as Manifest;
  const directory = await mkdtemp(join(tmpdir(), 'colo-lab-test-'));
  const image = join(directory, 'root.img');
  await run('cp', ['--sparse=always', join(guest, 'root.img'), image]);
  await lab.exec('hosta', 'ip', 'tuntap', 'add', 'dev', 'tap0', 'mode', 'tap');
  await lab.exec('hosta', 'ip', 'link', 'set', 'tap0', 'master', 'br0', 'up');
  const startMs = performance.now();
  const qemu = lab.spawn('hosta', 'qemu-system-x86_64', ...qemuArguments(guest, manifest, image));
  const exited = exitOf(qemu);
  const destroy = async (): Promise<void> => {
    qemu.kill('SIGKILL');
    await exited;
    await rm(directory, { recursive: true });
  };
  try {
    await waitReady(qemu);
  } catch (error) {
    await destroy();
    throw error;
  }
  const bootMs = Math.round(performance.now() - startMs);
  return { fileSha256: manifest.fileSha256, files: guest, image, bootMs, exited, destroy };
}

function qemuArguments(guest: string, manifest: Manifest, image: string): string[] {
  return [
    ...['-accel', 'tcg', '-machine', 'pc', '-m', '256', '-nodefaults', '-display', 'none'],
    ...['-no-reboot', '-serial', 'stdio'],
    ...['-kernel', join(guest, 'vmlinuz'), '-initrd', join(guest, 'initrd.img')],
    ...['-append', manifest.commandLine],
    ...['-drive', `if=none,id=disk0,file=${image},format=raw`],
    ...['-device', 'virtio-blk-pci,drive=disk0'],
    ...['-netdev', 'tap,id=net0,ifname=tap0,script=no,downscript=no'],
    ...['-device', 'virtio-net-pci,netdev=net0,romfile=,mac=52:54:00:c0:10:01'],
  ];
}

/**
 * Resolves at the ready line; rejects, with the console's last lines, at the end or the deadline.
 */
function waitReady(qemu: ChildProcess): Promise<void> {
  const { stdout } = qemu;
  if (stdout === null) throw new Error('QEMU has no console');
  const lines: string[] = [];
  return new Promise((resolve, reject) => {
    const fail = (why: string): void => reject(new Error([why, ...lines.slice(-20)].join('\n')));
    const late = `The guest is not ready after ${BOOT_DEADLINE_MS / 1000} s`;
    const timer = setTimeout(() => fail(late), BOOT_DEADLINE_MS);
    createInterface({ input: stdout })
      .on('line', (line) => {
        lines.push(line);
        // A serial console may have leftovers of its set-up before the first words.
        if (line.trimEnd().endsWith('colo-guest ready')) {
          clearTimeout(timer);
          resolve();
        }
      })
      .on('close', () => {
        clearTimeout(timer);
        fail('QEMU ended before the guest was ready');
      });
  });
}
