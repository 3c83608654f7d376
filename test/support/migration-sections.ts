/** One of each section, as a migration would say them, and streams made of them. */
import { crc32c } from '../../src/lib/index.js';
import {
  DESTINATION_SECTIONS,
  type DestinationSection,
  type HelloSection,
  SOURCE_SECTIONS,
  type SourceSection,
} from '../../src/migration/index.js';

export const PAGES = 64;
const PAGE = 4096;
const MIGRATION = '000102030405060708090a0b0c0d0e0f';

export const HELLO: HelloSection = {
  kind: 'hello',
  migration: MIGRATION,
  vm: 'web',
  host: 'alpha',
  qemuVersion: '7.2.22',
  machineType: 'pc-q35-7.2',
  cpuModel: 'qemu64',
  accelerator: 'tcg',
  pageSizeBytes: PAGE,
  ramSizeBytes: PAGES * PAGE,
  choices: { mode: 'hybrid', background: true, compression: 'zstd', assisted: true },
  disks: [
    { name: 'root', sizeBytes: 1 << 30, place: 'moved', readOnly: false },
    { name: 'media', sizeBytes: 4096, place: 'shared', readOnly: true },
  ],
  nics: [{ mac: '52:54:00:12:34:56', bridge: 'br0' }],
  definitionJson: '{"memory":"256K"}',
};

/** A batch as these tests code it: pages from `first` on, big-endian. */
export function testBatch(first: number, pages: number): Buffer {
  const batch = Buffer.alloc(8 + pages, 0x61);
  batch.writeUInt32BE(first, 0);
  batch.writeUInt32BE(pages, 4);
  return batch;
}

const BATCHES = [testBatch(0, 40), testBatch(40, 24), testBatch(3, 2)];
const DEVICES = Buffer.from('device state of a guest');

function streamDigest(): number {
  let digest = 0;
  for (const batch of BATCHES) {
    const crc = Buffer.alloc(4);
    crc.writeUInt32BE(crc32c(batch));
    digest = crc32c(crc, digest);
  }
  return digest;
}

/** A whole precopy, as the source says it. */
export const PRECOPY: readonly SourceSection[] = [
  HELLO,
  { kind: 'assist', answer: 'digests' },
  ...BATCHES.slice(0, 2).map((batch, sequence) => ({ kind: 'pages' as const, sequence, batch })),
  { kind: 'round', round: 1, batches: 2, dirtyPages: 2 },
  { kind: 'pages', sequence: 2, batch: BATCHES[2] as Buffer },
  { kind: 'deviceState', bytes: DEVICES },
  {
    kind: 'switchover',
    postcopy: false,
    batches: 3,
    streamDigest: streamDigest(),
    pendingPages: 0,
    deviceStateBytes: DEVICES.length,
    deviceStateDigest: crc32c(DEVICES),
    ramDigest: 0x12345678,
    disksMoved: true,
  },
  { kind: 'run' },
  { kind: 'released' },
];

/** The rest of what a source may say. */
export const SOURCE_REST: readonly SourceSection[] = [
  { kind: 'resume', migration: MIGRATION, vm: 'web', host: 'alpha' },
  { kind: 'pending', ranges: [{ offset: PAGE, length: 2 * PAGE }] },
  { kind: 'demanded', sequence: 0, batch: testBatch(1, 1) },
  { kind: 'cancel', reason: 'Cancelled by the operator' },
];

export const DESTINATION: readonly DestinationSection[] = [
  { kind: 'accepted', host: 'beta', qemuVersion: '7.2.22', image: MIGRATION, verdictsJson: '[]' },
  { kind: 'accepted', host: 'beta', qemuVersion: '7.2.22', image: undefined, verdictsJson: '[]' },
  {
    kind: 'refused',
    differences: [{ what: 'CPU model', source: 'qemu64', destination: 'not offered' }],
  },
  { kind: 'digests', bytes: Buffer.from('digests'), last: true },
  { kind: 'received', sequence: 2 },
  { kind: 'demand', ranges: [{ offset: 8 * PAGE, length: PAGE }] },
  { kind: 'placed', ranges: [{ offset: 8 * PAGE, length: PAGE }] },
  { kind: 'loaded' },
  { kind: 'running', startUs: 2500 },
  { kind: 'resumed', state: 'running' },
  { kind: 'missing', ranges: [{ offset: 0, length: PAGE }], last: true },
  { kind: 'complete' },
  { kind: 'failed', reason: 'QEMU died', ran: true },
];

export function sourceStream(sections: readonly SourceSection[]): Buffer {
  return Buffer.concat(sections.flatMap((section) => SOURCE_SECTIONS.encode(section)));
}

export function destinationStream(sections: readonly DestinationSection[]): Buffer {
  return Buffer.concat(sections.flatMap((section) => DESTINATION_SECTIONS.encode(section)));
}
