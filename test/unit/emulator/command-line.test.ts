import { readFileSync } from 'node:fs';
import test from 'ava';
import { formatCommandLine } from '../../../src/emulator/command-line.js';
import { findMachineType } from '../../../src/emulator/machine-types.js';
import { goldenPath } from '../../support/golden.js';

const definition = {
  name: 'web-1',
  memoryMib: 256,
  vcpus: 2,
  accelerator: 'tcg',
  machineType: 'pc-i440fx-7.2',
  cpuModel: 'qemu64',
  kernel: { image: '/boot/vmlinuz', initrd: '/boot/initrd', commandLine: 'console=ttyS0 quiet' },
  disks: [{ name: 'root', sizeBytes: 2 ** 30, readOnly: false }],
  nics: [{ name: 'lan', mac: '52:54:00:12:34:56' }],
  extraArguments: ['-device', 'virtio-rng-pci'],
} as const;

const options = {
  definition,
  ramMapping: 'private',
  diskSockets: ['/run/colo/disk,0.sock'],
  startPaused: true,
} as const;

test('the command line of a machine with everything is the golden one', (t) => {
  const golden = readFileSync(goldenPath('command-line.txt'), 'utf8');
  t.is(`${formatCommandLine(options).join('\n')}\n`, golden);
});

test('only what was asked for differs: mapping, pause, kernel', (t) => {
  const { kernel: _, ...withoutKernel } = definition;
  const full = formatCommandLine(options);
  const other = formatCommandLine({
    ...options,
    definition: withoutKernel,
    ramMapping: 'shared',
    startPaused: false,
  });
  t.deepEqual(
    full.filter((argument) => !other.includes(argument)),
    [
      full.find((argument) => argument.includes('"share":false')) ?? 'no RAM backend',
      '-S',
      '-kernel',
      '/boot/vmlinuz',
      '-initrd',
      '/boot/initrd',
      '-append',
      'console=ttyS0 quiet',
    ],
  );
});

test('a machine that waits for a guest is told so, and has the same devices', (t) => {
  const waiting = formatCommandLine({ ...options, incoming: true });
  const at = waiting.indexOf('-incoming');
  t.deepEqual(waiting.slice(at, at + 2), ['-incoming', 'defer']);
  t.deepEqual(waiting.toSpliced(at, 2), formatCommandLine({ ...options, incoming: false }));
});

test('a machine alias becomes the versioned type, a versioned type stays, others are unknown', (t) => {
  const help = [
    'Supported machines are:',
    'microvm              microvm (i386)',
    'pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)',
    'pc-i440fx-7.2        Standard PC (i440FX + PIIX, 1996) (default)',
  ].join('\n');
  t.is(findMachineType(help, 'pc'), 'pc-i440fx-7.2');
  t.is(findMachineType(help, 'pc-i440fx-7.2'), 'pc-i440fx-7.2');
  t.is(findMachineType(help, 'pc-i440fx'), undefined);
  t.is(findMachineType(help, ''), undefined);
});
