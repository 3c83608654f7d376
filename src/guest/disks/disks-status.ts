/** What `colo status` shows of the disks, in either role. */
import type { DiskStatus } from '../../config/index.js';
import type { DisksFigures } from './guest-disks-shell.js';

/** `disks` are those of the machine definition. */
export function disksStatus(
  disks: readonly { readonly name: string; readonly sizeBytes: number }[],
  figures: DisksFigures | undefined,
): DiskStatus[] {
  return disks.map(({ name, sizeBytes }, index) => {
    const disk = figures?.disks[index];
    const { bufferedBytes = 0, overlayBytes = 0, generation: found } = disk ?? {};
    const generation = found
      ? { id: found.generation, epoch: found.epoch, state: found.state }
      : null;
    return { name, sizeBytes, bufferedBytes, overlayBytes, generation };
  });
}
