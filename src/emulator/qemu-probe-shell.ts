/** What this host and its QEMU binary can do: accelerator, machine types. */
import { execFile } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { OperatorError } from '../lib/index.js';
import { fileState } from '../linux/index.js';
import type { Accelerator } from './emulator.js';
import { LAUNCH_DEADLINE_MS } from './limits.js';
import {
  DEFAULT_CPU_MODEL,
  type MachineDefinition,
  type ResolvedMachineDefinition,
} from './machine-definition.js';
import { cpuModelNames, findMachineType, machineTypeNames } from './machine-types.js';

export const DEFAULT_QEMU_BINARY = 'qemu-system-x86_64';

const HELP_BYTES_MAX = 1024 * 1024;

/**
 * The definition with `auto` and machine aliases replaced by what this host makes of them: what the
 * primary sends to the secondary. OperatorError when this host or its QEMU can't do what it asks
 * for.
 */
export async function resolveMachineDefinition(
  definition: MachineDefinition,
  qemuBinary = DEFAULT_QEMU_BINARY,
): Promise<ResolvedMachineDefinition> {
  const kvmReason = reasonAgainstKvm();
  if (definition.accelerator === 'kvm' && kvmReason === 'no-device') {
    throw new OperatorError(
      'COLO_E_NO_KVM',
      'The accelerator is kvm but /dev/kvm can not be opened; use auto or tcg',
    );
  }
  const accelerator: Accelerator =
    definition.accelerator === 'auto'
      ? kvmReason === undefined
        ? 'kvm'
        : 'tcg'
      : definition.accelerator;
  const machineType = findMachineType(
    await said(qemuBinary, ['-machine', 'help']),
    definition.machineType,
  );
  if (machineType === undefined) {
    throw new OperatorError(
      'COLO_E_MACHINE_TYPE',
      `${qemuBinary} has no machine type ${definition.machineType}; see ${qemuBinary} -machine help`,
    );
  }
  const cpuModel = definition.cpuModel ?? DEFAULT_CPU_MODEL;
  return { ...definition, accelerator, machineType, cpuModel };
}

/**
 * Why `auto` does not take KVM here. A /dev/kvm on a CPU that shows neither vmx nor svm is emulated
 * in software and runs a kernel far slower than TCG; it works when forced.
 */
function reasonAgainstKvm(): 'no-device' | 'no-cpu-support' | undefined {
  try {
    closeSync(openSync('/dev/kvm', 'r+'));
  } catch {
    return 'no-device';
  }
  return /^flags\s*:.*\b(vmx|svm)\b/m.test(readFileSync('/proc/cpuinfo', 'utf8'))
    ? undefined
    : 'no-cpu-support';
}

/** What a QEMU binary and this host offer to a guest that was launched elsewhere. */
export interface QemuOffer {
  readonly version: string;
  readonly machineTypes: readonly string[];
  /** Without features, such as `qemu64`. */
  readonly cpuModels: readonly string[];
  /** /dev/kvm can be opened. */
  readonly kvm: boolean;
}

/** Throws OperatorError when QEMU can not be run. */
export async function probeQemu(qemuBinary = DEFAULT_QEMU_BINARY): Promise<QemuOffer> {
  const [version, machines, models] = await Promise.all([
    said(qemuBinary, ['--version']),
    said(qemuBinary, ['-machine', 'help']),
    said(qemuBinary, ['-cpu', 'help']),
    // Kept for the launch.
    dataFolders(qemuBinary, []),
  ]);
  return {
    version: /version (\S+)/.exec(version)?.[1] ?? 'unknown',
    machineTypes: machineTypeNames(machines),
    cpuModels: cpuModelNames(models),
    kvm: reasonAgainstKvm() !== 'no-device',
  };
}

/** Where QEMU with these arguments looks for its firmware, in this order. */
export async function dataFolders(
  qemuBinary: string,
  extraArguments: readonly string[],
): Promise<readonly string[]> {
  const own = extraArguments.filter((_, i) => /^--?L$/.test(extraArguments[i - 1] ?? ''));
  const text = await said(qemuBinary, ['-L', 'help']);
  return [...own, ...text.split('\n').filter((line) => line !== '')];
}

/** What a binary has said, by its file as it was then and by its arguments. */
const answers = new Map<string, Promise<string>>();

/**
 * Each answer is a start of QEMU, some 50 ms, and the same until the file is another one. A
 * migration and a first synchronisation would wait for half a dozen of them.
 */
async function said(qemuBinary: string, argv: readonly string[]): Promise<string> {
  const file = await fileOf(qemuBinary);
  if (file === undefined) return ask(qemuBinary, argv);
  const key = [file, ...argv].join('\0');
  const known = answers.get(key);
  if (known !== undefined) return known;
  const answer = ask(qemuBinary, argv);
  answers.set(key, answer);
  answer.catch(() => answers.delete(key));
  return answer;
}

/** Path, and what changes with its contents; undefined: not found. */
async function fileOf(binary: string): Promise<string | undefined> {
  const folders = binary.includes('/') ? [''] : (process.env['PATH'] ?? '').split(':');
  for (const folder of folders) {
    const path = folder === '' ? binary : join(folder, binary);
    const found = await stat(path, { bigint: true }).catch(() => undefined);
    if (found !== undefined) return [path, ...fileState(found)].join(' ');
  }
  return undefined;
}

async function ask(qemuBinary: string, argv: readonly string[]): Promise<string> {
  try {
    const { stdout } = await promisify(execFile)(qemuBinary, [...argv], {
      timeout: LAUNCH_DEADLINE_MS,
      maxBuffer: HELP_BYTES_MAX,
      env: { PATH: process.env['PATH'] ?? '', LANG: 'C' },
    });
    return stdout;
  } catch (cause) {
    throw new OperatorError(
      'COLO_E_NO_QEMU',
      `${qemuBinary} can not be run; install qemu-system-x86 or name another binary`,
      { cause },
    );
  }
}
