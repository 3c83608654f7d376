/**
 * Mutated streams, 20,000 of them in a normal run; `COLO_FUZZ_STREAMS=1000000` for a long one.
 * Half are damaged bytes; the other half is damaged inside and given right checksums again, as a
 * hostile peer would.
 */
import test from 'ava';
import fc from 'fast-check';
import { crc32c, PAGE_SIZE_BYTES, Prng, ProtocolError } from '../../../src/lib/index.js';
import {
  DESTINATION_SECTIONS,
  DestinationCore,
  type DestinationInput,
  type RawSection,
  SectionReader,
  SOURCE_SECTIONS,
  SourceCore,
  type SourceSection,
} from '../../../src/migration/index.js';
import {
  DESTINATION,
  destinationStream,
  HELLO,
  PRECOPY,
  SOURCE_REST,
  sourceStream,
} from '../../support/migration-sections.js';

const STREAMS = Number(process.env['COLO_FUZZ_STREAMS'] ?? 20_000);
const HEADER = 32;

/** What the destination was made to do by a stream. */
interface Effects {
  readonly sections: SourceSection[];
  readonly loaded: boolean;
  readonly started: boolean;
  readonly refusal: ProtocolError | undefined;
}

/** A destination whose host does at once what the core asks, fed with a stream piece by piece. */
function feed(chunks: readonly Buffer[]): Effects {
  const core = new DestinationCore({
    silenceTimeoutUs: 1e9,
    recoverTimeoutUs: 1e9,
    recorded: undefined,
  });
  const reader = new SectionReader(SOURCE_SECTIONS.limit);
  const sections: SourceSection[] = [];
  let [loaded, started] = [false, false];
  const step = (input: DestinationInput): void => {
    for (const output of core.step(input, 0)) {
      switch (output.kind) {
        case 'prepare':
          step({
            kind: 'prepared',
            host: 'b',
            qemuVersion: '7',
            image: HELLO.migration,
            verdictsJson: '[]',
          });
          break;
        case 'apply': {
          const { session, sequence } = output;
          step({ kind: 'applied', session, sequence });
          break;
        }
        case 'load':
          loaded = true;
          step({ kind: 'guestLoaded' });
          break;
        case 'start':
          started = true;
          step({ kind: 'guestSpeaks' });
          break;
        default:
          break;
      }
    }
  };
  step({ kind: 'disksStaged' });
  try {
    for (const chunk of chunks) {
      for (const raw of reader.write(chunk)) {
        const section = SOURCE_SECTIONS.decode(raw);
        if (section === undefined) continue;
        sections.push(section);
        step(inputOf(section));
      }
    }
    reader.end();
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error;
    step({ kind: 'sessionLost', session: 1, reason: error.message });
    return { sections, loaded, started, refusal: error };
  }
  return { sections, loaded, started, refusal: undefined };
}

function inputOf(section: SourceSection): DestinationInput {
  // Of another link.
  if (section.kind === 'demanded') return { kind: 'tick' };
  if (section.kind !== 'pages') {
    return { kind: 'section', session: 1, section };
  }
  const { batch, sequence } = section;
  if (batch.length < 8) throw new ProtocolError('In section "pages": a batch is too short');
  const offset = batch.readUInt32BE(0) * PAGE_SIZE_BYTES;
  const length = batch.readUInt32BE(4) * PAGE_SIZE_BYTES;
  const ranges = [{ offset, length }];
  return { kind: 'batch', session: 1, sequence, ranges, batch, crc: crc32c(batch) };
}

/** One to three wounds: bits, bytes, runs cut out, put in, doubled or moved; or the end is gone. */
function damage(bytes: Buffer, random: Prng): Buffer {
  let damaged = Buffer.from(bytes);
  for (let wound = random.nextInt(1, 3); wound > 0; wound -= 1) {
    const at = random.nextInt(0, damaged.length - 1);
    const length = random.nextInt(1, random.pick([1, 8, 64]));
    const end = Math.min(damaged.length, at + length);
    const [head, run, tail] = [
      damaged.subarray(0, at),
      damaged.subarray(at, end),
      damaged.subarray(end),
    ];
    const noise = Buffer.from(Array.from({ length }, () => random.nextInt(0, 255)));
    switch (random.nextInt(0, 5)) {
      case 0:
        damaged.writeUInt8((damaged[at] as number) ^ (1 << random.nextInt(0, 7)), at);
        break;
      case 1:
        damaged = Buffer.concat([head, noise, tail]);
        break;
      case 2:
        damaged = Buffer.concat([head, tail]);
        break;
      case 3:
        damaged = Buffer.concat([head, noise, run, tail]);
        break;
      case 4:
        damaged = Buffer.concat([head, run, run, tail]);
        break;
      default:
        damaged = Buffer.from(head);
    }
    if (damaged.length === 0) return damaged;
  }
  return damaged;
}

/** Sections with damage inside, doubled, left out or moved, and right checksums all over. */
function forge(bytes: Buffer, random: Prng): Buffer {
  const sections = cutSections(bytes);
  for (let wound = random.nextInt(1, 3); wound > 0; wound -= 1) {
    const at = random.nextInt(0, sections.length - 1);
    const section = sections[at] as Buffer;
    switch (random.nextInt(0, 3)) {
      case 0:
        sections.splice(at, 1);
        break;
      case 1:
        sections.splice(random.nextInt(0, sections.length), 0, section);
        break;
      default: {
        const changed = Buffer.from(section);
        // The header's lengths, versions and flags too, but not its checksums.
        const inside = random.nextInt(12, changed.length - 1);
        changed.writeUInt8(random.nextInt(0, 255), inside);
        sections[at] = seal(changed);
      }
    }
    if (sections.length === 0) return Buffer.alloc(0);
  }
  return Buffer.concat(sections);
}

function cutSections(bytes: Buffer): Buffer[] {
  const sections: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = at + HEADER + bytes.readUInt32BE(at + 20);
    sections.push(bytes.subarray(at, end));
    at = end;
  }
  return sections;
}

function seal(section: Buffer): Buffer {
  section.writeUInt32BE(crc32c(section.subarray(HEADER)), 24);
  section.writeUInt32BE(crc32c(section.subarray(0, 28)), 28);
  return section;
}

function split(bytes: Buffer, random: Prng): Buffer[] {
  const at = random.nextInt(0, bytes.length);
  return [bytes.subarray(0, at), bytes.subarray(at)];
}

/** All that a guest is made of. */
function partsOf(sections: readonly SourceSection[]): Buffer {
  const kinds = ['hello', 'pages', 'deviceState', 'switchover'];
  return sourceStream(sections.filter(({ kind }) => kinds.includes(kind)));
}

const ORIGINALS = new Set(PRECOPY.map((section) => sourceStream([section]).toString('latin1')));
const FRESH = feed([sourceStream(PRECOPY)]);

test('the stream that is mutated loads and runs the guest when it is whole', (t) => {
  t.is(FRESH.refusal, undefined);
  t.true(FRESH.loaded && FRESH.started);
});

test(`${STREAMS} mutated streams: no damage is applied, and no forgery does harm`, (t) => {
  const bytes = sourceStream(PRECOPY);
  const all = sourceStream([...PRECOPY, ...SOURCE_REST]);
  const counts = { refused: 0, cut: 0, whole: 0, forgedLoads: 0 };
  for (let seed = 1; seed <= STREAMS; seed += 1) {
    const random = new Prng(seed);
    const forged = seed % 2 === 0;
    const mutated = forged
      ? forge(random.chance(0.5) ? all : bytes, random)
      : damage(bytes, random);
    const effects = feed(split(mutated, random));
    if (effects.refusal !== undefined) {
      counts.refused += 1;
      // The name of the section, or the bytes that are where it should be.
      if (!/section ("|0x|of)/i.test(effects.refusal.message)) {
        t.fail(`Seed ${seed}: ${effects.refusal.message} names no section`);
      }
    }
    if (forged) {
      if (effects.loaded) counts.forgedLoads += 1;
      continue;
    }
    // What was read is what was sent, from the beginning on: damage is never read.
    const read = sourceStream(effects.sections);
    if (!bytes.subarray(0, read.length).equals(read)) {
      // But for a wound that is a whole section by chance, cut out or doubled.
      counts.whole += 1;
      const known = effects.sections.every((section) =>
        ORIGINALS.has(sourceStream([section]).toString('latin1')),
      );
      const same = partsOf(effects.sections).equals(partsOf(PRECOPY));
      if (!known || (effects.loaded && !same)) t.fail(`Seed ${seed}: damage was read`);
    }
    if (effects.refusal === undefined) counts.cut += 1;
  }
  t.log(counts);
  t.true(counts.refused > STREAMS / 3);
  t.true(counts.cut > 0);
});

test('a source core takes mutated answers without a fault, and never gives the guest away', (t) => {
  const bytes = destinationStream(DESTINATION);
  for (let seed = 1; seed <= Math.min(STREAMS, 20_000) / 4; seed += 1) {
    const random = new Prng(seed);
    const core = new SourceCore({
      hello: HELLO,
      knownImages: [],
      maxBandwidth: undefined,
      downtimeLimitUs: 100_000,
      autoConverge: true,
      onNoConvergence: 'keep-going',
      recoverTimeoutUs: 1e9,
      silenceTimeoutUs: 1e9,
      settlesDisks: false,
      movesDisks: false,
    });
    core.step({ kind: 'start' }, 0);
    core.step({ kind: 'connected', session: 1 }, 0);
    const outputs = [];
    try {
      const reader = new SectionReader(DESTINATION_SECTIONS.limit);
      for (const raw of reader.write(forge(bytes, random))) {
        const section = DESTINATION_SECTIONS.decode(raw);
        if (section !== undefined && section.kind !== 'demand') {
          outputs.push(...core.step({ kind: 'section', session: 1, section }, 0));
        }
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
    }
    if (outputs.some(({ kind }) => kind === 'giveUp' || kind === 'release')) {
      t.fail(`Seed ${seed}: the guest was given away before it was paused`);
    }
  }
  t.pass();
});

test('any list of pages is the same after encoding and decoding', (t) => {
  const ranges = fc
    .uniqueArray(fc.nat({ max: 1_000_000 }), { maxLength: 50 })
    .map((pages) =>
      pages
        .sort((a, b) => a - b)
        .map((page) => ({ offset: 2 * page * PAGE_SIZE_BYTES, length: PAGE_SIZE_BYTES })),
    );
  fc.assert(
    fc.property(ranges, fc.boolean(), (list, last) => {
      const bytes = Buffer.concat(
        DESTINATION_SECTIONS.encode({ kind: 'missing', ranges: list, last }),
      );
      const [raw] = new SectionReader(DESTINATION_SECTIONS.limit).write(bytes);
      t.deepEqual(DESTINATION_SECTIONS.decode(raw as RawSection), {
        kind: 'missing',
        ranges: list,
        last,
      });
    }),
  );
});
