import test from 'ava';
import { findLockOwners } from '../../../src/blockrep/lock-owner.js';

const TABLE = `1: FLOCK  ADVISORY  WRITE 4711 fe:00:131 0 EOF
1: -> FLOCK  ADVISORY  WRITE 4712 fe:00:131 0 EOF
2: POSIX  ADVISORY  READ  4713 00:1a:131 0 EOF
3: OFDLCK ADVISORY  READ  -1 fe:00:131 100 100
4: FLOCK  ADVISORY  READ  0 fe:00:131 0 EOF
5: FLOCK  ADVISORY  READ 4711 fe:00:131 0 EOF
6: FLOCK  ADVISORY  WRITE 4714 103:10000:7 0 EOF
`;

test('the owners of a lock are those of the same file on the same device', (t) => {
  t.deepEqual(findLockOwners(TABLE, { device: 0xfe00, inode: 131 }), [4711]);
  t.deepEqual(findLockOwners(TABLE, { device: 0x001a, inode: 131 }), [4713]);
  t.deepEqual(findLockOwners(TABLE, { device: 0xfe00, inode: 132 }), []);
});

test('device numbers above 255 are put together as the C library does', (t) => {
  t.deepEqual(findLockOwners(TABLE, { device: 0x1001_0300, inode: 7 }), [4714]);
});

test('an empty table has no owners', (t) => {
  t.deepEqual(findLockOwners('', { device: 1, inode: 1 }), []);
});
