/**
 * The smallest guest that shows whether RAM and registers moved together: a boot sector in real mode
 * that counts for ever. It writes the count that it keeps in a register to 0x500, increments another
 * one in memory at 0x504, and the first word of each page from 0x20000 to 0x8ffff.
 * A byte other than 0 at 0x600 makes it power the machine off.
 * In a consistent state the count in memory is the register's, or one less.
 */
const CODE = Buffer.from(
  [
    'fa', // cli
    '31c0', // xor ax, ax
    '8ed8', // mov ds, ax
    '6631d2', // xor edx, edx
    '6689160405', // mov [0x504], edx
    '803e000600', // lap: cmp byte [0x600], 0
    '7522', // jne off
    'bb0020', // mov bx, 0x2000
    '8ec3', // next: mov es, bx
    '26ff060000', // inc word es:[0]
    '6642', // inc edx
    '6689160005', // mov [0x500], edx
    '66ff060405', // inc dword [0x504]
    '81c30001', // add bx, 0x100
    '81fb0090', // cmp bx, 0x9000
    '75e3', // jne next
    'ebd7', // jmp lap
    'ba0406', // off: mov dx, 0x604 (PM1a control of the i440FX's ACPI)
    'b80020', // mov ax, 0x2000 (SLP_EN, type 0: soft off)
    'ef', // out dx, ax
    'f4', // hlt
    'ebfd', // jmp to the hlt
  ].join(''),
  'hex',
);

const IMAGE_BYTES = 2 ** 20;
export const POWER_OFF_OFFSET = 0x600;
export const COUNTERS_OFFSET = 0x500;
export const COUNTERS_BYTES = 8;

/** A raw disk image that boots the guest. */
export function bootSectorImage(): Buffer {
  const image = Buffer.alloc(IMAGE_BYTES);
  CODE.copy(image);
  image.writeUInt16LE(0xaa55, 510);
  return image;
}

/** QEMU arguments that boot `imagePath` as an IDE disk, without any replication of it. */
export function bootDiskArguments(imagePath: string): string[] {
  const disk = {
    driver: 'raw',
    'node-name': 'boot',
    file: { driver: 'file', filename: imagePath, locking: 'off' },
  };
  const drive = { driver: 'ide-hd', drive: 'boot', bootindex: 0 };
  return ['-blockdev', JSON.stringify(disk), '-device', JSON.stringify(drive)];
}
