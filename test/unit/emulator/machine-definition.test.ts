import test from 'ava';
import { parseMachineDefinition } from '../../../src/emulator/machine-definition.js';
import { OperatorError, ProtocolError } from '../../../src/lib/index.js';

const good = {
  name: 'web-1',
  memoryMib: 256,
  vcpus: 2,
  accelerator: 'auto',
  machineType: 'pc',
  disks: [{ name: 'root', sizeBytes: 2 ** 30, readOnly: false }],
  nics: [{ name: 'lan', mac: '52:54:00:12:34:56' }],
  extraArguments: [],
};

test('a definition is what was written', (t) => {
  t.deepEqual(parseMachineDefinition(good) as unknown, good);
  const kernel = { image: '/boot/vmlinuz', commandLine: 'console=ttyS0' };
  t.deepEqual(parseMachineDefinition({ ...good, kernel }).kernel, kernel);
});

const wrong: [string, unknown, RegExp][] = [
  ['a name with a slash', { ...good, name: '../x' }, /name is "\.\.\/x"/],
  ['too little memory', { ...good, memoryMib: 8 }, /memoryMib is 8; .*16/],
  ['a fraction of a vCPU', { ...good, vcpus: 1.5 }, /vcpus is 1\.5/],
  ['an unknown accelerator', { ...good, accelerator: 'xen' }, /accelerator is "xen"; .*kvm/],
  ['a machine type with a property', { ...good, machineType: 'pc,usb=on' }, /machineType is/],
  ['a missing list', { ...good, disks: undefined }, /disks is missing/],
  [
    'a multicast MAC',
    { ...good, nics: [{ name: 'lan', mac: '53:54:00:12:34:56' }] },
    /nics\.0\.mac is/,
  ],
  ['an unknown key', { ...good, memory: 1 }, /memory/],
  ['a NUL in an argument', { ...good, extraArguments: ['a\0b'] }, /extraArguments\.0 is/],
  ['two disks of one name', { ...good, disks: [...good.disks, ...good.disks] }, /same name/],
  ['no object', 7, /the definition itself is 7/],
];
for (const [what, value, message] of wrong) {
  test(`${what} is refused, and the message names key and value`, (t) => {
    t.throws(() => parseMachineDefinition(value), { instanceOf: OperatorError, message });
    t.throws(() => parseMachineDefinition(value, 'peer'), { instanceOf: ProtocolError, message });
  });
}
