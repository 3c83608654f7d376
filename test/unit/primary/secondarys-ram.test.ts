/** Both ends of the comparison of RAMs, joined by links that lose nothing and cheat on demand. */
import test from 'ava';
import { PAGE_SIZE_BYTES, type PageRange, Prng, ProtocolError } from '../../../src/lib/index.js';
import { digestPages, encodeDigestBatch } from '../../../src/migration/index.js';
import { DIGEST_PAGES } from '../../../src/primary/limits.js';
import { SecondarysRam } from '../../../src/primary/secondarys-ram-shell.js';
import {
  DIGESTS_WANTED_MAX,
  decodeRam,
  decodeRamDigests,
  encodeDigestsWanted,
  encodeRamDigests,
  parseHelloReply,
} from '../../../src/replication/index.js';
import { RamDigests } from '../../../src/secondary/ram-digests-shell.js';
import { fillRandom, PageRam } from '../../support/page-ram.js';

const SALT = Buffer.alloc(16, 0x5a);
const EPOCH = 7;
const PAGES = 5 * DIGEST_PAGES + 3;
/** Of every hundred pages. */
const [ZERO, CHANGED, GONE, NEW] = [0, 1, 2, 3];

class FileRam extends PageRam {
  readFile(offset: number, target: Buffer): void {
    this.copyOut(offset, target);
  }

  dataRanges(): PageRange[] {
    return [{ offset: 0, length: this.sizeBytes }];
  }
}

function rams(): { ours: PageRam; theirs: FileRam; differing: number[]; same: number } {
  const [ours, theirs] = [new PageRam(PAGES), new FileRam(PAGES)];
  const prng = new Prng(4711);
  const differing: number[] = [];
  let same = 0;
  for (let page = 0; page < PAGES; page += 1) {
    const kind = page % 100;
    if (kind !== ZERO && kind !== GONE) fillRandom(ours.page(page), prng);
    if (kind === GONE) fillRandom(theirs.page(page), prng);
    else if (kind !== NEW) ours.page(page).copy(theirs.page(page));
    if (kind === CHANGED) theirs.page(page).writeUInt8(1 ^ (theirs.page(page)[4095] ?? 0), 4095);
    if (kind === CHANGED || kind === GONE || kind === NEW) differing.push(page);
    else if (kind !== ZERO) same += 1;
  }
  return { ours, theirs, differing, same };
}

type Handler = (frame: { type: number; payload: Buffer }) => void;

/** The primary's RAM link and session; `answer` gets what it sends. */
class Session {
  closed: () => void = () => undefined;
  handler: Handler = () => undefined;
  readonly links;

  constructor(answer: Handler) {
    this.links = {
      ram: {
        onFrame: (handler: Handler) => {
          this.handler = handler;
        },
        send: (type: number, parts: readonly Buffer[]) => {
          answer({ type, payload: Buffer.concat(parts) });
        },
      },
    };
  }

  onClose(closed: () => void): void {
    this.closed = closed;
  }
}

function comparisonOf(session: Session): SecondarysRam {
  type Options = ConstructorParameters<typeof SecondarysRam>[0];
  const has = { session, epoch: EPOCH, salt: SALT };
  return new SecondarysRam(has as unknown as Options);
}

/** Both ends; `received` sees each frame before the primary does. */
function joined(theirs: FileRam, received: (payload: Buffer) => Buffer = (payload) => payload) {
  const session: Session = new Session(({ type, payload }) => {
    const message = decodeRam(type, payload, theirs.sizeBytes);
    if (message.kind !== 'digestsWanted') throw new Error(`A ${message.kind} was sent`);
    digests.wanted(message);
  });
  const link = {
    send: (type: number, parts: readonly Buffer[]) => {
      session.handler({ type, payload: received(Buffer.concat(parts)) });
    },
    drained: async () => undefined,
  };
  const digests = new RamDigests({ link, ram: theirs, salt: SALT, epoch: EPOCH });
  return { session, digests };
}

test('exactly what differs is to be sent, and what was the same is counted', async (t) => {
  const { ours, theirs, differing, same } = rams();
  const { session, digests } = joined(theirs);
  const sent: number[] = [];
  let kept = 0;
  t.false(digests.isComplete);
  const present = [{ offset: 0, length: ours.sizeBytes }];
  for await (const compared of comparisonOf(session).compare(ours, present)) {
    for (const { offset, length } of compared.differing) {
      for (let at = 0; at < length; at += PAGE_SIZE_BYTES)
        sent.push((offset + at) / PAGE_SIZE_BYTES);
    }
    kept += compared.same;
  }
  t.deepEqual(sent, differing);
  t.is(kept, same);
  t.true(digests.isComplete);
});

test('what the guest has never touched is zero, whatever the secondary has there', async (t) => {
  const { ours, theirs } = rams();
  const sent: PageRange[] = [];
  for await (const { differing } of comparisonOf(joined(theirs).session).compare(ours, [])) {
    sent.push(...differing);
  }
  const pages = sent.reduce((sum, { length }) => sum + length / PAGE_SIZE_BYTES, 0);
  const nonZero = Array.from({ length: PAGES }, (_, page) => page).filter((page) => {
    return theirs.page(page).some((byte) => byte !== 0);
  });
  t.is(pages, nonZero.length);
});

test('a session that ends while it is waited for is told', async (t) => {
  const session = new Session(() => undefined);
  const batches = comparisonOf(session).compare(new PageRam(PAGES), []);
  const first = batches.next();
  session.closed();
  await t.throwsAsync(first, { code: 'COLO_E_SESSION' });
});

test('digests that were not asked for, of another epoch or changed on the way are refused', async (t) => {
  const { ours } = rams();
  const frame = (epoch: number, batch: Buffer) => {
    const { type, parts } = encodeRamDigests(epoch, batch);
    return { type, payload: Buffer.concat(parts) };
  };
  const zeroes = (first: number, count: number) =>
    encodeDigestBatch({ first, digests: Buffer.alloc(16 * count) }, PAGES);
  const session = new Session(() => undefined);
  void comparisonOf(session).compare(ours, []).next();
  const refused = (what: { type: number; payload: Buffer }, message: RegExp) =>
    t.throws(() => session.handler(what), { instanceOf: ProtocolError, message });
  refused(frame(EPOCH + 1, zeroes(0, 1)), /epoch 8 instead of 7/);
  refused({ type: 0x0120, payload: Buffer.alloc(8) }, /does not send/);
  refused(frame(EPOCH, zeroes(1, 1)), /instead of 0/);
  const broken = zeroes(0, 1);
  broken[broken.length - 1] = 1;
  refused(frame(EPOCH, broken), /checksum/);
  for (let wish = 0; wish < DIGESTS_WANTED_MAX; wish++) {
    session.handler(frame(EPOCH, zeroes(wish * DIGEST_PAGES, DIGEST_PAGES)));
  }
  refused(frame(EPOCH, zeroes(DIGESTS_WANTED_MAX * DIGEST_PAGES, 1)), /asked for/);
});

test('wishes that are out of order, too many or outside of RAM are refused', (t) => {
  const { theirs } = rams();
  const { digests } = joined(theirs);
  t.throws(() => digests.wanted({ first: 1, pages: 1 }), { instanceOf: ProtocolError });
  for (let wish = 0; wish < DIGESTS_WANTED_MAX; wish++) digests.wanted({ first: wish, pages: 1 });
  const next = { first: DIGESTS_WANTED_MAX, pages: 1 };
  t.throws(() => digests.wanted(next), { instanceOf: ProtocolError });
  const wire = (first: number, pages: number) => {
    const { type, parts } = encodeDigestsWanted(EPOCH, { first, pages });
    return () => decodeRam(type, Buffer.concat(parts), 8 * PAGE_SIZE_BYTES);
  };
  t.deepEqual(wire(0, 8)(), { kind: 'digestsWanted', epoch: EPOCH, first: 0, pages: 8 });
  for (const [first, pages] of [
    [0, 0],
    [0, 9],
    [8, 1],
    [0, 4097],
    [0xffff_ffff, 0xffff_ffff],
  ] as const) {
    t.throws(wire(first, pages), { instanceOf: ProtocolError });
  }
});

test('the bytes of a wish and of its answer are these', (t) => {
  const hex = ({ type, parts }: { type: number; parts: readonly Buffer[] }) =>
    `${type.toString(16)} ${Buffer.concat(parts).toString('hex')}`;
  const wish = encodeDigestsWanted(EPOCH, { first: 0x400, pages: 2 });
  t.is(hex(wish), '123 00000000000000070000040000000002');
  const pages = Buffer.alloc(2 * PAGE_SIZE_BYTES);
  pages[PAGE_SIZE_BYTES] = 1;
  const digests = Buffer.alloc(32);
  digestPages(SALT, pages, digests);
  const batch = encodeDigestBatch({ first: 0, digests }, 2);
  const answer = encodeRamDigests(EPOCH, batch);
  t.is(hex(answer), `124 0000000000000007${batch.toString('hex')}`);
  t.deepEqual(decodeRamDigests(answer.type, Buffer.concat(answer.parts), EPOCH), batch);
  t.throws(() => decodeRamDigests(answer.type, Buffer.alloc(7), EPOCH), {
    instanceOf: ProtocolError,
  });
});

test('the answer of a secondary that knows nothing of digests is an answer', (t) => {
  const old = {
    ...{ ok: true, host: 'b', qemuVersion: '7.2', instance: '0'.repeat(32) },
    ...{ speech: null, verdicts: [] },
  };
  t.like(parseHelloReply(JSON.stringify(old)), { ok: true, host: 'b' });
  const reply = parseHelloReply(JSON.stringify({ ...old, ramDigests: true, later: 1 }));
  t.like(reply, { ok: true, ramDigests: true });
  const wrong = JSON.stringify({ ...old, ramDigests: 'yes' });
  t.throws(() => parseHelloReply(wrong), { instanceOf: ProtocolError, message: /ramDigests/ });
});
