/**
 * The few calls of bpf(2) that a program at a device needs: an array that is shared memory, and a
 * program that looks into it.
 *
 * Sources: bpf(2); Linux include/uapi/linux/bpf.h, Documentation/bpf/standardization/
 * instruction-set.rst. BPF_F_MMAPABLE is of Linux 5.5.
 */
import koffi from 'koffi';
import { check, libc } from './libc.js';

const SYS_BPF = 321;
const BPF_MAP_CREATE = 0;
const BPF_PROG_LOAD = 5;
const BPF_MAP_TYPE_ARRAY = 2;
const BPF_F_MMAPABLE = 1 << 10;
const BPF_PROG_TYPE_SCHED_CLS = 3;
const MAP_ATTRIBUTE_BYTES = 20;
const PROGRAM_ATTRIBUTE_BYTES = 64;
const KEY_BYTES = 4;
/** None of the functions that our programs call is reserved for GPL. */
const LICENSE = Buffer.from('MIT\0');

const bpf = libc.func('long syscall(long number, long command, void *attribute, size_t size)') as (
  number: number,
  command: number,
  attribute: Buffer,
  size: number,
) => number;

/**
 * An array of one value of `sizeBytes`, to be mapped from the descriptor that it gives, which the
 * caller closes. Zeroes at first. Throws SystemCallError.
 */
export function createSharedArray(sizeBytes: number): number {
  const attribute = Buffer.alloc(MAP_ATTRIBUTE_BYTES);
  attribute.writeUInt32LE(BPF_MAP_TYPE_ARRAY, 0);
  attribute.writeUInt32LE(KEY_BYTES, 4);
  attribute.writeUInt32LE(sizeBytes, 8);
  attribute.writeUInt32LE(1, 12);
  attribute.writeUInt32LE(BPF_F_MMAPABLE, 16);
  return check('bpf BPF_MAP_CREATE', bpf(SYS_BPF, BPF_MAP_CREATE, attribute, attribute.length));
}

/** One instruction, 8 bytes; the registers are 0 to 10. */
export function instruction(
  code: number,
  {
    to = 0,
    from = 0,
    offset = 0,
    value = 0,
  }: {
    readonly to?: number;
    readonly from?: number;
    readonly offset?: number;
    readonly value?: number;
  } = {},
): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt8(code, 0);
  bytes.writeUInt8(to | (from << 4), 1);
  bytes.writeInt16LE(offset, 2);
  bytes.writeInt32LE(value, 4);
  return bytes;
}

/** Gives the descriptor of a program for a device's traffic. Throws SystemCallError. */
export function loadClassifier(instructions: readonly Buffer[]): number {
  const program = Buffer.concat(instructions);
  const attribute = Buffer.alloc(PROGRAM_ATTRIBUTE_BYTES);
  attribute.writeUInt32LE(BPF_PROG_TYPE_SCHED_CLS, 0);
  attribute.writeUInt32LE(instructions.length, 4);
  attribute.writeBigUInt64LE(BigInt(koffi.address(program)), 8);
  attribute.writeBigUInt64LE(BigInt(koffi.address(LICENSE)), 16);
  return check('bpf BPF_PROG_LOAD', bpf(SYS_BPF, BPF_PROG_LOAD, attribute, attribute.length));
}
