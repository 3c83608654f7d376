/** What the compliance suite runs against: QEMU with the boot-sector guest, and the fake. */
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type DirtyTrackerKind,
  type Emulator,
  type LeftRam,
  launchQemu,
  type MachineDefinition,
  parseMachineDefinition,
} from '../../src/emulator/index.js';
import type { Logger } from '../../src/lib/index.js';
import {
  bootDiskArguments,
  bootSectorImage,
  COUNTERS_BYTES,
  COUNTERS_OFFSET,
} from './boot-sector-guest.js';
import { FakeEmulator } from './fake-emulator.js';

export interface SubjectOptions {
  readonly ramMapping: 'shared' | 'private';
  readonly startPaused: boolean;
  readonly missingPages?: boolean;
  readonly incoming?: boolean;
  readonly leftRam?: LeftRam;
  readonly tracker?: 'auto' | DirtyTrackerKind;
}

/** One emulator and a way to wait until its guest has done something. */
export interface Subject {
  readonly emulator: Emulator;
  /** Resolves once the guest's counter has moved; rejects after a generous deadline. */
  untilItRuns(): Promise<void>;
}

export interface SubjectKind {
  readonly name: string;
  launch(options: SubjectOptions): Promise<Subject>;
}

/** Time for a guest to boot and count, ms: software KVM under load needs most of it. */
const RUN_DEADLINE_MS = 60_000;
const POLL_MS = 5;
const MEMORY_MIB = 32;

export const silentLog: Logger = { debug() {}, info() {}, warn() {}, error() {} };

export interface Counters {
  /** Kept in a register. */
  readonly register: number;
  /** Kept in RAM. */
  readonly memory: number;
}

export function readCounters(emulator: Emulator): Counters {
  const bytes = Buffer.alloc(COUNTERS_BYTES);
  emulator.ram.copyOut(COUNTERS_OFFSET, bytes);
  return { register: bytes.readUInt32LE(0), memory: bytes.readUInt32LE(4) };
}

/** Polls, as RAM sends no events. */
export async function until(what: string, holds: () => boolean): Promise<void> {
  const deadline = Date.now() + RUN_DEADLINE_MS;
  while (!holds()) {
    if (Date.now() > deadline) throw new Error(`${what} did not happen in ${RUN_DEADLINE_MS} ms`);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

/** A directory for one test's files. */
export function makeTestDirectory(): { path: string; remove: () => void } {
  const path = mkdtempSync(join(tmpdir(), 'colo-test-'));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

export function testMachine(
  directory: string,
  accelerator: 'kvm' | 'tcg' = 'tcg',
): MachineDefinition {
  const image = join(directory, 'boot.raw');
  writeFileSync(image, bootSectorImage());
  return parseMachineDefinition({
    name: 'test',
    memoryMib: MEMORY_MIB,
    vcpus: 1,
    accelerator,
    machineType: 'pc',
    disks: [],
    nics: [],
    extraArguments: bootDiskArguments(image),
  });
}

/** QEMU; its files live in a directory that `addCleanUp` gets the removal of, after the kill. */
export function qemuSubject(
  accelerator: 'kvm' | 'tcg',
  addCleanUp: (cleanUp: () => Promise<void>) => void,
): SubjectKind {
  return {
    name: `QEMU under ${accelerator.toUpperCase()}`,
    async launch(options) {
      const directory = makeTestDirectory();
      addCleanUp(async () => directory.remove());
      const runtimeDir = join(directory.path, 'run');
      mkdirSync(runtimeDir);
      const emulator = await launchQemu({
        ...options,
        definition: testMachine(directory.path, accelerator),
        diskSockets: [],
        nicFds: [],
        runtimeDir,
        log: silentLog,
      });
      addCleanUp(() => emulator.kill());
      return {
        emulator,
        async untilItRuns() {
          const before = readCounters(emulator).memory;
          await until('A step of the guest', () => readCounters(emulator).memory !== before);
        },
      };
    },
  };
}

export function fakeSubject(): SubjectKind {
  let launched = 0;
  return {
    name: 'the fake',
    async launch(options) {
      const emulator = new FakeEmulator({ ...options, pages: 64, seed: ++launched });
      return {
        emulator,
        async untilItRuns() {
          const before = readCounters(emulator).memory;
          for (let i = 0; i < 10; i++) emulator.step();
          // It may wait for a page: whoever has that gets a turn.
          await until('A step of the fake', () => {
            if (readCounters(emulator).memory !== before) return true;
            emulator.step();
            return false;
          });
        },
      };
    },
  };
}

/** Undefined where QEMU can run under KVM when forced to, else the reason why not. */
export function reasonAgainstKvm(): string | undefined {
  try {
    closeSync(openSync('/dev/kvm', 'r+'));
    return undefined;
  } catch (error) {
    return `/dev/kvm can not be opened: ${error}`;
  }
}

/** Whether a process is running; a zombie that nobody reaps is not. */
export function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}
