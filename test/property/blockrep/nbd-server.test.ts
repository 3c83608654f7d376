/**
 * Hostile clients against the real server on a socket: whatever they send, they get answers or lose
 * their connection, nothing outside of the disk is touched, and the next client is served. And what
 * overlapping writes leave behind, over one connection and over two.
 */
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import type { BlockLayer, NbdServer, ZeroOptions } from '../../../src/blockrep/index.js';
import {
  clientFlags,
  infoData,
  metaData,
  option,
  RawClient,
  request,
  serveDisks,
} from '../../unit/blockrep/support.js';

const SIZE = 1 << 20;

/** Keeps the disk's bytes, and refuses what a checked request can not be. */
class WatchedDisk implements BlockLayer {
  readonly sizeBytes = SIZE;
  readonly readOnly: boolean;
  readonly bytes = Buffer.alloc(SIZE);
  readonly breaks: string[] = [];
  operations = 0;
  /** Turns of the event loop that the next change takes. */
  delay: () => number = () => 0;
  readonly #changing = new Set<{ offset: number; end: number }>();

  constructor(readOnly = false) {
    this.readOnly = readOnly;
  }

  async read(offset: number, length: number): Promise<Buffer> {
    this.#check('read', offset, length);
    return Buffer.from(this.bytes.subarray(offset, offset + length));
  }

  write(offset: number, data: Buffer, _fua: boolean): Promise<void> {
    return this.#change('write', offset, data.length, (from, to) => {
      data.copy(this.bytes, offset + from, from, to);
    });
  }

  writeZeroes(offset: number, length: number, _options: ZeroOptions): Promise<void> {
    return this.#change('zero', offset, length, (from, to) => {
      this.bytes.fill(0, offset + from, offset + to);
    });
  }

  trim(offset: number, length: number): Promise<void> {
    return this.#change('trim', offset, length, (from, to) => {
      this.bytes.fill(0, offset + from, offset + to);
    });
  }

  async flush(): Promise<void> {}
  async close(): Promise<void> {}

  dataRanges(range = { offset: 0, length: SIZE }) {
    this.#check('status', range.offset, range.length);
    return [{ offset: range.offset, length: Math.ceil(range.length / 2) }];
  }

  /** In two halves with turns in between, so that another one in between would show. */
  async #change(
    kind: string,
    offset: number,
    length: number,
    work: (from: number, to: number) => void,
  ): Promise<void> {
    this.#check(kind, offset, length);
    if (this.readOnly) this.breaks.push(`${kind} of a read-only disk`);
    const range = { offset, end: offset + length };
    for (const other of this.#changing) {
      const overlaps = other.offset < range.end && range.offset < other.end;
      if (overlaps) this.breaks.push(`${kind} at ${offset} overlaps one in flight`);
    }
    this.#changing.add(range);
    const turns = this.delay();
    for (let i = 0; i < turns; i++) await nextTurn();
    const middle = Math.floor(length / 2);
    work(0, middle);
    for (let i = 0; i < turns; i++) await nextTurn();
    work(middle, length);
    this.#changing.delete(range);
  }

  #check(kind: string, offset: number, length: number): void {
    this.operations += 1;
    const isInside = Number.isSafeInteger(offset) && offset >= 0 && offset + length <= SIZE;
    if (!isInside || length <= 0) this.breaks.push(`${kind} of ${length} at ${offset}`);
  }
}

const bytes = (maxLength: number) => fc.uint8Array({ maxLength }).map((each) => Buffer.from(each));
const greeting = fc.constantFrom(
  [clientFlags(), option(7, infoData('disk0'))],
  [clientFlags(0), option(1, Buffer.from('frozen'))],
  [clientFlags(), option(1, Buffer.from('disk0'))],
  [
    clientFlags(),
    option(8),
    option(10, metaData('disk0', ['base:allocation'])),
    option(7, infoData('disk0')),
  ],
);
const place = fc.oneof(
  { weight: 6, arbitrary: fc.nat(SIZE - 5000) },
  { weight: 1, arbitrary: fc.nat(2 * SIZE) },
  { weight: 1, arbitrary: fc.bigInt(0n, 2n ** 64n - 1n) },
);
const length = fc.oneof(
  { weight: 6, arbitrary: fc.nat(5000) },
  { weight: 1, arbitrary: fc.nat(2 ** 32 - 1) },
);
const flags = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom(0, 1) },
  { weight: 1, arbitrary: fc.nat(65535) },
);
const command = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom(0, 3, 4, 5, 6, 7) },
  { weight: 1, arbitrary: fc.constantFrom(1, 2, 8, 9, 65535) },
);
const plausible = fc.oneof(
  fc.record({ flags, offset: place, data: bytes(2000) }).map((fields) => request('write', fields)),
  fc
    .tuple(command, fc.record({ flags, offset: place, length }))
    .map(([number, fields]) => request(number, fields)),
);
const hostile = fc.oneof(
  bytes(400).map((each) => [each]),
  fc.tuple(greeting, bytes(400)).map(([head, tail]) => [...head, tail]),
  {
    weight: 8,
    arbitrary: fc
      .tuple(greeting, fc.array(plausible, { maxLength: 20 }))
      .map(([head, requests]) => [...head, ...requests]),
  },
);
const mutations = fc.oneof(
  { weight: 2, arbitrary: fc.constant([]) },
  fc.array(fc.tuple(fc.nat(20_000), fc.nat(255)), { maxLength: 4 }),
);

async function serve(t: ExecutionContext) {
  const disks = { disk0: new WatchedDisk(), frozen: new WatchedDisk(true) };
  return { ...(await serveDisks(t, disks)), disks };
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

/** Sends, half-closes, and waits until the server is done with this client. */
async function attack(
  t: ExecutionContext,
  { socketPath, server }: { socketPath: string; server: NbdServer },
  parts: Buffer[],
): Promise<void> {
  const client = await RawClient.connect(t, socketPath);
  for (const part of parts) {
    client.send(part);
    // The server is in this process: it gets each part by itself.
    if (parts.length > 1) await nextTurn();
  }
  client.socket.end();
  await client.closed;
  while (server.stats.connections > 0) await nextTurn();
  t.is(inFlight(server), 0);
}

async function isServed(t: ExecutionContext, socketPath: string): Promise<void> {
  const client = await RawClient.attach(t, socketPath, 'disk0');
  const data = Buffer.from('served');
  client.send(request('write', { offset: 0, data }));
  await client.reply();
  client.send(request('read', { length: data.length }));
  await client.take(16);
  t.deepEqual(await client.take(data.length), data);
  client.send(request('disconnect', {}));
  await client.closed;
}

function inFlight(server: NbdServer): number {
  return Object.values(server.stats.exports).reduce((sum, each) => sum + each.requestsInFlight, 0);
}

test('whatever a client sends, nothing outside of the disk is touched and the next one is served', async (t) => {
  const served = await serve(t);
  const { socketPath, disks } = served;
  await fc.assert(
    fc.asyncProperty(hostile, mutations, async (parts, changes) => {
      const whole = Buffer.concat(parts);
      for (const [at, value] of changes) if (whole.length > 0) whole[at % whole.length] = value;
      await attack(t, served, [whole]);
      t.deepEqual([...disks.disk0.breaks, ...disks.frozen.breaks], []);
    }),
    { numRuns: 500 },
  );
  t.true(disks.disk0.operations > 100, 'Some of it was good');
  await isServed(t, socketPath);
});

test('a client whose bytes arrive one by one is no different', async (t) => {
  const served = await serve(t);
  const { socketPath, disks } = served;
  await fc.assert(
    fc.asyncProperty(greeting, fc.array(plausible, { maxLength: 3 }), async (head, requests) => {
      const whole = Buffer.concat([...head, ...requests]).subarray(0, 600);
      await attack(
        t,
        served,
        Array.from(whole, (byte) => Buffer.from([byte])),
      );
      t.deepEqual([...disks.disk0.breaks, ...disks.frozen.breaks], []);
    }),
    { numRuns: 30 },
  );
  await isServed(t, socketPath);
});

test('a client that is cut off at any byte leaves the server as it was', async (t) => {
  const served = await serve(t);
  const { socketPath, server, disks } = served;
  const whole = Buffer.concat([
    clientFlags(),
    option(8),
    option(10, metaData('disk0', ['base:allocation'])),
    option(7, infoData('disk0')),
    request('write', { offset: 100, data: Buffer.alloc(64, 1) }),
    request('read', { length: 100 }),
    request('blockStatus', { length: 100 }),
    request('trim', { offset: 100, length: 10 }),
  ]);
  for (let end = 0; end <= whole.length; end++) {
    await attack(t, served, [whole.subarray(0, end)]);
  }
  t.is(server.stats.protocolErrors, 0);
  t.deepEqual(disks.disk0.breaks, []);
  await isServed(t, socketPath);
});

/** Changes of a small part of the disk, so that most overlap; `turns`: how slow each one is. */
const change = fc.record({
  kind: fc.constantFrom(
    'write' as const,
    'write' as const,
    'trim' as const,
    'writeZeroes' as const,
  ),
  offset: fc.nat(2000),
  length: fc.integer({ min: 1, max: 2000 }),
  value: fc.integer({ min: 1, max: 255 }),
  turns: fc.nat(4),
});
type Change = typeof change extends fc.Arbitrary<infer T> ? T : never;

function encode({ kind, offset, length, value }: Change, cookie: bigint): Buffer {
  if (kind !== 'write') return request(kind, { cookie, offset, length });
  return request('write', { cookie, offset, data: Buffer.alloc(length, value) });
}

function apply(model: Buffer, { kind, offset, length, value }: Change): void {
  model.fill(kind === 'write' ? value : 0, offset, offset + length);
}

test('pipelined overlapping changes leave what they leave one after the other', async (t) => {
  const { socketPath, disks } = await serve(t);
  const disk = disks.disk0;
  const client = await RawClient.attach(t, socketPath, 'disk0');
  await fc.assert(
    fc.asyncProperty(fc.array(change, { minLength: 2, maxLength: 30 }), async (changes) => {
      const turns = changes.map((each) => each.turns);
      disk.delay = () => turns.pop() ?? 0;
      const model = Buffer.from(disk.bytes.subarray(0, 4096));
      for (const each of changes) apply(model, each);
      client.send(...changes.map((each, index) => encode(each, BigInt(index))));
      for (const _ of changes) t.is((await client.reply()).error, 0);
      t.true(disk.bytes.subarray(0, 4096).equals(model));
      t.deepEqual(disk.breaks, []);
    }),
    { numRuns: 100 },
  );
});

test('overlapping changes of two connections happen one after the other, each whole', async (t) => {
  const { socketPath, disks } = await serve(t);
  const disk = disks.disk0;
  const clients = [
    await RawClient.attach(t, socketPath, 'disk0'),
    await RawClient.attach(t, socketPath, 'disk0'),
  ];
  await fc.assert(
    fc.asyncProperty(fc.array(change, { minLength: 4, maxLength: 30 }), async (changes) => {
      const turns = changes.map((each) => each.turns);
      disk.delay = () => turns.pop() ?? 0;
      const shares = clients.map((client, which) => ({
        client,
        changes: changes.filter((_, index) => index % 2 === which),
      }));
      for (const { client, changes: own } of shares) {
        client.send(...own.map((each, index) => encode(each, BigInt(index))));
      }
      for (const { client, changes: own } of shares) {
        for (const _ of own) t.is((await client.reply()).error, 0);
      }
      t.deepEqual(disk.breaks, []);
      // What is answered is over: a change sent now wins, whoever sends it.
      const last = { ...changes[0], kind: 'write', offset: 0, length: 4096, turns: 0 } as Change;
      const [, second] = clients;
      second?.send(encode(last, 1n));
      t.is((await second?.reply())?.error, 0);
      t.true(disk.bytes.subarray(0, 4096).equals(Buffer.alloc(4096, last.value)));
    }),
    { numRuns: 60 },
  );
});
