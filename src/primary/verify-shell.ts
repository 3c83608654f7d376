/** `colo verify`: one disk after the other, while the guest runs. */
import type { VerifiedDisk, VerifyAnswer, VerifyOptions } from '../config/index.js';
import type { Guest, VerifyReport } from '../guest/index.js';
import { ColoError } from '../lib/index.js';
import { VERIFY_RANGES_TOLD_MAX } from './limits.js';

/** `checkpoint`: asks for one; each disk begins at the end of an epoch. */
export async function verifyDisks(
  { disk, repair }: VerifyOptions,
  guest: Pick<Guest, 'definition' | 'disks'>,
  checkpoint: () => void,
): Promise<VerifyAnswer> {
  const { disks } = guest.definition;
  const wanted = [...disks.entries()].filter(([, { name, readOnly }]) => {
    return disk === null ? !readOnly : name === disk;
  });
  if (wanted.length === 0) {
    const names = disks.map(({ name }) => name).join(', ') || 'none';
    return refusal(disk === null ? 'The guest writes to no disk' : `The guest's disks: ${names}`);
  }
  const found: VerifiedDisk[] = [];
  for (const [index, { name }] of wanted) {
    try {
      const verifying = guest.disks.verify(index, { repair });
      checkpoint();
      found.push(answerOf(name, await verifying));
    } catch (error) {
      if (!(error instanceof ColoError)) throw error;
      return refusal(`Disk ${name} was not compared: ${error.message}`);
    }
  }
  return { ok: true, disks: found };
}

function refusal(reason: string): VerifyAnswer {
  return { ok: false, code: 'COLO_E_VERIFY', reason };
}

function answerOf(name: string, { found, repairedBytes, afterwards }: VerifyReport): VerifiedDisk {
  const last = afterwards ?? found;
  return {
    name,
    clusters: found.clusters,
    differing: found.differing,
    ranges: found.differingRanges.slice(0, VERIFY_RANGES_TOLD_MAX),
    notCompared: last.notCompared,
    repairedBytes,
    remaining: last.differing,
  };
}
