/**
 * QEMU's migration stream as `xen-save-devices-state` writes it and as `snapshot-load` reads it
 * (QEMU migration/savevm.c, 7.2). Big-endian.
 *
 * | saved                     | loaded                                        |
 * |---------------------------|-----------------------------------------------|
 * | `QEVM`, be32 version 3    | the same                                      |
 * |                           | configuration section: 0x07, be32 length, machine type |
 * | sections, 0x04 each       | the same                                      |
 * | end: 0x00                 | the same                                      |
 *
 * The sections have no length of their own: only QEMU's device models know where one ends. So what
 * is checked here is the frame; what the sections say is checked by QEMU when it loads them.
 */
import { ProtocolError } from '../lib/index.js';
import { DEVICE_STATE_BYTES_MAX } from './limits.js';

const MAGIC = 0x5145_564d; // 'QEVM'
const VERSION = 3;
const SECTION_FULL = 0x04;
const CONFIGURATION = 0x07;
const END = 0x00;
const HEADER_BYTES = 8;
/** Behind type and id: name length, name, instance 0, version 2. */
const TIMER_SECTION = Buffer.from('\x05timer\0\0\0\0\0\0\0\x02', 'latin1');
const TIMER_SECTION_AT = HEADER_BYTES + 5;
const TIMER_DATA_AT = TIMER_SECTION_AT + TIMER_SECTION.length;
/** Header, an empty section (type, id, name length, instance, version) and the end. */
const BYTES_MIN = HEADER_BYTES + 14 + 1;

/** Throws ProtocolError unless `state` has the frame of a saved device state. */
export function checkDeviceState(state: Buffer): void {
  if (state.length < BYTES_MIN || state.length > DEVICE_STATE_BYTES_MAX) {
    throw new ProtocolError(
      `A device state of ${state.length} bytes is outside ${BYTES_MIN} to ${DEVICE_STATE_BYTES_MAX}`,
    );
  }
  const magic = state.readUInt32BE(0);
  const version = state.readUInt32BE(4);
  if (magic !== MAGIC || version !== VERSION) {
    throw new ProtocolError(
      `A device state starts with ${magic.toString(16)} version ${version}, not QEVM version 3`,
    );
  }
  if (state.readUInt8(HEADER_BYTES) !== SECTION_FULL || state.readUInt8(state.length - 1) !== END) {
    throw new ProtocolError('A device state has no first section or no end');
  }
}

/**
 * Sets the guest's clock forward by `us`, in place: an SVM that is resumed later than the PVM would
 * otherwise be behind it. To the guest it looks as if it had not been given the processor.
 *
 * The section `timer` has the TSC's and the clock's value at the stop (QEMU softmmu/cpu-timers.c,
 * `vmstate_timers`, version 2: ticks i64, unused 8 bytes, ns i64). Both have run at the same times,
 * so their ratio is the TSC's rate. It is what a TCG guest reads; under KVM the clocks are the
 * vCPU's, and this section is not used. Without such a section nothing is changed.
 */
export function advanceClock(state: Buffer, us: number): void {
  if (!state.subarray(TIMER_SECTION_AT, TIMER_DATA_AT).equals(TIMER_SECTION)) return;
  if (state.length < TIMER_DATA_AT + 24) return;
  const ticks = state.readBigInt64BE(TIMER_DATA_AT);
  const clockNs = state.readBigInt64BE(TIMER_DATA_AT + 16);
  if (ticks <= 0n || clockNs <= 0n) return;
  const advanceNs = BigInt(Math.round(us)) * 1000n;
  state.writeBigInt64BE(ticks + (advanceNs * ticks) / clockNs, TIMER_DATA_AT);
  state.writeBigInt64BE(clockNs + advanceNs, TIMER_DATA_AT + 16);
}

/** The stream that `snapshot-load` takes: `state` with the configuration section it insists on. */
export function toLoadableState(state: Buffer, machineType: string): Buffer {
  checkDeviceState(state);
  return Buffer.concat([streamBegin(machineType), sectionsOf(state)]);
}

/** Header and configuration section of any stream for QEMU. */
export function streamBegin(machineType: string): Buffer {
  const name = Buffer.from(machineType, 'latin1');
  const begin = Buffer.alloc(HEADER_BYTES + 5);
  begin.writeUInt32BE(MAGIC, 0);
  begin.writeUInt32BE(VERSION, 4);
  begin.writeUInt8(CONFIGURATION, HEADER_BYTES);
  begin.writeUInt32BE(name.length, HEADER_BYTES + 1);
  return Buffer.concat([begin, name]);
}

/** Sections and end of a checked device state; borrows it. */
export function sectionsOf(state: Buffer): Buffer {
  return state.subarray(HEADER_BYTES);
}
