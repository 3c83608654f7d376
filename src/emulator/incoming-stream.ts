/**
 * QEMU's migration stream, written by us, for a QEMU that was launched with `-incoming defer` (QEMU
 * migration/savevm.c, ram.c, 7.2). It is the other way in for a device state: QEMU takes one in
 * this way, once, and resets nothing before it. Big-endian. Guest RAM is not in it.
 *
 * | when      | part              | bytes                                                     |
 * |-----------|-------------------|-----------------------------------------------------------|
 * | at launch | header            | `QEVM`, be32 version 3                                    |
 * |           | configuration     | 0x07, be32 length, machine type                           |
 * |           | ROM, if it has one| below                                                     |
 * |           | return path       | 0x08, be16 1, be16 0                                      |
 * |           | ping              | 0x08, be16 2, be16 4, be32 what the pong says             |
 * | the load  | device sections   | as they were saved                                        |
 * |           | end               | 0x00                                                      |
 *
 * A QEMU that waits for a guest leaves its ROMs empty and forgets what was to be in them, as a
 * migration brings that; a guest without a BIOS would end with its next reset. So the BIOS goes
 * along, as a section `ram` with that one block:
 *
 * | bytes                                  | meaning                                          |
 * |----------------------------------------|--------------------------------------------------|
 * | 0x01, be32 id, 3, `ram`, be32 0, be32 4| section start: length and name, instance, version|
 * | be64 size + 0x04                       | bytes of all blocks that are named               |
 * | 7, `pc.bios`, be64 size                | the block                                        |
 * | be64 0x10, 0x7e, be32 id               | end of this part, footer                         |
 * | 0x03, be32 id                          | section end                                      |
 * | be64 0x08, 7, `pc.bios`, 4096 bytes    | the first page                                   |
 * | be64 offset + 0x28, 4096 bytes         | each page behind it, of the same block           |
 * | be64 0x10, 0x7e, be32 id               | as above                                         |
 *
 * QEMU answers with be16 type, be16 length, then the message: PONG (2, be32 what the ping said),
 * and SHUT (1, be32 0 or an error) when it has loaded the guest. It ends when it can't load it.
 */
import { assert, ByteWriter, PAGE_SIZE_BYTES, ProtocolError } from '../lib/index.js';
import { checkDeviceState, sectionsOf, streamBegin } from './device-state.js';
import { FIRMWARE_BYTES_MAX, INCOMING_ANSWER_BYTES_MAX } from './limits.js';

const SECTION_START = 0x01;
const SECTION_END = 0x03;
const COMMAND = 0x08;
const FOOTER = 0x7e;
const OPEN_RETURN_PATH = 1;
const PING = 2;
const RAM_VERSION = 4;
/** Other than those of the saved sections, which count from 0. */
const RAM_SECTION_ID = 0x434f_4c4f; // 'COLO'
const MEMORY_SIZE = 0x04;
const PAGE = 0x08;
const END_OF_PART = 0x10;
const SAME_BLOCK = 0x20;
const BIOS_BLOCK = 'pc.bios';
const BIOS_END = 2 ** 32;
const SHUT = 1;
const PONG = 2;
const ANSWER_HEADER_BYTES = 4;
const ANSWER_VALUE_BYTES = 4;

/** A ROM in the guest's address space, as HMP's `info roms` has it. */
export interface Rom {
  /** As QEMU was told: a path, or a file in one of its data folders. */
  readonly file: string;
  readonly sizeBytes: number;
}

/**
 * The BIOS that a QEMU which waits for a guest has forgotten; undefined: it has none (its firmware
 * is a flash disk). Throws ProtocolError of ROMs that are not known to be only that.
 */
export function parseBios(infoRoms: string): Rom | undefined {
  const roms = infoRoms.split('\n').filter((line) => line.includes(' mem=rom '));
  const [first] = roms;
  if (first === undefined) return undefined;
  const found = /^addr=([0-9a-f]{1,16}) size=0x([0-9a-f]{1,8}) mem=rom name="([^"]+)"\s*$/.exec(
    first,
  );
  const [, address = '', size = '', file = ''] = found ?? [];
  const sizeBytes = Number.parseInt(size, 16);
  const isBios = Number.parseInt(address, 16) + sizeBytes === BIOS_END;
  if (roms.length > 1 || found === null || !isBios) {
    throw new ProtocolError(`QEMU has ROMs other than a BIOS: ${roms.join('; ')}`);
  }
  if (sizeBytes > FIRMWARE_BYTES_MAX || sizeBytes % PAGE_SIZE_BYTES !== 0) {
    throw new ProtocolError(`QEMU has a BIOS of ${sizeBytes} bytes`);
  }
  return { file, sizeBytes };
}

/** All that goes before the device state. The pong will say `ping`, 32 bits. */
export function encodeIncomingBegin(
  machineType: string,
  bios: Buffer | undefined,
  ping: number,
): Buffer {
  const writer = new ByteWriter().bytes(streamBegin(machineType));
  if (bios !== undefined) writeBios(writer, bios);
  writer.uint8(COMMAND).uint16(OPEN_RETURN_PATH).uint16(0);
  return writer.uint8(COMMAND).uint16(PING).uint16(ANSWER_VALUE_BYTES).uint32(ping).finish();
}

/** A saved device state as the load of it; borrows `state`. Throws ProtocolError. */
export function encodeIncomingDevices(state: Buffer): Buffer {
  checkDeviceState(state);
  return sectionsOf(state);
}

function writeBios(writer: ByteWriter, bios: Buffer): void {
  assert(bios.length > 0 && bios.length % PAGE_SIZE_BYTES === 0, 'A BIOS has whole pages');
  writer.uint8(SECTION_START).uint32(RAM_SECTION_ID);
  writeName(writer, 'ram').uint32(0).uint32(RAM_VERSION);
  writer.uint53(bios.length + MEMORY_SIZE);
  writeName(writer, BIOS_BLOCK).uint53(bios.length);
  writePartEnd(writer).uint8(SECTION_END).uint32(RAM_SECTION_ID);
  for (let at = 0; at < bios.length; at += PAGE_SIZE_BYTES) {
    if (at === 0) writeName(writer.uint53(PAGE), BIOS_BLOCK);
    else writer.uint53(at + PAGE + SAME_BLOCK);
    writer.bytes(bios.subarray(at, at + PAGE_SIZE_BYTES));
  }
  writePartEnd(writer);
}

function writePartEnd(writer: ByteWriter): ByteWriter {
  return writer.uint53(END_OF_PART).uint8(FOOTER).uint32(RAM_SECTION_ID);
}

function writeName(writer: ByteWriter, name: string): ByteWriter {
  return writer.uint8(name.length).bytes(Buffer.from(name, 'latin1'));
}

export type IncomingAnswer =
  | { readonly kind: 'pong'; readonly value: number }
  /** The guest is loaded; `error`: 0, or QEMU's. */
  | { readonly kind: 'shut'; readonly error: number };

export class IncomingAnswers {
  #held: Buffer = Buffer.alloc(0);

  /** Throws ProtocolError. */
  write(chunk: Buffer): IncomingAnswer[] {
    if (this.#held.length + chunk.length > INCOMING_ANSWER_BYTES_MAX) {
      throw new ProtocolError(`QEMU says more than ${INCOMING_ANSWER_BYTES_MAX} bytes at once`);
    }
    this.#held = Buffer.concat([this.#held, chunk]);
    const answers: IncomingAnswer[] = [];
    while (this.#held.length >= ANSWER_HEADER_BYTES) {
      const type = this.#held.readUInt16BE(0);
      const length = this.#held.readUInt16BE(2);
      if ((type !== SHUT && type !== PONG) || length !== ANSWER_VALUE_BYTES) {
        throw new ProtocolError(`QEMU answers with message ${type} of ${length} bytes`);
      }
      if (this.#held.length < ANSWER_HEADER_BYTES + length) break;
      const value = this.#held.readUInt32BE(ANSWER_HEADER_BYTES);
      answers.push(type === PONG ? { kind: 'pong', value } : { kind: 'shut', error: value });
      this.#held = this.#held.subarray(ANSWER_HEADER_BYTES + length);
    }
    return answers;
  }
}
