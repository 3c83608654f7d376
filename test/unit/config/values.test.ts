import test from 'ava';
import {
  formatConfiguration,
  formatDuration,
  formatHelp,
  KEY_NAMES,
  keyDefinition,
  parseDuration,
  quote,
  readArguments,
  ValueError,
} from '../../../src/config/index.js';
import { resolvePrimary, resolveSecondary } from '../../support/configuration.js';

const BOUNDS = { minUs: 1, maxUs: 60_000_000 };

test('durations are exact in every unit', (t) => {
  t.is(parseDuration('200ms', BOUNDS), 200_000);
  t.is(parseDuration('1s', BOUNDS), 1_000_000);
  t.is(parseDuration('1.5s', BOUNDS), 1_500_000);
  t.is(parseDuration('1.1s', BOUNDS), 1_100_000);
  t.is(parseDuration('0.25ms', BOUNDS), 250);
  t.is(parseDuration('7us', BOUNDS), 7);
});

test('a bare number is refused with the unit to add', (t) => {
  const error = t.throws(() => parseDuration('200', BOUNDS), { instanceOf: ValueError });
  t.is(
    error?.message,
    'found "200", expected a duration from 1us to 60s; add the unit, such as 200ms',
  );
});

test('durations out of range, of parts of microseconds, or in other forms are refused', (t) => {
  for (const text of ['0ms', '61s', '0.5us', '1m', '-1s', '1e3s', ' 1s', '1 s', '', 's', '1.s']) {
    t.throws(() => parseDuration(text, BOUNDS), { instanceOf: ValueError }, text);
  }
});

test('a formatted duration is the shortest exact text', (t) => {
  t.is(formatDuration(2_000_000), '2s');
  t.is(formatDuration(1_500_000), '1500ms');
  t.is(formatDuration(1_001), '1001us');
});

test('every default and every example is accepted by its own grammar', (t) => {
  for (const key of KEY_NAMES) {
    const definition = keyDefinition(key);
    t.notThrows(() => definition.parse(definition.example), key);
    const fallback = definition.default;
    if (fallback !== undefined) t.notThrows(() => definition.parse(fallback), key);
  }
});

/** Of the form with attributes. */
const WRONG_DISKS = [
  ...['name=a', 'name=a,format=raw', 'path=rel', 'path=/a,path=/b', 'path=/a,format=vmdk'],
  ...['path=/a,shared=yes', 'path=/a,shared=on,format=qcow2', 'path=/a,readonly=on,shared=on'],
  ...['path=/a,readonly', 'path=/a,readonly=yes', 'path=/a,size=1', 'path=/a,b', 'path=/a,'],
];

test('a disk is a path, a name and a path, or attributes in any order', (t) => {
  const { parse } = keyDefinition('disk');
  t.deepEqual(parse('/a,b=c'), { name: undefined, path: '/a,b=c' });
  t.deepEqual(parse('data=/a,format=raw'), { name: 'data', path: '/a,format=raw' });
  t.deepEqual(parse('path=/a'), { name: undefined, path: '/a' });
  t.deepEqual(parse('readonly=on,format=qcow2,path=/a,name=iso'), {
    name: 'iso',
    path: '/a',
    format: 'qcow2',
    readOnly: true,
  });
  t.deepEqual(parse('path=/a,readonly=off'), { name: undefined, path: '/a', readOnly: false });
  t.deepEqual(parse('path=/a,shared=on'), { name: undefined, path: '/a', shared: true });
});

test('wrong values of each grammar are refused', (t) => {
  const wrong: Record<string, string[]> = {
    vm: ['', 'A', 'a/b', '-a', 'a'.repeat(33), '..'],
    host: ['', 'a b', '-x'],
    peer: ['', ':1', 'h:0', 'h:65536', 'h:x', '[::1', '[h]:1', 'a b', 'h:1:2x'],
    memory: ['1', '1MB', '15MiB', '1025GiB', '16.5MiB', '-1GiB', '1e3MiB'],
    vcpus: ['0', '256', '1.5', '0x2', ' 1'],
    accel: ['hvf', 'KVM'],
    machine: ['', '-pc', 'a b'],
    kernel: ['relative/path', './x'],
    disk: ['relative', 'name=', 'name=rel', 'N=/a', '=/a', ...WRONG_DISKS],
    nic: ['', 'x=1', 'mac', 'mac=1', 'mac=01:00:00:00:00:01', 'mac=00:00:00:00:00:00', 'tap='],
    bridge: ['', 'a/b', 'sixteen-letters-', 'a b'],
    verify: ['1', 'on', 'Yes'],
  };
  for (const [key, texts] of Object.entries(wrong)) {
    const { parse } = keyDefinition(key as (typeof KEY_NAMES)[number]);
    for (const text of texts) {
      t.throws(() => parse(text), { instanceOf: ValueError }, `${key} = ${text}`);
    }
  }
  t.throws(() => keyDefinition('nic').parse('tap=a,tap=b'), { message: /give tap= once/ });
});

test('the shown configuration of a primary is a file that gives it again', (t) => {
  const configuration = resolvePrimary([
    ...['--peer', '[fd00::1]:9', '--kernel', '/k', '--append', 'a # b', '--memory', '1.5GiB'],
    ...['--disk', '/a', '--disk', 'x=/b', '--nic', 'tap=t', '--qemu-arg', '-S', '--verify'],
    ...['--period', '1.5s', '--min-interval', '1500us'],
    ...['--disk', 'name=path,path=/c', '--disk', 'path=/d,format=qcow2,readonly=on'],
  ]);
  t.deepEqual(resolvePrimary([], formatConfiguration(configuration)), configuration);
});

test('the shown configuration of a secondary is a file that gives it again', (t) => {
  const configuration = resolveSecondary([
    ...['--disk', 'x=/b', '--nic', 'name=lan,tap=t', '--lan-announce=no', '--on-peer-loss', 'wait'],
    ...['--disk', 'name=y,path=/c,format=raw', '--disk', 'name=z,path=/d,shared=on'],
  ]);
  t.deepEqual(resolveSecondary([], formatConfiguration(configuration)), configuration);
});

test('help names every key of the role and fits a terminal', (t) => {
  for (const role of ['primary', 'secondary'] as const) {
    const help = formatHelp(role);
    for (const key of KEY_NAMES) {
      t.is(help.includes(`--${key} (`), keyDefinition(key).roles.includes(role), key);
    }
    for (const line of help.split('\n')) t.true(line.length <= 102, line);
  }
});

test('help, version and check-config are actions, and help wins', (t) => {
  t.is(readArguments(['--check-config'], 'primary').action, 'check-config');
  t.is(readArguments(['--version'], 'primary').action, 'version');
  t.is(readArguments(['-h', '--check-config', '--bogus'], 'primary').action, 'help');
  t.is(readArguments([], 'primary').action, 'run');
});

test('quoted text is one bounded line', (t) => {
  t.is(quote('a\nb\u2028\u0085'), '"a\\nb\\u2028\\u0085"');
  t.is(quote('x'.repeat(1000)).length, 85);
});
