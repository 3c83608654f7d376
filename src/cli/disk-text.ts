/** What `colo verify` and `colo discard-image` say to people. Pure. */
import type { VerifiedDisk } from '../config/index.js';
import type { DiscardedDisk } from './discard-images.js';
import { formatBytes } from './status-text.js';

/** A line for each disk, and one for each place that differed. */
export function formatVerified(disks: readonly VerifiedDisk[]): string {
  return disks.map(verifiedText).join('');
}

export function formatDiscarded(disks: readonly DiscardedDisk[]): string {
  return disks
    .map(({ disk, image, kept }) => {
      const record = kept === null ? 'it had no record' : `its record is kept as ${kept}`;
      return `disk ${disk}: ${image} may be overwritten by the other host now; ${record}\n`;
    })
    .join('');
}

function verifiedText(disk: VerifiedDisk): string {
  const { name, clusters, differing, ranges, notCompared, repairedBytes, remaining } = disk;
  const parts = [`${clusters} clusters of 64 KiB`];
  parts.push(differing === 0 ? 'no differences' : `${differing} differ`);
  if (repairedBytes > 0) parts.push(`${formatBytes(repairedBytes)} repaired`);
  if (remaining !== differing) parts.push(`${remaining} differ now`);
  if (notCompared > 0) parts.push(`${notCompared} not compared, they were written all the time`);
  const places = ranges.map(({ offset, length }) => `  differed at ${offset}, ${length} bytes\n`);
  return `disk ${name}: ${parts.join(', ')}\n${places.join('')}`;
}
