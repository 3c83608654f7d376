import test from 'ava';
import { cpuModelNames, machineTypeNames } from '../../../src/emulator/machine-types.js';

test('machine types are the first words of their lines', (t) => {
  const help = [
    'Supported machines are:',
    'microvm              microvm (i386)',
    'pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)',
    'pc-i440fx-7.2        Standard PC (i440FX + PIIX, 1996) (default)',
  ].join('\n');
  t.deepEqual(machineTypeNames(help), ['microvm', 'pc', 'pc-i440fx-7.2']);
});

test('CPU models are those before the flags, in the format of old and new versions', (t) => {
  const flags = ['', 'Recognized CPUID flags:', '  fpu vme de', '  sse2'];
  const old = [
    'Available CPUs:',
    'x86 486-v1                ',
    'x86 qemu64                (alias configured by machine type)',
    'x86 host                  processor with all supported host features ',
    ...flags,
  ];
  t.deepEqual(cpuModelNames(old.join('\n')), ['486-v1', 'qemu64', 'host']);
  const later = ['Available CPUs:', '  486-v1', '  qemu64                (alias)', ...flags];
  t.deepEqual(cpuModelNames(later.join('\n')), ['486-v1', 'qemu64']);
});
