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

/** The stream that `snapshot-load` takes: `state` with the configuration section it insists on. */
export function toLoadableState(state: Buffer, machineType: string): Buffer {
  checkDeviceState(state);
  const name = Buffer.from(machineType, 'latin1');
  const configuration = Buffer.alloc(5);
  configuration.writeUInt8(CONFIGURATION, 0);
  configuration.writeUInt32BE(name.length, 1);
  const sections = state.subarray(HEADER_BYTES);
  return Buffer.concat([state.subarray(0, HEADER_BYTES), configuration, name, sections]);
}
