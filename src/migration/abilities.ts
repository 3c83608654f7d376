/** Whether a host can run what a hello describes, each difference by its name. */
import type { Difference, HelloSection } from './messages.js';

/** What the destination found out about itself; sizes in bytes. */
export interface Abilities {
  readonly qemuVersion: string;
  /** Machine types and CPU models that its QEMU knows, with the accelerator that it would use. */
  readonly machineTypes: readonly string[];
  readonly cpuModels: readonly string[];
  readonly accelerator: 'kvm' | 'tcg';
  readonly pageSizeBytes: number;
  /** Free, for a guest's RAM. */
  readonly memoryBytes: number;
  /** What the NICs would be connected to here, by their numbers; `missing`: there is no such thing. */
  readonly nics: readonly { readonly bridge: string; readonly missing: boolean }[];
  /** By name; of a moved disk the most that fits, of a shared one its size. */
  readonly disks: readonly {
    readonly name: string;
    readonly sizeBytes: number;
  }[];
  /** Userfaultfd can make absent pages known: postcopy. */
  readonly postcopy: boolean;
}

/**
 * Everything that keeps this host from running the guest; none: it can. A QEMU may be newer than
 * the source's, but not older: a device state is loaded by the same or a later version.
 */
export function differencesOf(hello: HelloSection, here: Abilities): Difference[] {
  const found: Difference[] = [];
  const differ = (what: string, source: string | number, destination: string | number): void => {
    found.push({ what, source: String(source), destination: String(destination) });
  };
  if (isOlder(here.qemuVersion, hello.qemuVersion)) {
    differ('QEMU version', hello.qemuVersion, here.qemuVersion);
  }
  if (!here.machineTypes.includes(hello.machineType)) {
    differ('machine type', hello.machineType, 'not known to its QEMU');
  }
  // Without the features that are added to it or taken away.
  const [cpuModel = ''] = hello.cpuModel.split(',');
  if (!here.cpuModels.includes(cpuModel)) {
    differ('CPU model', hello.cpuModel, 'not offered by its QEMU');
  }
  if (here.accelerator !== hello.accelerator) {
    differ('accelerator', hello.accelerator, here.accelerator);
  }
  if (here.pageSizeBytes !== hello.pageSizeBytes) {
    differ('page size', hello.pageSizeBytes, here.pageSizeBytes);
  }
  if (here.memoryBytes < hello.ramSizeBytes) {
    differ('memory', `${hello.ramSizeBytes} bytes`, `${here.memoryBytes} bytes free`);
  }
  if (hello.choices.mode !== 'precopy' && !here.postcopy) {
    differ('postcopy', 'wanted', 'not possible: userfaultfd');
  }
  for (const disk of hello.disks) {
    const own = here.disks.find(({ name }) => name === disk.name);
    if (own === undefined) {
      differ(`disk ${disk.name}`, `${disk.place}, ${disk.sizeBytes} bytes`, 'missing');
      continue;
    }
    const fits =
      disk.place === 'shared' ? own.sizeBytes === disk.sizeBytes : own.sizeBytes >= disk.sizeBytes;
    if (!fits) {
      differ(`disk ${disk.name}`, `${disk.sizeBytes} bytes`, `${own.sizeBytes} bytes`);
    }
  }
  for (const [index, { bridge }] of hello.nics.entries()) {
    const own = here.nics[index];
    if (own?.missing === false) continue;
    differ(`bridge of NIC ${index}`, bridge, `${own?.bridge ?? 'its bridge'}: missing`);
  }
  return found;
}

/** By the numbers at the front, "7.2.22 (Debian ...)"; what has none is taken as it is. */
function isOlder(version: string, than: string): boolean {
  const [a, b] = [numbers(version), numbers(than)];
  if (a.length === 0 || b.length === 0) return version !== than;
  // Within one minor version the device states are the same.
  for (const index of [0, 1]) {
    const [x, y] = [a[index] ?? 0, b[index] ?? 0];
    if (x !== y) return x < y;
  }
  return false;
}

function numbers(version: string): number[] {
  return /^\d+(?:\.\d+)*/.exec(version)?.[0].split('.').map(Number) ?? [];
}
