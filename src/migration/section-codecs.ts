/**
 * The fields of each section, big-endian, in the order of the codec's `encode`. A list of pages is
 * a u32 count, then for each range first page (u32) and pages (u32): ascending and not touching
 * where the section says so. A text is a u32 length and UTF-8.
 */
import {
  type ByteReader,
  ByteWriter,
  crc32c,
  joinCrc32c,
  PAGE_SIZE_BYTES,
  type PageRange,
  ProtocolError,
  restCrc32c,
} from '../lib/index.js';
import {
  BATCH_BYTES,
  DEFINITION_BYTES,
  DEVICE_STATE_BYTES,
  DEVICE_STATE_PIECE_BYTES,
  DIFFERENCES,
  DIGESTS_BYTES,
  DISKS,
  NAME_BYTES,
  NICS,
  RAM_BYTES,
  RANGES,
  REASON_BYTES,
} from './limits.js';
import {
  COMPRESSIONS,
  type DestinationSection,
  DISK_PLACES,
  type Difference,
  MIGRATION_MODES,
  type MigratedDisk,
  type MigratedNic,
  type MigrationChoices,
  RESUMED_STATES,
  type Section,
  type SectionKind,
  type SourceSection,
} from './messages.js';
import { encodeWith, type SectionCodec, SectionTable } from './section-table.js';
import { frameSection } from './section-wire.js';

const ID_BYTES = 16;
const SMALL = 4096;
const RANGES_BYTES = 8 + 8 * RANGES;

type CodecOf<K extends SectionKind> = SectionCodec<Extract<Section, { kind: K }>>;
type Layout<S> = Pick<SectionCodec<S>, 'maxBytes' | 'encode' | 'decode'>;

/** Version 1.0, required: so is all that is known yet. */
function section<S>(tag: string, layout: Layout<S>): SectionCodec<S> {
  return { tag, major: 1, minor: 0, required: true, ...layout };
}

function bare<K extends SectionKind>(tag: string, kind: K): CodecOf<K> {
  const codec = section<{ readonly kind: K }>(tag, {
    maxBytes: SMALL,
    encode: () => ({ fields: [] }),
    decode: () => ({ kind }),
  });
  return codec as unknown as CodecOf<K>;
}

const choices = section<MigrationChoices>('choices', {
  maxBytes: SMALL,
  encode: ({ mode, background, compression, assisted }) => ({
    fields: [
      new ByteWriter(4)
        .uint8(MIGRATION_MODES.indexOf(mode))
        .uint8(background ? 1 : 0)
        .uint8(COMPRESSIONS.indexOf(compression))
        .uint8(assisted ? 1 : 0)
        .finish(),
    ],
  }),
  decode: ({ fields }) => ({
    mode: oneOf(fields, MIGRATION_MODES, 'mode'),
    background: flag(fields),
    compression: oneOf(fields, COMPRESSIONS, 'compression'),
    assisted: flag(fields),
  }),
});

const disk = section<MigratedDisk>('disk', {
  maxBytes: SMALL,
  encode: ({ name, sizeBytes, place, readOnly }) => ({
    fields: [
      new ByteWriter()
        .text(name)
        .uint53(sizeBytes)
        .uint8(DISK_PLACES.indexOf(place))
        .uint8(readOnly ? 1 : 0)
        .finish(),
    ],
  }),
  decode: ({ fields }) => ({
    name: fields.text(NAME_BYTES),
    sizeBytes: fields.uint53(),
    place: oneOf(fields, DISK_PLACES, 'place of a disk'),
    readOnly: flag(fields),
  }),
});

const nic = section<MigratedNic>('nic', {
  maxBytes: SMALL,
  encode: ({ mac, bridge }) => ({ fields: [new ByteWriter().text(mac).text(bridge).finish()] }),
  decode: ({ fields }) => ({ mac: fields.text(NAME_BYTES), bridge: fields.text(NAME_BYTES) }),
});

const definition = section<string>('definition', {
  maxBytes: DEFINITION_BYTES,
  encode: (json) => ({ fields: [Buffer.from(json, 'utf8')] }),
  // Other fields would go into sections of their own.
  decode: ({ fields }) => fields.rest().toString('utf8'),
});

const hello: CodecOf<'hello'> = section('hello', {
  maxBytes: DEFINITION_BYTES + 256 * 1024,
  encode: (message) => ({
    fields: [
      idBytes(message.migration),
      new ByteWriter()
        .text(message.vm)
        .text(message.host)
        .text(message.qemuVersion)
        .text(message.machineType)
        .text(message.cpuModel)
        .uint8(message.accelerator === 'kvm' ? 1 : 0)
        .uint32(message.pageSizeBytes)
        .uint53(message.ramSizeBytes)
        .finish(),
    ],
    embedded: [
      ...encodeWith(choices, message.choices),
      ...message.disks.flatMap((item) => encodeWith(disk, item)),
      ...message.nics.flatMap((item) => encodeWith(nic, item)),
      ...encodeWith(definition, message.definitionJson),
    ],
  }),
  decode: ({ fields, embedded }) => ({
    kind: 'hello',
    migration: id(fields),
    vm: fields.text(NAME_BYTES),
    host: fields.text(NAME_BYTES),
    qemuVersion: fields.text(NAME_BYTES),
    machineType: fields.text(NAME_BYTES),
    cpuModel: fields.text(REASON_BYTES),
    accelerator: flag(fields) ? 'kvm' : 'tcg',
    pageSizeBytes: fields.uint32(),
    ramSizeBytes: ramSize(fields),
    choices: theOnly(embedded(choices), choices.tag),
    disks: atMost(embedded(disk), DISKS, disk.tag),
    nics: atMost(embedded(nic), NICS, nic.tag),
    definitionJson: theOnly(embedded(definition), definition.tag),
  }),
});

const resume: CodecOf<'resume'> = section('resume', {
  maxBytes: SMALL,
  encode: ({ migration, vm, host }) => ({
    fields: [idBytes(migration), new ByteWriter().text(vm).text(host).finish()],
  }),
  decode: ({ fields }) => ({
    kind: 'resume',
    migration: id(fields),
    vm: fields.text(NAME_BYTES),
    host: fields.text(NAME_BYTES),
  }),
});

type Batch<K extends 'pages' | 'demanded'> = Extract<Section, { kind: K }>;

function batchOf<K extends 'pages' | 'demanded'>(kind: K): SectionCodec<Batch<K>> {
  const codec = section<{ kind: K; sequence: number; batch: Buffer; crc?: number }>(kind, {
    maxBytes: BATCH_BYTES + 16,
    encode: ({ sequence, batch }) => ({ fields: batchFields(sequence, [batch]) }),
    decode: ({ fields, fieldsCrc }) => {
      const [sequence, length] = [fields.uint53(), fields.uint32()];
      const batch = fields.bytes(length);
      // Fields of a later version may follow.
      if (fieldsCrc === undefined || fields.remaining > 0) return { kind, sequence, batch };
      const head = new ByteWriter(12).uint53(sequence).uint32(length).finish();
      return { kind, sequence, batch, crc: restCrc32c(fieldsCrc, crc32c(head), length) };
    },
  });
  return codec as unknown as SectionCodec<Batch<K>>;
}

function batchFields(sequence: number, parts: readonly Buffer[]): Buffer[] {
  const bytes = parts.reduce((sum, { length }) => sum + length, 0);
  return [new ByteWriter(12).uint53(sequence).uint32(bytes).finish(), ...parts];
}

const round: CodecOf<'round'> = section('round', {
  maxBytes: SMALL,
  encode: (message) => ({
    fields: [
      new ByteWriter(20)
        .uint32(message.round)
        .uint53(message.batches)
        .uint53(message.dirtyPages)
        .finish(),
    ],
  }),
  decode: ({ fields }) => ({
    kind: 'round',
    round: fields.uint32(),
    batches: fields.uint53(),
    dirtyPages: fields.uint53(),
  }),
});

const pending: CodecOf<'pending'> = section('pending', {
  maxBytes: RANGES_BYTES,
  encode: ({ ranges }) => ({ fields: [rangesBytes(ranges)] }),
  decode: ({ fields }) => ({ kind: 'pending', ranges: ascendingRanges(fields) }),
});

const deviceState: CodecOf<'deviceState'> = section('device-state', {
  maxBytes: DEVICE_STATE_PIECE_BYTES + 16,
  encode: ({ bytes }) => ({
    fields: [new ByteWriter(4).uint32(bytes.length).finish(), bytes],
  }),
  decode: ({ fields }) => ({ kind: 'deviceState', bytes: fields.bytes(fields.uint32()) }),
});

const switchover: CodecOf<'switchover'> = section('switchover', {
  maxBytes: SMALL,
  encode: (message) => ({
    fields: [
      new ByteWriter()
        .uint8(message.postcopy ? 1 : 0)
        .uint53(message.batches)
        .uint32(message.streamDigest)
        .uint53(message.pendingPages)
        .uint32(message.deviceStateBytes)
        .uint32(message.deviceStateDigest)
        .uint8(message.ramDigest === undefined ? 0 : 1)
        .uint32(message.ramDigest ?? 0)
        .uint8(message.disksMoved ? 1 : 0)
        .finish(),
    ],
  }),
  decode: ({ fields }) => ({
    kind: 'switchover',
    postcopy: flag(fields),
    batches: fields.uint53(),
    streamDigest: fields.uint32(),
    pendingPages: fields.uint53(),
    deviceStateBytes: bounded(fields.uint32(), DEVICE_STATE_BYTES, 'bytes of device state'),
    deviceStateDigest: fields.uint32(),
    ramDigest: optionalUint32(fields),
    disksMoved: flag(fields),
  }),
});

const cancel: CodecOf<'cancel'> = section('cancel', {
  maxBytes: SMALL,
  encode: ({ reason }) => ({ fields: [new ByteWriter().text(cut(reason)).finish()] }),
  decode: ({ fields }) => ({ kind: 'cancel', reason: fields.text(REASON_BYTES) }),
});

const ASSIST = ['digests', 'known'] as const;
const assist: CodecOf<'assist'> = section('assist', {
  maxBytes: SMALL,
  encode: ({ answer }) => ({
    fields: [new ByteWriter(1).uint8(ASSIST.indexOf(answer)).finish()],
  }),
  decode: ({ fields }) => ({ kind: 'assist', answer: oneOf(fields, ASSIST, 'answer') }),
});

const accepted: CodecOf<'accepted'> = section('accepted', {
  maxBytes: SMALL + DEFINITION_BYTES,
  encode: ({ host, qemuVersion, image, verdictsJson }) => ({
    fields: [
      new ByteWriter()
        .text(host)
        .text(qemuVersion)
        .uint8(image === undefined ? 0 : 1)
        .finish(),
      ...(image === undefined ? [] : [idBytes(image)]),
      new ByteWriter().text(verdictsJson).finish(),
    ],
  }),
  decode: ({ fields }) => ({
    kind: 'accepted',
    host: fields.text(NAME_BYTES),
    qemuVersion: fields.text(NAME_BYTES),
    image: flag(fields) ? id(fields) : undefined,
    verdictsJson: fields.text(DEFINITION_BYTES),
  }),
});

const difference = section<Difference>('difference', {
  maxBytes: 3 * REASON_BYTES + 12,
  encode: (item) => ({
    fields: [
      new ByteWriter()
        .text(cut(item.what))
        .text(cut(item.source))
        .text(cut(item.destination))
        .finish(),
    ],
  }),
  decode: ({ fields }) => ({
    what: fields.text(REASON_BYTES),
    source: fields.text(REASON_BYTES),
    destination: fields.text(REASON_BYTES),
  }),
});

const refused: CodecOf<'refused'> = section('refused', {
  maxBytes: DIFFERENCES * (3 * REASON_BYTES + 64),
  encode: ({ differences }) => ({
    fields: [],
    embedded: differences.slice(0, DIFFERENCES).flatMap((item) => encodeWith(difference, item)),
  }),
  decode: ({ embedded }) => {
    const differences = atMost(embedded(difference), DIFFERENCES, difference.tag);
    if (differences.length === 0) throw new ProtocolError('A refusal without a difference');
    return { kind: 'refused', differences };
  },
});

const digests: CodecOf<'digests'> = section('digests', {
  maxBytes: DIGESTS_BYTES + 16,
  encode: ({ bytes, last }) => ({
    fields: [
      new ByteWriter(5)
        .uint8(last ? 1 : 0)
        .uint32(bytes.length)
        .finish(),
      bytes,
    ],
  }),
  decode: ({ fields }) => {
    const last = flag(fields);
    return { kind: 'digests', bytes: fields.bytes(fields.uint32()), last };
  },
});

const demand: CodecOf<'demand'> = section('demand', {
  maxBytes: RANGES_BYTES,
  encode: ({ ranges }) => ({ fields: [rangesBytes(ranges)] }),
  decode: ({ fields }) => ({ kind: 'demand', ranges: readRanges(fields) }),
});

const received: CodecOf<'received'> = section('received', {
  maxBytes: SMALL,
  // The number of the stream: there is one.
  encode: ({ sequence }) => ({ fields: [new ByteWriter(9).uint8(0).uint53(sequence).finish()] }),
  decode: ({ fields }) => {
    bounded(fields.uint8(), 0, 'as the number of a stream');
    return { kind: 'received', sequence: fields.uint53() };
  },
});

const placed: CodecOf<'placed'> = section('placed', {
  maxBytes: RANGES_BYTES,
  encode: ({ ranges }) => ({ fields: [rangesBytes(ranges)] }),
  decode: ({ fields }) => ({ kind: 'placed', ranges: readRanges(fields) }),
});

const running: CodecOf<'running'> = section('running', {
  maxBytes: SMALL,
  encode: ({ startUs }) => ({ fields: [new ByteWriter(8).uint53(startUs).finish()] }),
  decode: ({ fields }) => ({ kind: 'running', startUs: fields.uint53() }),
});

const resumed: CodecOf<'resumed'> = section('resumed', {
  maxBytes: SMALL,
  encode: ({ state }) => ({
    fields: [new ByteWriter(1).uint8(RESUMED_STATES.indexOf(state)).finish()],
  }),
  decode: ({ fields }) => ({ kind: 'resumed', state: oneOf(fields, RESUMED_STATES, 'state') }),
});

const missing: CodecOf<'missing'> = section('missing', {
  maxBytes: RANGES_BYTES + 1,
  encode: ({ ranges, last }) => ({
    fields: [new ByteWriter(1).uint8(last ? 1 : 0).finish(), rangesBytes(ranges)],
  }),
  decode: ({ fields }) => {
    const last = flag(fields);
    return { kind: 'missing', ranges: ascendingRanges(fields), last };
  },
});

/** A source that does not know it misses nothing that it needs. */
const faults: CodecOf<'faults'> = {
  ...section<Extract<Section, { kind: 'faults' }>>('faults', {
    maxBytes: SMALL,
    encode: (message) => ({
      fields: [
        new ByteWriter(24)
          .uint53(message.faults)
          .uint53(message.p50Us)
          .uint53(message.p99Us)
          .finish(),
      ],
    }),
    decode: ({ fields }) => ({
      kind: 'faults',
      faults: fields.uint53(),
      p50Us: fields.uint53(),
      p99Us: fields.uint53(),
    }),
  }),
  required: false,
};

const failed: CodecOf<'failed'> = section('failed', {
  maxBytes: SMALL,
  encode: ({ reason, ran }) => ({
    fields: [
      new ByteWriter()
        .uint8(ran ? 1 : 0)
        .text(cut(reason))
        .finish(),
    ],
  }),
  decode: ({ fields }) => {
    const ran = flag(fields);
    return { kind: 'failed', reason: fields.text(REASON_BYTES), ran };
  },
});

const SOURCE_CODECS: { readonly [K in SourceSection['kind']]: CodecOf<K> } = {
  hello,
  resume,
  pages: batchOf('pages'),
  demanded: batchOf('demanded'),
  round,
  pending,
  deviceState,
  switchover,
  run: bare('run', 'run'),
  cancel,
  released: bare('released', 'released'),
  assist,
};

const DESTINATION_CODECS: { readonly [K in DestinationSection['kind']]: CodecOf<K> } = {
  accepted,
  refused,
  digests,
  demand,
  received,
  placed,
  loaded: bare('loaded', 'loaded'),
  running,
  resumed,
  missing,
  faults,
  complete: bare('complete', 'complete'),
  failed,
};

/** What a source says; for the destination to decode. */
export const SOURCE_SECTIONS = new SectionTable<SourceSection>(SOURCE_CODECS);
/** What a destination says; for the source to decode. */
export const DESTINATION_SECTIONS = new SectionTable<DestinationSection>(DESTINATION_CODECS);

/** What is sent, with its CRC-32C. */
export interface CheckedParts {
  readonly parts: readonly Buffer[];
  readonly crc: number;
}

/** A batch's section; the batch is neither copied nor read. */
export function encodePages(
  kind: 'pages' | 'demanded',
  sequence: number,
  batch: CheckedParts,
): CheckedParts {
  const { tag, major, minor, required } = SOURCE_CODECS[kind];
  const fields = batchFields(sequence, batch.parts);
  const [head = Buffer.alloc(0)] = fields;
  const payloadBytes = fields.reduce((sum, { length }) => sum + length, 0);
  const payloadCrc = joinCrc32c(crc32c(head), batch.crc, payloadBytes - head.length);
  const parts = frameSection({ tag, major, minor, required, fields }, payloadCrc);
  const [header = Buffer.alloc(0)] = parts;
  return { parts, crc: joinCrc32c(crc32c(header), payloadCrc, payloadBytes) };
}

/** A list in pieces that fit a section each; one empty piece of an empty list. */
export function pieces(ranges: readonly PageRange[]): PageRange[][] {
  const found: PageRange[][] = [];
  for (let at = 0; at === 0 || at < ranges.length; at += RANGES) {
    found.push(ranges.slice(at, at + RANGES));
  }
  return found;
}

function rangesBytes(ranges: readonly PageRange[]): Buffer {
  const writer = new ByteWriter(4 + 8 * ranges.length).uint32(ranges.length);
  for (const { offset, length } of ranges) {
    writer.uint32(offset / PAGE_SIZE_BYTES).uint32(length / PAGE_SIZE_BYTES);
  }
  return writer.finish();
}

function readRanges(reader: ByteReader): PageRange[] {
  const count = bounded(reader.uint32(), RANGES, 'ranges of pages');
  // Before an array of that size: are they there at all?
  if (count * 8 > reader.remaining) {
    throw new ProtocolError(`${count} ranges of pages in ${reader.remaining} bytes`);
  }
  const ranges: PageRange[] = [];
  for (let i = 0; i < count; i += 1) {
    const first = reader.uint32();
    const length = reader.uint32() * PAGE_SIZE_BYTES;
    const offset = first * PAGE_SIZE_BYTES;
    if (length === 0 || offset + length > RAM_BYTES) {
      throw new ProtocolError(`A range of ${length} bytes of RAM at ${offset}`);
    }
    ranges.push({ offset, length });
  }
  return ranges;
}

function ascendingRanges(reader: ByteReader): PageRange[] {
  const ranges = readRanges(reader);
  let end = 0;
  for (const { offset, length } of ranges) {
    if (offset < end) throw new ProtocolError(`A range of pages at ${offset}, below ${end}`);
    end = offset + length;
  }
  return ranges;
}

function ramSize(reader: ByteReader): number {
  const bytes = reader.uint53();
  if (bytes === 0 || bytes > RAM_BYTES || bytes % PAGE_SIZE_BYTES !== 0) {
    throw new ProtocolError(`RAM of ${bytes} bytes`);
  }
  return bytes;
}

function idBytes(hex: string): Buffer {
  return Buffer.from(hex, 'hex');
}

function id(reader: ByteReader): string {
  return reader.bytes(ID_BYTES).toString('hex');
}

function flag(reader: ByteReader): boolean {
  const value = reader.uint8();
  if (value > 1) throw new ProtocolError(`A flag is ${value}, neither 0 nor 1`);
  return value === 1;
}

function optionalUint32(reader: ByteReader): number | undefined {
  const present = flag(reader);
  const value = reader.uint32();
  return present ? value : undefined;
}

function oneOf<T>(reader: ByteReader, values: readonly T[], what: string): T {
  const index = reader.uint8();
  const value = values[index];
  if (value === undefined) throw new ProtocolError(`A ${what} of unknown number ${index}`);
  return value;
}

function bounded(value: number, most: number, what: string): number {
  if (value > most) throw new ProtocolError(`${value} ${what}, at most ${most}`);
  return value;
}

function theOnly<T>(items: readonly T[], tag: string): T {
  const [item] = items;
  if (item === undefined || items.length > 1) {
    throw new ProtocolError(`${items.length} sections "${tag}" instead of one`);
  }
  return item;
}

function atMost<T>(items: readonly T[], most: number, tag: string): readonly T[] {
  bounded(items.length, most, `sections "${tag}"`);
  return items;
}

function cut(text: string): string {
  const bytes = Buffer.from(text, 'utf8');
  return bytes.length <= REASON_BYTES ? text : bytes.subarray(0, REASON_BYTES - 4).toString();
}
