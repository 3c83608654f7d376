/** The numbers by which Linux names a device, of `st_dev` or `st_rdev`. Source: gnu_dev_major(3). */
export function deviceNumbers(device: number): { readonly major: number; readonly minor: number } {
  const high = Math.floor(device / 2 ** 32);
  const low = device % 2 ** 32;
  return {
    major: ((low >>> 8) & 0xfff) + (high & 0xffff_f000),
    minor: (low & 0xff) + ((low >>> 12) & 0xf_ff00),
  };
}
