import test from 'ava';
import { type Abilities, differencesOf } from '../../../src/migration/index.js';
import { HELLO } from '../../support/migration-sections.js';

const HERE: Abilities = {
  qemuVersion: '7.2.9',
  machineTypes: ['pc-q35-7.2'],
  cpuModels: ['qemu64'],
  accelerator: 'tcg',
  pageSizeBytes: 4096,
  memoryBytes: 1 << 30,
  nics: [{ bridge: 'br7', missing: false }],
  disks: [
    { name: 'root', sizeBytes: 1 << 30 },
    { name: 'media', sizeBytes: 4096 },
  ],
  postcopy: true,
};

test('a host that has everything has no difference', (t) => {
  t.deepEqual(differencesOf(HELLO, HERE), []);
  t.deepEqual(differencesOf(HELLO, { ...HERE, qemuVersion: '8.0.0' }), []);
});

test('each thing that is missing or other is named', (t) => {
  const poor: Abilities = {
    qemuVersion: '6.2.0',
    machineTypes: [],
    cpuModels: [],
    accelerator: 'kvm',
    pageSizeBytes: 65_536,
    memoryBytes: 4096,
    nics: [{ bridge: 'br7', missing: true }],
    disks: [{ name: 'media', sizeBytes: 8192 }],
    postcopy: false,
  };
  t.deepEqual(
    differencesOf(HELLO, poor).map(({ what }) => what),
    [
      ...['QEMU version', 'machine type', 'CPU model', 'accelerator', 'page size', 'memory'],
      ...['postcopy', 'disk root', 'disk media', 'bridge of NIC 0'],
    ],
  );
});

test('the features of a CPU model are no part of its name', (t) => {
  const { cpuModel } = HELLO;
  t.deepEqual(differencesOf({ ...HELLO, cpuModel: `${cpuModel},+aes` }, HERE), []);
});
