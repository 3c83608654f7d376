/** The rules of `colo check-config`, each against a host that breaks it. */
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import test from 'ava';
import { checkConfigFile } from '../../../src/cli/config-check.js';
import { type Host, type PathFacts, thisHost } from '../../../src/cli/config-check-host.js';
import type { Role } from '../../../src/config/index.js';
import { temporaryFolder } from '../../support/temporary.js';

const FOLDER: PathFacts = {
  kind: 'folder',
  sizeBytes: 4096,
  readable: true,
  writable: true,
  head: '',
};
const FILE: PathFacts = { ...FOLDER, kind: 'file', sizeBytes: 1024 ** 2 };
const DEVICE: PathFacts = { ...FOLDER, kind: 'device', sizeBytes: 0 };

const PRIMARY = `vm = web
peer = hostb
disk = root=/images/web.img
kernel = /boot/vmlinuz
nic = name=lan,tap=tap0
bridge = br0
console-log = /var/log/colo/web.log
cpu = qemu64
memory = 1GiB
`;
const SECONDARY = `vm = web
listen = 10.0.0.2
allow-peer = 10.0.0.1
disk = root=/images/web.img
disk-dir = /srv/images
bridge = br0
`;

interface Change extends Partial<Host> {
  readonly paths?: Readonly<Record<string, PathFacts | undefined>>;
}

/** A host on which both files are good, changed. */
function hostWith(text: string, change: Change = {}): Host {
  const paths: Record<string, PathFacts | undefined> = {
    ...{ '/': FOLDER, '/run': FOLDER, '/var/lib': FOLDER, '/var/log/colo': FOLDER },
    ...{ '/images': FOLDER, '/srv/images': FOLDER, '/dev/net/tun': DEVICE, '/dev/kvm': DEVICE },
    ...{ '/images/web.img': FILE, '/boot/vmlinuz': FILE },
    ...change.paths,
  };
  return {
    hostname: 'hosta',
    userId: 0,
    memoryBytes: 4 * 1024 ** 3,
    readFile: (path) => (path === '/c' ? Buffer.from(text) : undefined),
    inspect: async (path) => paths[path],
    interfaceKind: async (name) => (name === 'br0' ? 'bridge' : undefined),
    addresses: () => ['127.0.0.1', '10.0.0.9'],
    resolve: async (name) => [name === 'hostb' ? '10.0.0.2' : name],
    listenError: async () => undefined,
    agentRuns: async () => false,
    run: async (_program, [what]) => {
      if (what === '--version') return 'QEMU emulator version 7.2.22 (Debian)\n';
      if (what === '-machine') return 'Supported machines are:\npc   Standard PC (alias of x)\n';
      if (what === '-cpu') return 'Available CPUs:\nx86 qemu64   (alias ...)\n';
      return 'ip utility\n';
    },
    trackerReason: () => undefined,
    securityFindings: () => [],
    preloadExists: async () => true,
    ...change,
  };
}

async function linesOf(text: string, change?: Change, role?: Role): Promise<string[]> {
  const report = await checkConfigFile('/c', role, hostWith(text, change));
  return report.findings.map(({ level, line }) => (level === 'error' ? line : `${level} ${line}`));
}

test('a good file has no finding, and its role is seen from its keys', async (t) => {
  for (const [role, text] of [
    ['primary', PRIMARY],
    ['secondary', SECONDARY],
  ] as const) {
    const report = await checkConfigFile('/c', undefined, hostWith(text));
    t.deepEqual(report, { file: '/c', role, findings: [] });
  }
});

test('mistakes of grammar are told for the role that fits best, or for the one named', async (t) => {
  const typing = `${PRIMARY}perod = 1s\n`;
  const [line, ...more] = await linesOf(typing);
  t.regex(line ?? '', /^\/c:10: perod: found an unknown key, .* did you mean period\?$/);
  t.deepEqual(more, []);
  t.true((await linesOf(typing, {}, 'secondary')).length > 1);
  t.regex((await linesOf(PRIMARY, { readFile: () => undefined }))[0] ?? '', /found no file "\/c"/);
});

test('what is wrong with an image is told at its line', async (t) => {
  const found = async (facts: PathFacts | undefined): Promise<string> => {
    const lines = await linesOf(PRIMARY, { paths: { '/images/web.img': facts } });
    t.is(lines.length, 1, lines.join('\n'));
    const start = '/c:3: disk: found "/images/web.img" ';
    t.true(lines[0]?.startsWith(start), lines[0]);
    return (lines[0] ?? '').slice(start.length).split(', expected ')[0] ?? '';
  };
  t.is(await found(undefined), 'that is not there');
  t.is(await found(FOLDER), 'that is a folder');
  t.is(await found({ ...FILE, readable: false }), 'that can not be read');
  t.is(await found({ ...FILE, writable: false }), 'that can not be written');
  t.is(await found({ ...FILE, head: 'QFI\xfb' }), 'in qcow2');
  t.is(await found({ ...FILE, sizeBytes: 0 }), 'of 0 bytes');
  t.is(await found({ ...FILE, sizeBytes: 513 }), 'of 513 bytes');
});

/** Rule by rule: the file, how the host breaks it, and how the only line begins. */
const BROKEN: readonly (readonly [string, Change, RegExp])[] = [
  [PRIMARY, { paths: { '/boot/vmlinuz': undefined } }, /^\/c:4: kernel: found .* not there, exp/],
  [PRIMARY, { paths: { '/boot/vmlinuz': FOLDER } }, /^\/c:4: kernel: found .* is a folder, exp/],
  [PRIMARY, { paths: { '/dev/net/tun': undefined } }, /^\/c:5: nic: found no usable .*, expect/],
  [PRIMARY, { interfaceKind: async () => 'bridge' }, /^\/c:5: nic: found an interface "tap0", e/],
  [PRIMARY, { interfaceKind: async () => undefined }, /^\/c:6: bridge: found no interface "br0"/],
  [PRIMARY, { paths: { '/var/log/colo': undefined } }, /^\/c:7: console-log: found "\/var\/log/],
  [PRIMARY, { resolve: async () => [] }, /^\/c:2: peer: found "hostb", expected a name with an/],
  [PRIMARY, { addresses: () => ['10.0.0.2'] }, /^\/c:2: peer: found "hostb", which is this host/],
  [PRIMARY, { memoryBytes: 1024 ** 3 }, /^\/c:9: memory: found 1GiB, expected less than the 1GiB/],
  [PRIMARY, { preloadExists: async () => false }, /^\/c: found no preload library, expected one/],
  [PRIMARY, { run: async () => undefined }, /^\/c: found no (command ip|qemu)/],
  [`${PRIMARY}machine = q35\n`, {}, /^\/c:10: machine: found "q35", expected a machine type/],
  [PRIMARY.replace('qemu64', 'z80'), {}, /^\/c:8: cpu: found "z80", expected a CPU of this QEMU/],
  [
    `${PRIMARY}accel = kvm\n`,
    { paths: { '/dev/kvm': undefined } },
    /^\/c:10: accel: found no usable \/dev\/kvm, expected/,
  ],
  [
    `${PRIMARY}tracker = soft-dirty\n`,
    { trackerReason: () => 'not here' },
    /^\/c:10: tracker: found no soft-dirty \(not here\), expected a kernel/,
  ],
  [
    `${PRIMARY}tls-key = /k\n`,
    {
      securityFindings: () => [{ level: 'error', key: 'tls-key', text: 'found x, expected y; z' }],
    },
    /^\/c:10: tls-key: found x, expected y; z$/,
  ],
  [
    PRIMARY,
    {
      securityFindings: () => [{ level: 'warning', key: 'tls-ca', text: 'found x, expected y; z' }],
    },
    /^warning \/c: tls-ca: found x, expected y; z$/,
  ],
  [PRIMARY, { trackerReason: () => 'old' }, /^warning \/c: tracker: found no userfaultfd \(old\)/],
  [PRIMARY, { userId: 1000 }, /^warning \/c: found user id 1000, expected root/],
  [
    PRIMARY,
    { paths: { '/var/lib': { ...FOLDER, writable: false } } },
    /^\/c: state-dir: found "\/var\/lib", which can not be written to, expected a folder/,
  ],
  [SECONDARY, { addresses: () => ['10.0.0.1'] }, /^\/c:3: allow-peer: found .* this host, expec/],
  [SECONDARY, { listenError: async () => 'EADDRINUSE' }, /^\/c:2: listen: found 10\.0\.0\.2:78/],
  [SECONDARY, { paths: { '/srv/images': FILE } }, /^\/c:5: disk-dir: found .* is no folder, exp/],
  [
    SECONDARY,
    { paths: { '/images': undefined, '/images/web.img': undefined } },
    /^\/c:4: disk: found "\/images", which is not there, expected a folder/,
  ],
  // The other host's image is not made here.
  [
    SECONDARY.replace('root=/', 'name=root,shared=on,path=/'),
    { paths: { '/images/web.img': undefined } },
    /^\/c:4: disk: found "\/images\/web.img" that is not there/,
  ],
];

test('each rule has its line with file, key, found and expected', async (t) => {
  for (const [text, change, expected] of BROKEN) {
    const lines = await linesOf(text, change);
    const fitting = lines.filter((line) => expected.test(line));
    t.deepEqual(lines, fitting, String(expected));
    t.true(lines.length > 0, String(expected));
    for (const line of lines) t.regex(line, /: found .*, expected .*; /);
  }
});

test('an old QEMU is refused', async (t) => {
  const run = async () => 'QEMU emulator version 5.2.0\n';
  t.regex((await linesOf(SECONDARY, { run }))[0] ?? '', /^\/c: found QEMU 5\.2\.0, expected 6\.0/);
});

test('what a running agent has taken is not held against it', async (t) => {
  const taken = { agentRuns: async () => true, listenError: async () => 'EADDRINUSE' };
  t.deepEqual(await linesOf(PRIMARY, { ...taken, interfaceKind: async () => 'bridge' }), []);
  t.deepEqual(await linesOf(SECONDARY, taken), []);
});

test('an image that the first synchronisation will make may be missing', async (t) => {
  t.deepEqual(await linesOf(SECONDARY, { paths: { '/images/web.img': undefined } }), []);
});

test('this host tells what is on it', async (t) => {
  const folder = temporaryFolder(t);
  const image = join(folder, 'a.img');
  writeFileSync(image, 'QFI\xfb', 'latin1');
  truncateSync(image, 1024);
  mkdirSync(join(folder, 'd'));
  const file = { kind: 'file', sizeBytes: 1024, readable: true, writable: true, head: 'QFI\xfb' };
  t.deepEqual(await thisHost.inspect(image), file as PathFacts);
  t.is((await thisHost.inspect(join(folder, 'd')))?.kind, 'folder');
  t.is((await thisHost.inspect('/dev/null'))?.kind, 'device');
  t.is(await thisHost.inspect(join(folder, 'none')), undefined);
  t.is(await thisHost.interfaceKind('lo'), 'other');
  t.is(await thisHost.interfaceKind('none0'), undefined);
  t.true(thisHost.addresses().includes('127.0.0.1'));
  t.deepEqual(await thisHost.resolve('127.0.0.1'), ['127.0.0.1']);
  t.deepEqual(await thisHost.resolve('no such host'), []);
  t.regex((await thisHost.run('node', ['--version'])) ?? '', /^v\d+/);
  t.is(await thisHost.run(join(folder, 'none'), []), undefined);
});

test('this host knows sockets that are taken, and agents that run', async (t) => {
  const server = createServer();
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  const { port } = server.address() as { port: number };
  t.regex((await thisHost.listenError({ host: '127.0.0.1', port })) ?? '', /EADDRINUSE/);
  server.close();
  const path = join(temporaryFolder(t), 's');
  t.false(await thisHost.agentRuns(path));
  const agent = createServer().listen(path);
  t.teardown(() => agent.close());
  await new Promise((resolve) => {
    agent.once('listening', resolve);
  });
  t.true(await thisHost.agentRuns(path));
});
