import { closeSync, ftruncateSync, readSync } from 'node:fs';
import test from 'ava';
import { PAGE_SIZE_BYTES } from '../../../src/lib/index.js';
import {
  createMemoryFile,
  createSealedMemoryFile,
  dataExtents,
  discardPages,
  MemoryMap,
  PagemapReader,
  PagemapScanner,
  PeerMemory,
  ProcessMemory,
  peerProcess,
  probeSoftDirty,
  probeUserfaultfd,
  socketPair,
} from '../../../src/linux/index.js';

const GIB = 2 ** 30;

test('a map of several GiB is read and written across its windows, sparsely', (t) => {
  const sizeBytes = 5 * GIB;
  const fd = createMemoryFile('test', sizeBytes);
  const map = MemoryMap.ofFile(fd, sizeBytes);
  t.teardown(() => {
    map.close();
    closeSync(fd);
  });
  map.write(GIB - 3, Buffer.from('abcdefgh'));
  const target = Buffer.alloc(8);
  map.copyOut(GIB - 3, target);
  t.is(target.toString(), 'abcdefgh');
  t.is(map.view(GIB - 3, 8), undefined);
  t.is(map.view(GIB, 5)?.toString(), 'defgh');
  map.write(sizeBytes - 1, Buffer.from('z'));
  t.deepEqual(dataExtents(fd, { offset: 0, length: sizeBytes }), [
    { offset: GIB - PAGE_SIZE_BYTES, length: 2 * PAGE_SIZE_BYTES },
    { offset: sizeBytes - PAGE_SIZE_BYTES, length: PAGE_SIZE_BYTES },
  ]);
  discardPages(fd, { offset: GIB, length: PAGE_SIZE_BYTES });
  t.is(map.view(GIB, 1)?.[0], 0);
});

test('a range outside a map is a bug, and so is any use after close; old views read zeroes', (t) => {
  const map = MemoryMap.anonymous(PAGE_SIZE_BYTES);
  map.write(0, Buffer.from('x'));
  const view = map.view(0, 1);
  for (const [offset, length] of [
    [-1, 1],
    [0, PAGE_SIZE_BYTES + 1],
    [PAGE_SIZE_BYTES, 1],
  ] as const) {
    t.throws(() => map.copyOut(offset, Buffer.alloc(length)), { code: 'COLO_E_BUG' });
  }
  map.close();
  map.close();
  t.is(view?.[0], 0);
  t.throws(() => map.view(0, 1), { code: 'COLO_E_BUG' });
});

test('the memory of a process is what it sees itself', (t) => {
  const map = MemoryMap.anonymous(PAGE_SIZE_BYTES);
  map.write(10, Buffer.from('hello'));
  const memory = new ProcessMemory(process.pid);
  const target = Buffer.alloc(5);
  memory.copyOut(map.address + 10, target);
  t.is(target.toString(), 'hello');
  memory.close();
  memory.close();
  t.throws(() => memory.copyOut(map.address, target), { code: 'COLO_E_BUG' });
  map.close();
});

test('scanner and entries agree on the private pages of a mapping, of which here are all', (t) => {
  const map = MemoryMap.anonymous(64 * PAGE_SIZE_BYTES);
  const mapping = { pid: process.pid, address: map.address, length: map.sizeBytes };
  const scanner = new PagemapScanner(mapping);
  const reader = new PagemapReader(mapping);
  t.teardown(() => {
    scanner.close();
    reader.close();
    map.close();
  });
  for (const page of [1, 2, 7, 63]) map.write(page * PAGE_SIZE_BYTES, Buffer.of(1));
  const expected = [
    { offset: PAGE_SIZE_BYTES, length: 2 * PAGE_SIZE_BYTES },
    { offset: 7 * PAGE_SIZE_BYTES, length: PAGE_SIZE_BYTES },
    { offset: 63 * PAGE_SIZE_BYTES, length: PAGE_SIZE_BYTES },
  ];
  t.deepEqual(scanner.privatePages(), expected);
  t.deepEqual(scanner.presentPrivatePages(), expected);
  t.deepEqual(reader.privatePages(), expected);
  t.deepEqual(reader.presentPrivatePages(), expected);
});

test('more ranges than one call returns are all found', (t) => {
  const pages = 50_000;
  const map = MemoryMap.anonymous(pages * PAGE_SIZE_BYTES);
  const scanner = new PagemapScanner({
    pid: process.pid,
    address: map.address,
    length: map.sizeBytes,
  });
  for (let page = 0; page < pages; page += 2) map.write(page * PAGE_SIZE_BYTES, Buffer.of(1));
  const ranges = scanner.privatePages();
  t.is(ranges.length, pages / 2);
  t.true(ranges.every(({ offset }, i) => offset === i * 2 * PAGE_SIZE_BYTES));
  scanner.close();
  map.close();
});

test('the probes answer with a reason or with none, and the one that works is usable', (t) => {
  const reasons = [probeUserfaultfd(), probeSoftDirty()];
  for (const reason of reasons) t.true(reason === undefined || reason.length > 0);
  t.log(`userfaultfd: ${reasons[0] ?? 'works'}; soft-dirty: ${reasons[1] ?? 'works'}`);
});

test("a peer's memory is read as it is, within its bounds", (t) => {
  const sizeBytes = 2 * PAGE_SIZE_BYTES;
  const fd = createSealedMemoryFile('test', sizeBytes);
  const map = MemoryMap.ofFile(fd, sizeBytes);
  t.teardown(() => {
    map.close();
    closeSync(fd);
  });
  map.write(PAGE_SIZE_BYTES - 2, Buffer.from('abcd'));
  const memory = PeerMemory.open(process.pid, fd);
  const target = Buffer.alloc(8, '.');
  memory.copyOut(PAGE_SIZE_BYTES - 2, target, 3, 4);
  t.is(target.toString(), '...abcd.');
  map.write(PAGE_SIZE_BYTES - 2, Buffer.from('wxyz'));
  memory.copyOut(PAGE_SIZE_BYTES, target, 0, 2);
  t.is(target.toString(), 'yz.abcd.');
  t.throws(() => memory.copyOut(sizeBytes - 1, target, 0, 2), { message: /exceeds memory/ });
  t.throws(() => memory.copyOut(-1, target, 0, 2), { message: /exceeds memory/ });
  t.throws(() => memory.copyOut(0, target, 7, 2), { message: /too small/ });
  memory.close();
  memory.close();
  t.throws(() => memory.copyOut(0, target, 0, 1), { message: /closed/ });
  t.throws(() => memory.writeOut([], fd, 0), { message: /closed/ });
});

test("pieces of a peer's memory go to a file as they are, within bounds", (t) => {
  const fd = createSealedMemoryFile('test', PAGE_SIZE_BYTES);
  const file = createMemoryFile('file', PAGE_SIZE_BYTES);
  const map = MemoryMap.ofFile(fd, PAGE_SIZE_BYTES);
  const memory = PeerMemory.open(process.pid, fd);
  t.teardown(() => {
    memory.close();
    map.close();
    closeSync(fd);
    closeSync(file);
  });
  map.write(10, Buffer.from('abcdefgh'));
  const pieces = [
    { offset: 14, length: 4 },
    { offset: 10, length: 2 },
  ];
  t.is(memory.writeOut(pieces, file, 100), 6);
  const found = Buffer.alloc(8);
  readSync(file, found, 0, 8, 99);
  t.is(found.toString(), '\0efghab\0');
  const beyond = [{ offset: PAGE_SIZE_BYTES - 1, length: 2 }];
  t.throws(() => memory.writeOut(beyond, file, 0), { message: /exceeds memory/ });
  t.is(memory.writeOut(pieces, -1, 0), 0, 'a file that fails');
  const many = Array.from({ length: 1025 }, () => ({ offset: 0, length: 1 }));
  t.is(memory.writeOut(many, file, 0), 0, 'more than one call takes');
});

test('a file that somebody could cut short is no memory of a peer', (t) => {
  const fd = createMemoryFile('test', PAGE_SIZE_BYTES);
  t.teardown(() => closeSync(fd));
  t.throws(() => PeerMemory.open(process.pid, fd), { code: 'COLO_E_SYSCALL' });
  t.throws(() => ftruncateSync(createSealedMemoryFile('test', PAGE_SIZE_BYTES), 0), {
    code: 'EPERM',
  });
});

test('the process at the other end of a socket', (t) => {
  const [near, far] = socketPair();
  t.teardown(() => {
    closeSync(near);
    closeSync(far);
  });
  t.is(peerProcess(near), process.pid);
});
