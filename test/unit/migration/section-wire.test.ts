import { readFileSync } from 'node:fs';
import test from 'ava';
import { ByteWriter, crc32c, ProtocolError } from '../../../src/lib/index.js';
import {
  DESTINATION_SECTIONS,
  type SectionCodec,
  SectionReader,
  SectionTable,
  SOURCE_SECTIONS,
  unframeSection,
} from '../../../src/migration/index.js';
import { goldenPath } from '../../support/golden.js';
import {
  DESTINATION,
  destinationStream,
  PRECOPY,
  SOURCE_REST,
  sourceStream,
} from '../../support/migration-sections.js';

const HEADER = 32;
const TAG = 12;
const golden = (name: string): Buffer => readFileSync(goldenPath(`migration/${name}`));

/** All or nothing, as for a recorded stream. */
function readSource(bytes: Buffer) {
  const reader = new SectionReader(SOURCE_SECTIONS.limit);
  const raw = reader.write(bytes);
  reader.end();
  return raw.map((section) => SOURCE_SECTIONS.decode(section)).filter((s) => s !== undefined);
}

function readDestination(bytes: Buffer) {
  const reader = new SectionReader(DESTINATION_SECTIONS.limit);
  const raw = reader.write(bytes);
  reader.end();
  return raw.map((section) => DESTINATION_SECTIONS.decode(section));
}

test('the recorded streams of version 1.0 are read, and written to the same bytes', (t) => {
  const source = golden('source-1.0.bin');
  t.deepEqual(readSource(source), [...PRECOPY, ...SOURCE_REST]);
  t.deepEqual(sourceStream([...PRECOPY, ...SOURCE_REST]), source);
  const destination = golden('destination-1.0.bin');
  t.deepEqual(readDestination(destination), [...DESTINATION]);
  t.deepEqual(destinationStream(DESTINATION), destination);
});

test('whoever knows the checksum of a section need not read it again', (t) => {
  for (const section of PRECOPY) {
    const bytes = Buffer.concat(SOURCE_SECTIONS.encode(section));
    const raw = unframeSection(bytes, SOURCE_SECTIONS.limit, crc32c(bytes));
    const decoded = SOURCE_SECTIONS.decode(raw);
    if (section.kind !== 'pages') t.deepEqual(decoded, section);
    else t.deepEqual(decoded, { ...section, crc: crc32c(section.batch) });
    // One that is not of these bytes shows that they are not what was sent.
    const other = crc32c(bytes) ^ 1;
    t.throws(() => unframeSection(bytes, SOURCE_SECTIONS.limit, other), {
      message: /does not have its checksum/,
    });
  }
  t.true(PRECOPY.some(({ kind }) => kind === 'pages'));
});

test('a stream is the same cut anywhere, byte by byte too', (t) => {
  const bytes = golden('source-1.0.bin');
  const whole = readSource(bytes);
  for (let at = 0; at <= bytes.length; at += 1) {
    const reader = new SectionReader(SOURCE_SECTIONS.limit);
    const raw = [...reader.write(bytes.subarray(0, at)), ...reader.write(bytes.subarray(at))];
    reader.end();
    t.deepEqual(
      raw.map((section) => SOURCE_SECTIONS.decode(section)),
      whole,
    );
  }
  const reader = new SectionReader(SOURCE_SECTIONS.limit);
  const raw = [...bytes].flatMap((byte) => reader.write(Buffer.of(byte)));
  t.is(raw.length, whole.length);
});

test('the stream of a later minor version is read: what is new is read over', (t) => {
  t.deepEqual(readSource(golden('source-1.7.bin')), [...PRECOPY]);
});

test('a required section that is not known is refused by its name, outside and inside', (t) => {
  t.throws(() => readSource(golden('source-required.bin')), {
    instanceOf: ProtocolError,
    message: 'Section "wormhole" is required by the peer and not known here',
  });
  t.throws(() => readSource(golden('source-required-inside.bin')), {
    instanceOf: ProtocolError,
    message: 'In section "hello": section "quantum" is required by the peer and not known here',
  });
});

test('another major version is refused by name', (t) => {
  t.throws(() => readSource(golden('source-2.0.bin')), {
    instanceOf: ProtocolError,
    message: 'Section "hello" has version 2.0, this side reads 1.x',
  });
});

test('any byte that is changed is refused, by the name of its section, and nothing is read', (t) => {
  const bytes = golden('source-1.0.bin');
  const sections = new SectionReader(SOURCE_SECTIONS.limit).write(bytes);
  let end = 0;
  const places = sections.flatMap(({ tag }) => {
    const length = HEADER + bytes.readUInt32BE(end + 20);
    end += length;
    return Array.from({ length }, (_, inside) => ({ tag, inside }));
  });
  t.is(places.length, bytes.length);
  for (const [at, { tag, inside }] of places.entries()) {
    const changed = Buffer.from(bytes);
    changed.writeUInt8((bytes[at] as number) ^ (1 << (at % 8)), at);
    const error = t.throws(() => readSource(changed), { instanceOf: ProtocolError });
    // Of a name that is itself changed, what is there now is told.
    const told = inside < TAG ? '("[a-z0-9-]+"|0x[0-9a-f]+)' : `"${tag}"`;
    t.regex(error?.message ?? '', new RegExp(`[Ss]ection ${told}`), `byte ${at}`);
  }
});

test('a stream that ends early says in which section', (t) => {
  const bytes = golden('source-1.0.bin');
  const whole = new Set<number>([0]);
  for (let at = 0; at < bytes.length; ) {
    at += HEADER + bytes.readUInt32BE(at + 20);
    whole.add(at);
  }
  for (let length = 0; length < bytes.length; length += 1) {
    const cut = bytes.subarray(0, length);
    if (whole.has(length)) t.notThrows(() => readSource(cut));
    else t.throws(() => readSource(cut), { instanceOf: ProtocolError, message: /section/i });
  }
});

test('a length is checked before anything is waited for', (t) => {
  const [header] = SOURCE_SECTIONS.encode({ kind: 'run' }) as [Buffer];
  for (const [at, value] of [
    [16, 1],
    [20, 0xffff_ffff],
    [20, 4097],
  ] as const) {
    const changed = Buffer.from(header);
    changed.writeUInt32BE(value, at);
    const reader = new SectionReader(SOURCE_SECTIONS.limit);
    t.throws(() => reader.write(changed), { instanceOf: ProtocolError, message: /"run"/ });
    t.throws(() => reader.write(Buffer.alloc(1)), { instanceOf: ProtocolError });
  }
});

interface Greeting {
  readonly kind: 'greeting';
  readonly name: string;
  /** Since 1.1. */
  readonly age: number | undefined;
}

function greeting(minor: number): SectionTable<Greeting> {
  const codec: SectionCodec<Greeting> = {
    tag: 'greeting',
    major: 1,
    minor,
    required: true,
    maxBytes: 100,
    encode: ({ name, age }) => {
      const writer = new ByteWriter().text(name);
      if (minor >= 1) writer.uint8(age ?? 0);
      return { fields: [writer.finish()] };
    },
    decode: (source) => ({
      kind: 'greeting',
      name: source.fields.text(20),
      age: minor >= 1 && source.minor >= 1 ? source.fields.uint8() : undefined,
    }),
  };
  return new SectionTable<Greeting>({ greeting: codec });
}

test('a reader of one minor version reads what the other one wrote, both ways', (t) => {
  const cross = (from: number, to: number): Greeting | undefined => {
    const section: Greeting = { kind: 'greeting', name: 'anna', age: 30 };
    const bytes = Buffer.concat(greeting(from).encode(section));
    const table = greeting(to);
    const [raw] = new SectionReader(table.limit).write(bytes);
    return raw === undefined ? undefined : table.decode(raw);
  };
  t.deepEqual(cross(1, 1), { kind: 'greeting', name: 'anna', age: 30 });
  t.deepEqual(cross(0, 1), { kind: 'greeting', name: 'anna', age: undefined });
  t.deepEqual(cross(1, 0), { kind: 'greeting', name: 'anna', age: undefined });
});

test('fields that this version does not have are refused from a peer of this version', (t) => {
  const codec = greeting(0);
  const bytes = Buffer.concat(greeting(1).encode({ kind: 'greeting', name: 'anna', age: 1 }));
  const [raw] = new SectionReader(codec.limit).write(bytes);
  t.throws(() => codec.decode({ ...(raw as NonNullable<typeof raw>), minor: 0 }), {
    instanceOf: ProtocolError,
    message: 'In section "greeting": 1 bytes follow the message',
  });
});
