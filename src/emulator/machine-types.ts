/**
 * The versioned machine type that `wanted` means, from what `qemu -machine help` prints; undefined
 * when there is none. A pair must name the version: `pc` is another machine in the next release.
 * A line is `pc  Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)`.
 */
export function findMachineType(help: string, wanted: string): string | undefined {
  for (const line of help.split('\n')) {
    if (line.split(/\s/, 1)[0] !== wanted) continue;
    return /\(alias of ([A-Za-z0-9._-]+)\)/.exec(line)?.[1] ?? wanted;
  }
  return undefined;
}

/** All names that `qemu -machine help` prints. */
export function machineTypeNames(help: string): string[] {
  return help.split('\n').flatMap((line) => /^([A-Za-z0-9._-]+)\s{2,}/.exec(line)?.[1] ?? []);
}

/**
 * The models that `qemu -cpu help` prints, before its list of flags. A line is
 * `x86 qemu64  QEMU Virtual CPU`, from version 9.1 on without the `x86`.
 */
export function cpuModelNames(help: string): string[] {
  const [models = ''] = help.split('\nRecognized');
  return models.split('\n').flatMap((line) => {
    return /^(?:x86| ) *([A-Za-z0-9._-]+)(?:\s|$)/.exec(line)?.[1] ?? [];
  });
}
