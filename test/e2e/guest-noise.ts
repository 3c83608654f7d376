/** Memory of a guest in use, filled with what does not shrink. Commands for its shell. */

/** In the guest. */
export const NOISE = '/tmp/noise';

export const MOUNT_NOISE = `mkdir ${NOISE} && mount -t tmpfs noise ${NOISE}`;
export const SUM_NOISE = `sha256sum ${NOISE}/*`;

export function makeNoise(bytes: number, name: string): string {
  return `head -c ${Math.ceil(bytes)} /dev/urandom > ${NOISE}/${name}`;
}
