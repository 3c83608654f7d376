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
