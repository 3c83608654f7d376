/**
 * A time after which the kernel lets nothing more out of a TAP.
 *
 * A process that looks at the time and then writes can be stopped in between, for as long as you
 * like, and writes when it goes on. This look is the kernel's own, at each frame that comes in from
 * a TAP, before any bridge sees it: a BPF program of ten instructions. Shared memory, 8-byte words
 * in the host's order:
 *
 *     word 0        frames pass until then: CLOCK_BOOTTIME, microseconds
 *     word 1 + n    frames of slot n that were dropped
 *
 * Needs Linux 5.8 (`bpf_ktime_get_boot_ns`), CAP_BPF or CAP_SYS_ADMIN, and CAP_NET_ADMIN.
 */
import { closeSync } from 'node:fs';
import { assert } from '../lib/index.js';
import { createSharedArray, instruction, loadClassifier } from './bpf.js';
import { attachToIngress } from './classifier-link.js';
import { MemoryMap } from './memory-map.js';

const WORD_BYTES = 8;
/** One for each NIC of a guest. */
export const DEADLINE_SLOTS = 31;
const MEMORY_BYTES = (1 + DEADLINE_SLOTS) * WORD_BYTES;

const CALL = 0x85;
const BOOT_NS = 125;
const DIVIDE = 0x37;
const LOAD_ADDRESS = 0x18;
const OF_MAP_VALUE = 2;
const LOAD = 0x79;
const JUMP_IF_GREATER = 0x2d;
const MOVE = 0xb7;
const ATOMIC = 0xdb;
const EXIT = 0x95;
/** As if there were no program. */
const TC_ACT_UNSPEC = -1;
const TC_ACT_SHOT = 2;

export class OutputDeadline {
  /** Good in the whole process, for as long as this one is open. */
  readonly fd: number;
  readonly #words: BigInt64Array;

  private constructor(fd: number) {
    this.fd = fd;
    const bytes = MemoryMap.ofFile(fd, MEMORY_BYTES).view(0, MEMORY_BYTES);
    assert(bytes !== undefined, 'The words are in one window');
    this.#words = new BigInt64Array(bytes.buffer, bytes.byteOffset, 1 + DEADLINE_SLOTS);
  }

  /** Over from the beginning. Throws SystemCallError where the kernel or a right is missing. */
  static create(): OutputDeadline {
    return new OutputDeadline(createSharedArray(MEMORY_BYTES));
  }

  /** The one that another thread has made; it must outlive this. */
  static ofFd(fd: number): OutputDeadline {
    return new OutputDeadline(fd);
  }

  /** Frames pass before `untilUs`, in CLOCK_BOOTTIME; from the next frame on. */
  set(untilUs: number): void {
    Atomics.store(this.#words, 0, BigInt(untilUs));
  }

  /** Whatever is written to the TAP from now on passes here. Throws SystemCallError. */
  attach(tapName: string, slot: number): void {
    assert(slot >= 0 && slot < DEADLINE_SLOTS, `Slot ${slot}`);
    const program = loadClassifier(programOf(this.fd, slot));
    try {
      attachToIngress(tapName, program);
    } finally {
      closeSync(program);
    }
  }

  /** Frames that the kernel has dropped since the beginning. */
  dropped(slot: number): number {
    return Number(Atomics.load(this.#words, 1 + slot));
  }
}

function programOf(mapFd: number, slot: number): Buffer[] {
  const [now, words, until, one] = [0, 1, 2, 3];
  return [
    instruction(CALL, { value: BOOT_NS }),
    instruction(DIVIDE, { to: now, value: 1000 }),
    // Two instructions long.
    instruction(LOAD_ADDRESS, { to: words, from: OF_MAP_VALUE, value: mapFd }),
    instruction(0),
    instruction(LOAD, { to: until, from: words }),
    instruction(JUMP_IF_GREATER, { to: until, from: now, offset: 4 }),
    instruction(MOVE, { to: one, value: 1 }),
    instruction(ATOMIC, { to: words, from: one, offset: (1 + slot) * WORD_BYTES }),
    instruction(MOVE, { value: TC_ACT_SHOT }),
    instruction(EXIT),
    instruction(MOVE, { value: TC_ACT_UNSPEC }),
    instruction(EXIT),
  ];
}
