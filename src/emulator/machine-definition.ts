/**
 * What a guest's machine is made of. The operator writes it, the primary resolves what depends on
 * its host ('auto', machine aliases) and sends it in the hello, and the secondary launches the same.
 * Device state is only exchangeable between machines of one definition.
 */
import { z } from 'zod';
import { OperatorError, ProtocolError } from '../lib/index.js';
import {
  DISK_BYTES_MAX,
  DISKS_MAX,
  EXTRA_ARGUMENTS_MAX,
  MEMORY_MIB_MAX,
  MEMORY_MIB_MIN,
  NICS_MAX,
  TEXT_MAX,
  VCPUS_MAX,
} from './limits.js';

const name = z.string().regex(/^[a-z0-9][a-z0-9_-]{0,31}$/);
// An argument with a NUL would be cut there by execve.
const text = z
  .string()
  .max(TEXT_MAX)
  .refine((value) => !value.includes('\0'), { message: 'must not contain a NUL' });
const path = text.min(1);
/** QEMU names, with properties behind commas in a CPU model; nothing that could start an option. */
const qemuName = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/);
const cpuModel = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._,=+-]{0,255}$/);

const schema = z.strictObject({
  name,
  memoryMib: z.int().min(MEMORY_MIB_MIN).max(MEMORY_MIB_MAX),
  vcpus: z.int().min(1).max(VCPUS_MAX),
  accelerator: z.enum(['auto', 'kvm', 'tcg']),
  /** `pc`, `q35`, or versioned such as `pc-i440fx-7.2`. */
  machineType: qemuName,
  /**
   * Must exist on both hosts. The default `qemu64` does everywhere; `host` under KVM is faster and
   * right only where both hosts have the same processor.
   */
  cpuModel: cpuModel.exactOptional(),
  kernel: z
    .strictObject({ image: path, initrd: path.exactOptional(), commandLine: text })
    .exactOptional(),
  disks: z
    .array(
      z.strictObject({
        name,
        sizeBytes: z.int().min(512).max(DISK_BYTES_MAX),
        readOnly: z.boolean(),
      }),
    )
    .max(DISKS_MAX)
    .refine((disks) => new Set(disks.map((disk) => disk.name)).size === disks.length, {
      message: 'two disks have the same name',
    }),
  nics: z
    .array(z.strictObject({ name, mac: z.string().regex(/^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/) }))
    .max(NICS_MAX),
  extraArguments: z.array(text).max(EXTRA_ARGUMENTS_MAX),
});

type Immutable<T> = T extends readonly (infer E)[]
  ? readonly Immutable<E>[]
  : T extends object
    ? { readonly [K in keyof T]: Immutable<T[K]> }
    : T;

export type MachineDefinition = Immutable<z.infer<typeof schema>>;

/** With nothing left that a host would decide for itself. */
export type ResolvedMachineDefinition = MachineDefinition & {
  readonly accelerator: 'kvm' | 'tcg';
  readonly cpuModel: string;
};

export const DEFAULT_CPU_MODEL = 'qemu64';

/** The definition in `value`, which comes from a configuration file (OperatorError) or the peer (ProtocolError). */
export function parseMachineDefinition(
  value: unknown,
  origin: 'configuration' | 'peer' = 'configuration',
): MachineDefinition {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const key = issue?.path.join('.') || 'the definition itself';
  const found = describeFound(value, issue?.path ?? []);
  const message = `Machine definition: ${key} is ${found}; ${issue?.message ?? 'not valid'}`;
  throw origin === 'peer'
    ? new ProtocolError(message)
    : new OperatorError('COLO_E_MACHINE_DEFINITION', message);
}

function describeFound(value: unknown, path: readonly PropertyKey[]): string {
  let at = value;
  for (const key of path) {
    at = typeof at === 'object' && at !== null ? Reflect.get(at, key) : undefined;
  }
  return at === undefined ? 'missing' : (JSON.stringify(at)?.slice(0, 100) ?? typeof at);
}
