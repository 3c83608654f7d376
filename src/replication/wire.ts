/**
 * The messages of the checkpoint protocol: payloads of transport frames, big-endian.
 *
 * | type   | channel | name        | payload                                                        |
 * | ------ | ------- | ----------- | -------------------------------------------------------------- |
 * | 0x0101 | control | hello       | be32 length + JSON (see hello.ts)                              |
 * | 0x0102 | control | helloReply  | be32 length + JSON                                             |
 * | 0x0103 | control | heartbeat   | u64: 0 if nothing is heard of the reader, else any other       |
 * | 0x0104 | control | endRecord   | epoch u64, RAM frames u32, pages u64, digest u32, device u32,  |
 * |        |         |             | disks u16, then per disk operations u64, bytes u64; then       |
 * |        |         |             | svmRuns u8, us since the resume u32                            |
 * | 0x0105 | control | committed   | epoch u64                                                      |
 * | 0x0106 | control | applied     | epoch u64, duration in us u64                                  |
 * | 0x0107 | control | unfit       | be32 length + reason                                           |
 * | 0x0108 | control | goodbye     | kind u8, be32 length + reason                                  |
 * | 0x0109 | control | takeover    | nothing                                                        |
 * | 0x010a | control | yielded     | nothing                                                        |
 * | 0x0120 | ram     | ramPages    | epoch u64, runs u32, per run offset u64, length u32, zero u8;  |
 * |        |         |             | then the data of the runs that are not zero, back to back      |
 * | 0x0121 | ram     | deviceState | epoch u64, then the bytes                                      |
 * | 0x0122 | ram     | ramEnd      | epoch u64, frames u32, pages u64, verify u8, RAM digest u32    |
 * | 0x0123 | ram     | digestsWanted | epoch u64, first page u32, pages u32: of the secondary's RAM |
 * | 0x0124 | ram     | ramDigests  | epoch u64, then a batch of digests (src/migration/store/       |
 * |        |         |             | digest-wire.ts); secondary to primary                          |
 * | 0x0140 | network | inbound     | epoch u64, NIC u16, then a batch of be32-length frames         |
 * | 0x0141 | network | addresses   | NIC u16, then the proxy's address table                        |
 * | 0x0142 | network | epochMark   | epoch u64 that begins: what follows is inbound of it; exact u8 |
 * | 0x0143 | network | openedFlow  | epoch u64, NIC u16, then the proxy's record of the flow        |
 * | 0x0144 | network | svmOutput   | epoch u64, NIC u16, then a batch; secondary to primary         |
 * | 0x0145 | network | translations | NIC u16, then the proxy's records of translated connections   |
 * | 0x0146 | network | flowsKnown  | epoch u64, NIC u16, openedFlows taken in it u32; to primary    |
 *
 * Types 0x0130 to 0x013f are the disk channel's and live in src/blockrep.
 * Epoch N is what runs between checkpoints N and N + 1; every message names the epoch that it
 * belongs to, and "committed N" means that the secondary can continue from the end of epoch N.
 */
import {
  ByteReader,
  ByteWriter,
  crc32c,
  PAGE_SIZE_BYTES,
  type PageRange,
  ProtocolError,
} from '../lib/index.js';
import {
  DEVICE_STATE_BYTES,
  DIGESTS_WANTED_PAGES,
  DISKS,
  HELLO_BYTES,
  RAM_FRAME_PAGES,
  REASON_BYTES,
} from './limits.js';

export const MessageType = {
  hello: 0x0101,
  helloReply: 0x0102,
  heartbeat: 0x0103,
  endRecord: 0x0104,
  committed: 0x0105,
  applied: 0x0106,
  unfit: 0x0107,
  goodbye: 0x0108,
  takeover: 0x0109,
  yielded: 0x010a,
  ramPages: 0x0120,
  deviceState: 0x0121,
  ramEnd: 0x0122,
  digestsWanted: 0x0123,
  ramDigests: 0x0124,
  inbound: 0x0140,
  addresses: 0x0141,
  epochMark: 0x0142,
  openedFlow: 0x0143,
  svmOutput: 0x0144,
  translations: 0x0145,
  flowsKnown: 0x0146,
} as const;

/** On the wire each is its place here, from 1. */
const GOODBYES = ['handover', 'guest-off', 'detach', 'stop'] as const;

/**
 * Why a session ends in order. `handover`: it is silent for good and the secondary shall go on.
 * `guest-off`: the guest powered itself off, which is to be respected, not failed over. `detach`: it
 * goes on without a secondary, which is to say so (`unfit`) when it has let go; `stop`: and to end.
 */
export type GoodbyeKind = (typeof GOODBYES)[number];

/** What the secondary must have staged before it may commit `epoch` (DESIGN section 3, step 4). */
export interface EndRecord {
  readonly epoch: number;
  readonly ramFrames: number;
  readonly ramPages: number;
  /** CRC-32C over the CRC-32Cs of the RAM frames' payloads, in order; see `RamDigest`. */
  readonly ramDigest: number;
  readonly deviceStateBytes: number;
  readonly disks: readonly { readonly operations: number; readonly bytes: number }[];
  /** Mode colo: after the apply the SVM executes, and what it says is compared. */
  readonly svmRuns: boolean;
  /** How long the PVM has been running again when this is sent, microseconds. */
  readonly sinceResumeUs: number;
}

/** Whether its sender says that it hears nothing of the reader. */
export function isDeaf(message: { readonly kind: string; readonly hears?: boolean }): boolean {
  return message.hears === false;
}

export type ControlMessage =
  | { readonly kind: 'hello'; readonly json: string }
  | { readonly kind: 'helloReply'; readonly json: string }
  /** `hears`: of the reader, of late. */
  | { readonly kind: 'heartbeat'; readonly hears: boolean }
  | { readonly kind: 'endRecord'; readonly record: EndRecord }
  | { readonly kind: 'committed'; readonly epoch: number }
  | { readonly kind: 'applied'; readonly epoch: number; readonly durationUs: number }
  | { readonly kind: 'unfit'; readonly reason: string }
  | { readonly kind: 'goodbye'; readonly goodbye: GoodbyeKind; readonly reason: string }
  | { readonly kind: 'takeover' }
  | { readonly kind: 'yielded' };

/** One run of pages of a RAM frame; `data` is undefined for zero pages, else borrowed. */
export interface RamRun extends PageRange {
  readonly data: Buffer | undefined;
}

export type RamMessage =
  | { readonly kind: 'ramPages'; readonly epoch: number; readonly runs: readonly RamRun[] }
  | { readonly kind: 'deviceState'; readonly epoch: number; readonly bytes: Buffer }
  | {
      readonly kind: 'ramEnd';
      readonly epoch: number;
      readonly frames: number;
      readonly pages: number;
      /** CRC-32C of the whole guest RAM at the checkpoint, in a `--verify` run. */
      readonly verifyDigest: number | undefined;
    }
  /** Only if the hello and its answer have agreed on it, and before the first `ramEnd`. */
  | ({ readonly kind: 'digestsWanted'; readonly epoch: number } & WantedDigests);

/** Pages of the secondary's RAM of which the primary wants digests. */
export interface WantedDigests {
  readonly first: number;
  readonly pages: number;
}

export type NetworkMessage =
  | {
      readonly kind: 'inbound';
      readonly epoch: number;
      readonly nic: number;
      readonly batch: Buffer;
    }
  | { readonly kind: 'addresses'; readonly nic: number; readonly table: Buffer }
  /** `exact`: the PVM had consumed all inbound before it, and nothing of what follows. */
  | { readonly kind: 'epochMark'; readonly epoch: number; readonly exact: boolean }
  | {
      readonly kind: 'openedFlow';
      readonly epoch: number;
      readonly nic: number;
      readonly flow: Buffer;
    }
  | {
      readonly kind: 'svmOutput';
      readonly epoch: number;
      readonly nic: number;
      readonly batch: Buffer;
    }
  /** The secondary translates the first `count` flows that `openedFlow` named in `epoch`. */
  | {
      readonly kind: 'flowsKnown';
      readonly epoch: number;
      readonly nic: number;
      readonly count: number;
    }
  /** Connections whose remote ends know other numbers than the PVM's; of no epoch. */
  | { readonly kind: 'translations'; readonly nic: number; readonly records: Buffer };

/** Running digest of the RAM frames of one epoch: detects a missing, doubled or swapped frame. */
export class RamDigest {
  #value = 0;

  add(payloadCrc: number): void {
    const bytes = Buffer.allocUnsafe(4);
    bytes.writeUInt32BE(payloadCrc);
    this.#value = crc32c(bytes, this.#value);
  }

  get value(): number {
    return this.#value;
  }
}

/** A payload ready for a transport link. */
export interface EncodedMessage {
  readonly type: number;
  readonly parts: readonly Buffer[];
  /** CRC-32C of the parts, where somebody has read them for it. */
  readonly crc?: number;
}

/** Encodes a message of the control channel. */
export function encodeControl(message: ControlMessage): EncodedMessage {
  const type = MessageType[message.kind];
  return { type, parts: [controlPayload(message)] };
}

function controlPayload(message: ControlMessage): Buffer {
  const writer = new ByteWriter();
  switch (message.kind) {
    case 'hello':
    case 'helloReply':
      return writer.text(message.json).finish();
    case 'heartbeat':
      return writer.uint53(message.hears ? 1 : 0).finish();
    case 'endRecord':
      return endRecordPayload(message.record);
    case 'committed':
      return writer.uint53(message.epoch).finish();
    case 'applied':
      return writer.uint53(message.epoch).uint53(message.durationUs).finish();
    case 'unfit':
      return writer.text(cut(message.reason)).finish();
    case 'goodbye':
      writer.uint8(1 + GOODBYES.indexOf(message.goodbye));
      return writer.text(cut(message.reason)).finish();
    case 'takeover':
    case 'yielded':
      return writer.finish();
  }
}

function endRecordPayload(record: EndRecord): Buffer {
  const writer = new ByteWriter(64 + 16 * record.disks.length)
    .uint53(record.epoch)
    .uint32(record.ramFrames)
    .uint53(record.ramPages)
    .uint32(record.ramDigest)
    .uint32(record.deviceStateBytes)
    .uint16(record.disks.length);
  for (const disk of record.disks) writer.uint53(disk.operations).uint53(disk.bytes);
  return writer
    .uint8(record.svmRuns ? 1 : 0)
    .uint32(record.sinceResumeUs)
    .finish();
}

/** Decodes a message of the control channel. Throws `ProtocolError`. */
export function decodeControl(type: number, payload: Buffer): ControlMessage {
  const reader = new ByteReader(payload);
  const message = controlMessage(type, reader);
  reader.end();
  return message;
}

function controlMessage(type: number, reader: ByteReader): ControlMessage {
  switch (type) {
    case MessageType.hello:
      return { kind: 'hello', json: reader.text(HELLO_BYTES) };
    case MessageType.helloReply:
      return { kind: 'helloReply', json: reader.text(HELLO_BYTES) };
    case MessageType.heartbeat:
      return { kind: 'heartbeat', hears: reader.uint53() !== 0 };
    case MessageType.endRecord:
      return { kind: 'endRecord', record: readEndRecord(reader) };
    case MessageType.committed:
      return { kind: 'committed', epoch: reader.uint53() };
    case MessageType.applied:
      return { kind: 'applied', epoch: reader.uint53(), durationUs: reader.uint53() };
    case MessageType.unfit:
      return { kind: 'unfit', reason: reader.text(REASON_BYTES) };
    case MessageType.goodbye: {
      const kind = reader.uint8();
      const goodbye = GOODBYES[kind - 1];
      if (goodbye === undefined) throw new ProtocolError(`Goodbye of unknown kind ${kind}`);
      return { kind: 'goodbye', goodbye, reason: reader.text(REASON_BYTES) };
    }
    case MessageType.takeover:
      return { kind: 'takeover' };
    case MessageType.yielded:
      return { kind: 'yielded' };
    default:
      throw new ProtocolError(`Message type ${type} does not belong on the control channel`);
  }
}

function readEndRecord(reader: ByteReader): EndRecord {
  const head = {
    epoch: reader.uint53(),
    ramFrames: reader.uint32(),
    ramPages: reader.uint53(),
    ramDigest: reader.uint32(),
    deviceStateBytes: reader.uint32(),
  };
  const count = reader.uint16();
  if (count > DISKS) throw new ProtocolError(`An end record of ${count} disks, at most ${DISKS}`);
  const disks = [];
  for (let i = 0; i < count; i++) {
    disks.push({ operations: reader.uint53(), bytes: reader.uint53() });
  }
  return { ...head, disks, svmRuns: readFlag(reader), sinceResumeUs: reader.uint32() };
}

/** Encodes a frame of pages. `data` holds the bytes of the runs that are not zero, in order. */
export function encodeRamPages(
  epoch: number,
  runs: readonly { readonly offset: number; readonly length: number; readonly zero: boolean }[],
  data: Buffer,
): EncodedMessage {
  const writer = new ByteWriter(12 + 13 * runs.length).uint53(epoch).uint32(runs.length);
  for (const run of runs) {
    writer
      .uint53(run.offset)
      .uint32(run.length)
      .uint8(run.zero ? 1 : 0);
  }
  return { type: MessageType.ramPages, parts: [writer.finish(), data] };
}

/** Encodes the device state of the checkpoint that ends `epoch`. */
export function encodeDeviceState(epoch: number, bytes: Buffer): EncodedMessage {
  const head = new ByteWriter(8).uint53(epoch).finish();
  return { type: MessageType.deviceState, parts: [head, bytes] };
}

/** Encodes the end of an epoch on the RAM channel. */
export function encodeRamEnd(end: {
  epoch: number;
  frames: number;
  pages: number;
  verifyDigest: number | undefined;
}): EncodedMessage {
  const writer = new ByteWriter()
    .uint53(end.epoch)
    .uint32(end.frames)
    .uint53(end.pages)
    .uint8(end.verifyDigest === undefined ? 0 : 1)
    .uint32(end.verifyDigest ?? 0);
  return { type: MessageType.ramEnd, parts: [writer.finish()] };
}

/** Encodes the wish for digests; they are asked for in ascending order, without gaps. */
export function encodeDigestsWanted(
  epoch: number,
  { first, pages }: WantedDigests,
): EncodedMessage {
  const writer = new ByteWriter(16).uint53(epoch).uint32(first).uint32(pages);
  return { type: MessageType.digestsWanted, parts: [writer.finish()] };
}

/** Encodes some digests of the secondary's RAM; `epoch` is that of the hello. */
export function encodeRamDigests(epoch: number, batch: Buffer): EncodedMessage {
  return { type: MessageType.ramDigests, parts: [new ByteWriter(8).uint53(epoch).finish(), batch] };
}

/** The batch in a message that must be of digests and of `epoch`. Throws `ProtocolError`. */
export function decodeRamDigests(type: number, payload: Buffer, epoch: number): Buffer {
  if (type !== MessageType.ramDigests) {
    throw new ProtocolError(`A secondary does not send message type ${type} on the RAM channel`);
  }
  const reader = new ByteReader(payload);
  const found = reader.uint53();
  if (found !== epoch) throw new ProtocolError(`Digests of epoch ${found} instead of ${epoch}`);
  return reader.rest();
}

/** Decodes a message of the RAM channel; every run is checked against `ramSizeBytes`. */
export function decodeRam(type: number, payload: Buffer, ramSizeBytes: number): RamMessage {
  const reader = new ByteReader(payload);
  const epoch = reader.uint53();
  switch (type) {
    case MessageType.ramPages:
      return { kind: 'ramPages', epoch, runs: readRuns(reader, ramSizeBytes) };
    case MessageType.deviceState:
      if (reader.remaining > DEVICE_STATE_BYTES) {
        throw new ProtocolError(`A device state of ${reader.remaining} bytes is too large`);
      }
      return { kind: 'deviceState', epoch, bytes: reader.rest() };
    case MessageType.ramEnd: {
      const frames = reader.uint32();
      const pages = reader.uint53();
      const verify = reader.uint8() !== 0;
      const digest = reader.uint32();
      reader.end();
      return { kind: 'ramEnd', epoch, frames, pages, verifyDigest: verify ? digest : undefined };
    }
    case MessageType.digestsWanted: {
      const first = reader.uint32();
      const pages = reader.uint32();
      reader.end();
      const end = (first + pages) * PAGE_SIZE_BYTES;
      if (pages === 0 || pages > DIGESTS_WANTED_PAGES || end > ramSizeBytes) {
        throw new ProtocolError(`Digests of pages ${first}+${pages} of ${ramSizeBytes} bytes`);
      }
      return { kind: 'digestsWanted', epoch, first, pages };
    }
    default:
      throw new ProtocolError(`Message type ${type} does not belong on the RAM channel`);
  }
}

function readRuns(reader: ByteReader, ramSizeBytes: number): RamRun[] {
  const count = reader.uint32();
  if (count > RAM_FRAME_PAGES) {
    throw new ProtocolError(`A RAM frame of ${count} runs, at most ${RAM_FRAME_PAGES}`);
  }
  const heads = [];
  let pages = 0;
  for (let i = 0; i < count; i++) {
    const offset = reader.uint53();
    const length = reader.uint32();
    const zero = reader.uint8() !== 0;
    const aligned = offset % PAGE_SIZE_BYTES === 0 && length % PAGE_SIZE_BYTES === 0;
    if (!aligned || length === 0 || offset + length > ramSizeBytes) {
      throw new ProtocolError(
        `A run of ${length} bytes at ${offset} does not fit RAM of ${ramSizeBytes}`,
      );
    }
    pages += length / PAGE_SIZE_BYTES;
    if (pages > RAM_FRAME_PAGES) {
      throw new ProtocolError(`A RAM frame of more than ${RAM_FRAME_PAGES} pages`);
    }
    heads.push({ offset, length, zero });
  }
  const runs = heads.map(({ offset, length, zero }) => ({
    offset,
    length,
    data: zero ? undefined : reader.bytes(length),
  }));
  reader.end();
  return runs;
}

/** Encodes LAN frames for the SVM: `batch` in the format of src/proxy/batch-wire.ts. */
export function encodeInbound(epoch: number, nic: number, batch: Buffer): EncodedMessage {
  const head = new ByteWriter(10).uint53(epoch).uint16(nic).finish();
  return { type: MessageType.inbound, parts: [head, batch] };
}

/** Encodes what the primary learnt of the guest's addresses; `table` is the proxy's own format. */
export function encodeAddresses(nic: number, table: Buffer): EncodedMessage {
  return { type: MessageType.addresses, parts: [new ByteWriter(2).uint16(nic).finish(), table] };
}

/** Encodes the beginning of `epoch` on the network channel. */
export function encodeEpochMark(epoch: number, exact: boolean): EncodedMessage {
  const payload = new ByteWriter(9)
    .uint53(epoch)
    .uint8(exact ? 1 : 0)
    .finish();
  return { type: MessageType.epochMark, parts: [payload] };
}

/** Encodes a connection that both guests opened in `epoch`; `flow` is the proxy's own format. */
export function encodeOpenedFlowMessage(epoch: number, nic: number, flow: Buffer): EncodedMessage {
  const head = new ByteWriter(10).uint53(epoch).uint16(nic).finish();
  return { type: MessageType.openedFlow, parts: [head, flow] };
}

/** Encodes how many `openedFlow` of `epoch` the secondary has taken: only now may their SYNs leave. */
export function encodeFlowsKnown(epoch: number, nic: number, count: number): EncodedMessage {
  const payload = new ByteWriter(14).uint53(epoch).uint16(nic).uint32(count).finish();
  return { type: MessageType.flowsKnown, parts: [payload] };
}

/** Encodes what the primary translates for the LAN; `records` is the proxy's own format. */
export function encodeTranslationsMessage(nic: number, records: Buffer): EncodedMessage {
  const head = new ByteWriter(2).uint16(nic).finish();
  return { type: MessageType.translations, parts: [head, records] };
}

/** Encodes what the SVM said in `epoch`. */
export function encodeSvmOutput(epoch: number, nic: number, batch: Buffer): EncodedMessage {
  const head = new ByteWriter(10).uint53(epoch).uint16(nic).finish();
  return { type: MessageType.svmOutput, parts: [head, batch] };
}

/** Decodes a message of the network channel; the batch itself is the proxy's to check. */
export function decodeNetwork(type: number, payload: Buffer, nics: number): NetworkMessage {
  const reader = new ByteReader(payload);
  const nic = (): number => {
    const index = reader.uint16();
    if (index >= nics) throw new ProtocolError(`NIC ${index} of a guest that has ${nics}`);
    return index;
  };
  switch (type) {
    case MessageType.inbound:
      return { kind: 'inbound', epoch: reader.uint53(), nic: nic(), batch: reader.rest() };
    case MessageType.addresses:
      return { kind: 'addresses', nic: nic(), table: reader.rest() };
    case MessageType.epochMark: {
      const epoch = reader.uint53();
      const exact = readFlag(reader);
      reader.end();
      return { kind: 'epochMark', epoch, exact };
    }
    case MessageType.openedFlow:
      return { kind: 'openedFlow', epoch: reader.uint53(), nic: nic(), flow: reader.rest() };
    case MessageType.svmOutput:
      return { kind: 'svmOutput', epoch: reader.uint53(), nic: nic(), batch: reader.rest() };
    case MessageType.translations:
      return { kind: 'translations', nic: nic(), records: reader.rest() };
    case MessageType.flowsKnown: {
      const epoch = reader.uint53();
      const index = nic();
      const count = reader.uint32();
      reader.end();
      return { kind: 'flowsKnown', epoch, nic: index, count };
    }
    default:
      throw new ProtocolError(`Message type ${type} does not belong on the network channel`);
  }
}

function readFlag(reader: ByteReader): boolean {
  const value = reader.uint8();
  if (value > 1) throw new ProtocolError(`A flag is ${value}, neither 0 nor 1`);
  return value === 1;
}

function cut(reason: string): string {
  const bytes = Buffer.from(reason, 'utf8');
  return bytes.length <= REASON_BYTES ? reason : bytes.subarray(0, REASON_BYTES - 4).toString();
}
