/** The disks of a guest of which both hosts have the same image. */
import type { SharedPlace } from '../blockrep/index.js';
import { type Configuration, diskPlace } from '../config/index.js';

/** Those that this host's configuration says of. */
export function sharedDisks(
  configuration: Configuration,
  disks: readonly {
    readonly name: string;
    readonly sizeBytes: number;
    readonly readOnly: boolean;
  }[],
): SharedPlace[] {
  return disks.flatMap(({ name, sizeBytes, readOnly }) => {
    const { path, shared } = diskPlace(configuration, name);
    return shared === true && !readOnly ? [{ name, path, sizeBytes }] : [];
  });
}
