import test from 'ava';
import {
  ConfigurationError,
  diskPlace,
  nicConnection,
  resolveConfiguration,
} from '../../../src/config/index.js';
import { resolvePrimary, resolveSecondary, sourceOf } from '../../support/configuration.js';

const MINIMAL = ['--peer', '10.0.0.2', '--disk', '/images/a.img'];

function complaint(run: () => unknown): { exitCode: number; lines: string[] } {
  try {
    run();
  } catch (error) {
    if (!(error instanceof ConfigurationError)) throw error;
    return { exitCode: error.exitCode, lines: error.message.split('\n') };
  }
  throw new Error('The configuration was accepted');
}

test('a peer and a disk are enough for a primary', (t) => {
  const configuration = resolvePrimary(MINIMAL);
  t.deepEqual(configuration.peer, { host: '10.0.0.2', port: 7800 });
  t.deepEqual(configuration.disks, [{ name: 'disk0', path: '/images/a.img' }]);
  t.deepEqual(configuration.nics, []);
  t.is(configuration.periodUs, undefined);
  t.is(configuration.minIntervalUs, 100_000);
  t.is(configuration.peerTimeoutUs, 500_000);
  t.is(configuration.heartbeatIntervalUs, 50_000);
  t.is(configuration.machine.memoryBytes, 512 * 1024 ** 2);
  t.is(configuration.socketPath, '/run/colo/guest.sock');
  t.is(configuration.host, 'testhost');
});

test('a secondary runs on defaults alone', (t) => {
  const configuration = resolveSecondary([]);
  t.deepEqual(configuration.listen, { host: '0.0.0.0', port: 7800 });
  t.is(configuration.onPeerLoss, 'failover');
  t.true(configuration.lanAnnounce);
  t.is(diskPlace(configuration, 'disk0').path, '/var/lib/colo/guest-disk0.img');
});

test('flags win over the file, for lists as a whole', (t) => {
  const file = 'period = 1s\nvcpus = 4\ndisk = /a\ndisk = /b\npeer = h\n';
  const configuration = resolvePrimary(['--period=300ms', '--disk', 'x=/c/d'], file);
  t.is(configuration.periodUs, 300_000);
  t.is(configuration.machine.vcpus, 4);
  t.deepEqual(configuration.disks, [{ name: 'x', path: '/c/d' }]);
});

test('comments and blank lines are skipped, and a "#" behind a value belongs to it', (t) => {
  const file = '# c\n\n  # d\nkernel=/k\r\nappend = a=b # c\npeer = [fd00::2]:99\n';
  const configuration = resolvePrimary([], file);
  t.is(configuration.machine.append, 'a=b # c');
  t.is(configuration.machine.kernel, '/k');
  t.deepEqual(configuration.peer, { host: 'fd00::2', port: 99 });
});

test('COLO_CONFIG names the file when no flag does', (t) => {
  const source = sourceOf('secondary', []);
  const configuration = resolveConfiguration({
    ...source,
    env: { COLO_CONFIG: '/x' },
    readFile: (path) => (path === '/x' ? Buffer.from('vm = web') : undefined),
  });
  t.is(configuration.vm, 'web');
});

test('the default file is read when it is there', (t) => {
  const configuration = resolveConfiguration({
    ...sourceOf('secondary', []),
    readFile: (path) => (path === '/etc/colo/secondary.conf' ? Buffer.from('vm=web') : undefined),
  });
  t.is(configuration.vm, 'web');
});

test('a problem in a file names file, line, key, what was found and what to write', (t) => {
  const { exitCode, lines } = complaint(() => resolvePrimary(MINIMAL, '\nperiod = 200\n'));
  t.is(exitCode, 78);
  t.deepEqual(lines, [
    '/c:2: period: found "200", expected a duration from 10ms to 60s; add the unit, such as 200ms',
  ]);
});

test('a problem in a flag names the flag and exits 64', (t) => {
  const { exitCode, lines } = complaint(() => resolvePrimary([...MINIMAL, '--memory', '12']));
  t.is(exitCode, 64);
  t.deepEqual(lines, [
    '--memory: found "12", expected a size from 16MiB to 1024GiB in whole MiB; ' +
      'write a number and MiB or GiB, such as 512MiB',
  ]);
});

test('all problems are told at once, one line each', (t) => {
  const file = 'perod = 1s\nnonsense\nvcpus = many\nvm = A B\n';
  const { lines } = complaint(() => resolvePrimary([], file));
  t.deepEqual(lines, [
    '/c:1: perod: found an unknown key, expected one that colo-primary knows; did you mean period?',
    '/c:2: found "nonsense", expected key = value; add "=" or remove the line',
    '/c:4: vm: found "A B", expected a name of at most 32 of a-z, 0-9, "-" and "_"; ' +
      'start it with a letter or a digit',
    '/c: peer: found none, expected host[:port] of the secondary; add it',
    '/c:3: vcpus: found "many", expected a whole number from 1 to 255; choose one of those',
    '/c: disk: found nothing to boot, expected a disk or a kernel; add one of them',
  ]);
});

test('machine keys are refused on the secondary with the reason', (t) => {
  const { lines } = complaint(() => resolveSecondary(['--memory', '1GiB', '--period', '1s']));
  t.deepEqual(lines, [
    '--memory: found on colo-secondary, expected only on colo-primary, which sends the machine ' +
      'definition; remove it here',
    '--period: found on colo-secondary, expected only on colo-primary; move it to the primary host',
  ]);
});

test('the heartbeat must be shorter than a third of the peer timeout', (t) => {
  const flags = [...MINIMAL, '--peer-timeout', '150ms'];
  const { lines } = complaint(() => resolvePrimary(flags));
  t.deepEqual(lines, [
    '--peer-timeout: found a heartbeat every 50ms, expected less than a third of peer-timeout ' +
      '150ms; lower heartbeat-interval or raise peer-timeout',
  ]);
  t.is(resolvePrimary([...MINIMAL, '--peer-timeout', '151ms']).peerTimeoutUs, 151_000);
});

test('output is held up for ten time-outs at most, and never for more than 15 s', (t) => {
  t.is(resolvePrimary(MINIMAL).holdLimitUs, 5_000_000);
  const limit = (...flags: string[]) => resolvePrimary([...MINIMAL, ...flags]).holdLimitUs;
  t.is(limit('--peer-timeout', '3s'), 15_000_000);
  t.is(limit('--peer-timeout', '3s', '--hold-limit', '20s'), 20_000_000);
});

test('min-interval is at most the period', (t) => {
  const { lines } = complaint(() => resolvePrimary([...MINIMAL, '--period', '50ms']));
  t.is(lines.length, 1);
  t.regex(lines[0] ?? '', /^--period: found min-interval 100ms, expected at most period 50ms/);
});

test('initrd and append need a kernel', (t) => {
  const { lines } = complaint(() => resolvePrimary([...MINIMAL, '--append', 'x']));
  t.deepEqual(lines, ['--append: found it alone, expected kernel beside it; add kernel']);
});

test('a bridge alone gives one NIC with a MAC that depends on the names only', (t) => {
  const first = resolvePrimary([...MINIMAL, '--bridge', 'br0']).nics;
  const again = resolvePrimary([...MINIMAL, '--bridge', 'br0', '--host', 'other']).nics;
  t.is(first.length, 1);
  t.deepEqual(first, again);
  t.regex(first[0]?.mac ?? '', /^52:54(:[0-9a-f]{2}){4}$/);
  t.is(first[0]?.tap, 'guest-nic0');
  t.is(first[0]?.bridge, 'br0');
});

test('NICs take their own attributes and the default bridge', (t) => {
  const { nics } = resolvePrimary([
    ...MINIMAL,
    ...['--nic', 'mac=52:54:00:AA:00:01,tap=t0', '--nic', 'name=lan,bridge=br1'],
    ...['--bridge', 'br0', '--vm', 'a-rather-long-name'],
  ]);
  t.deepEqual(nics[0], { name: 'nic0', mac: '52:54:00:aa:00:01', tap: 't0', bridge: 'br0' });
  t.is(nics[1]?.name, 'lan');
  t.is(nics[1]?.bridge, 'br1');
  t.regex(nics[1]?.tap ?? '', /^colo-[0-9a-f]{8}$/);
});

test('repeated device names, MACs and images are refused', (t) => {
  const flags = [
    ...MINIMAL,
    ...['--disk', 'disk0=/b', '--disk', 'z=/images/a.img'],
    ...['--nic', 'mac=52:54:00:00:00:01', '--nic', 'mac=52:54:00:00:00:01'],
  ];
  const { lines } = complaint(() => resolvePrimary(flags));
  t.is(lines.length, 3);
  t.regex(lines[0] ?? '', /^--disk: found the name "disk0" again/);
  t.regex(lines[1] ?? '', /^--disk: found the path "\/images\/a.img" again/);
  t.regex(lines[2] ?? '', /^--nic: found the mac "52:54:00:00:00:01" again/);
});

test('the secondary places disks and NICs by the names of the primary', (t) => {
  const configuration = resolveSecondary([
    ...['--vm', 'web', '--disk', 'data=/d/data.img', '--disk-dir', '/imgs'],
    ...['--nic', 'name=lan,tap=t9,bridge=br9', '--bridge', 'br0'],
  ]);
  t.is(diskPlace(configuration, 'data').path, '/d/data.img');
  t.is(diskPlace(configuration, 'disk0').path, '/imgs/web-disk0.img');
  t.deepEqual(nicConnection(configuration, 'lan'), { tap: 't9', bridge: 'br9' });
  t.deepEqual(nicConnection(configuration, 'nic0'), { tap: 'web-nic0', bridge: 'br0' });
});

test('the secondary refuses a MAC and devices without a name', (t) => {
  const flags = ['--nic', 'name=a,mac=52:54:00:00:00:01', '--nic', 'tap=x', '--disk', '/d'];
  const { lines } = complaint(() => resolveSecondary(flags));
  t.regex(lines[0] ?? '', /^--disk: found "\/d", expected name=PATH on the secondary/);
  t.regex(lines[1] ?? '', /expected no mac=/);
  t.regex(lines[2] ?? '', /expected name= on the secondary/);
});

test("the format of an image is each host's own, who may write is the primary's", (t) => {
  const flags = ['--peer', 'h', '--disk', 'name=iso,path=/p,format=qcow2,readonly=on'];
  t.deepEqual(resolvePrimary(flags).disks, [
    { name: 'iso', path: '/p', format: 'qcow2', readOnly: true },
  ]);
  const secondary = resolveSecondary(['--disk', 'name=iso,path=/s,format=raw']);
  t.deepEqual(diskPlace(secondary, 'iso'), { name: 'iso', path: '/s', format: 'raw' });
  const { lines } = complaint(() => resolveSecondary(['--disk', 'name=a,path=/s,readonly=on']));
  t.deepEqual(lines, [
    '--disk: found "name=a,path=/s,readonly=on", expected no readonly=; ' +
      'the primary says it, remove it here',
  ]);
});

test('a value may start with a dash, and yes-or-no flags need no value', (t) => {
  const configuration = resolvePrimary([
    ...MINIMAL,
    ...['--qemu-arg', '-device', '--verify', '--qemu-arg=virtio-rng-pci'],
  ]);
  t.deepEqual(configuration.machine.qemuArguments, ['-device', 'virtio-rng-pci']);
  t.true(configuration.verify);
  t.false(resolvePrimary([...MINIMAL, '--verify=no']).verify);
});

test('a flag without its value, a stray word and an unknown flag are refused', (t) => {
  const { exitCode, lines } = complaint(() =>
    resolvePrimary(['x', '--bogus=1', ...MINIMAL, '--vcpus']),
  );
  t.is(exitCode, 64);
  t.deepEqual(lines, [
    'found "x", expected a flag; start it with "--", or see --help',
    '--bogus: found an unknown key, expected one that colo-primary knows; see --help for all of them',
    '--vcpus: found nothing behind it, expected a value; add one',
  ]);
});

test('an unknown flag takes its value with it', (t) => {
  const { lines } = complaint(() => resolvePrimary([...MINIMAL, '--memroy', '1GiB']));
  t.deepEqual(lines, [
    '--memroy: found an unknown key, expected one that colo-primary knows; did you mean memory?',
  ]);
});

test('a key that takes one value is refused twice', (t) => {
  const { lines } = complaint(() => resolvePrimary(MINIMAL, 'vm = a\nvm = b\n'));
  t.deepEqual(lines, ['/c:2: vm: found once more, expected at most 1; remove the others']);
});

test('more disks or NICs than a machine has slots for are refused', (t) => {
  const disks = Array.from({ length: 17 }, (_, index) => `--disk=d${index}=/d${index}`);
  const nics = Array.from({ length: 9 }, () => '--nic=bridge=br0');
  const { lines } = complaint(() => resolvePrimary(['--peer', 'h', ...disks, ...nics]));
  t.deepEqual(lines, [
    '--disk: found 17 of them, expected at most 16; remove the others',
    '--nic: found 9 of them, expected at most 8; remove the others',
  ]);
});

test('a socket path that Linux can not take is refused', (t) => {
  const { lines } = complaint(() => resolveSecondary(['--run-dir', `/${'x'.repeat(110)}`]));
  t.is(lines.length, 1);
  t.regex(lines[0] ?? '', /^--run-dir: found the socket path .* expected at most 107 bytes/);
});

test('a named file that is missing or unreadable is a configuration error', (t) => {
  const source = sourceOf('secondary', ['--config', '/none']);
  const missing = complaint(() => resolveConfiguration(source));
  t.is(missing.exitCode, 78);
  t.deepEqual(missing.lines, [
    '--config: found no file "/none", expected one; create it or name another',
  ]);
  const broken = complaint(() =>
    resolveConfiguration({
      ...source,
      readFile: () => {
        throw new Error('EACCES: permission denied');
      },
    }),
  );
  t.deepEqual(broken.lines, [
    '"/none": found EACCES: permission denied, expected a readable file; correct it',
  ]);
});

test('control characters in values are refused', (t) => {
  const { lines } = complaint(() => resolvePrimary([...MINIMAL, '--append', 'a\nb']));
  t.regex(lines[0] ?? '', /^--append: found "a\\nb", expected UTF-8 text without control/);
});

test('a hopeless file is told in a bounded number of lines', (t) => {
  const { lines } = complaint(() => resolvePrimary(MINIMAL, 'x\n'.repeat(100_000)));
  t.is(lines.length, 21);
  t.is(lines.at(-1), 'and 80 more problems; correct these first');
});

test('one file may be for both roles: each takes what is its own', (t) => {
  const file = [
    ...['both-roles = yes', 'vm = web', 'peer = 10.0.0.2', 'memory = 1GiB', 'period = 150ms'],
    ...['disk = /images/root.img', 'disk = name=data,path=/images/data.img,readonly=on'],
    ...['nic = mac=52:54:00:00:00:01,tap=tap7', 'disk-dir = /images', 'kernel = /boot/vmlinuz', ''],
  ].join('\n');
  const primary = resolvePrimary([], file);
  t.like(primary, { bothRoles: true, periodUs: 150_000 });
  t.is(primary.disks[1]?.readOnly, true);
  const secondary = resolveSecondary([], file);
  t.is(secondary.diskDir, '/images');
  t.deepEqual(
    secondary.disks.map(({ name, path }) => [name, path]),
    [
      ['disk0', '/images/root.img'],
      ['data', '/images/data.img'],
    ],
  );
  t.deepEqual(secondary.nics, [{ name: 'nic0', tap: 'tap7', bridge: undefined }]);
  const without = file.replace('both-roles = yes\n', '');
  t.throws(() => resolveSecondary([], without), { message: /memory: found on colo-secondary/ });
});
