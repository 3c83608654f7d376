import { resolve } from 'node:path';
import test from 'ava';
import type { FileReport } from '../../../src/cli/config-check.js';
import type { Command, Response } from '../../../src/cli/control-wire.js';
import { AgentUnreachable, runColo } from '../../../src/cli/index.js';
import type { ShownCertificate } from '../../../src/cli/pki/certificate-file.js';
import type { PkiWish } from '../../../src/cli/pki/pki-arguments.js';
import { fullStatus, verifiedDisk } from '../../support/fake-node.js';

interface Run {
  code: number;
  out: string;
  err: string;
  pki?: PkiWish;
  calls: { path: string; command: Command; timeoutMs: number }[];
}

interface Options {
  /** To each call its own, then the failure. */
  responses?: Omit<Response, 'id'>[];
  sockets?: string[];
  response?: Omit<Response, 'id'>;
  looks?: number;
  failure?: Error;
  report?: FileReport;
  certificates?: ShownCertificate[];
  confirms?: boolean;
}

async function run(argv: string[], options: Options = {}): Promise<Run> {
  const result: Run = { code: -1, out: '', err: '', calls: [] };
  let looks = options.looks ?? 1;
  result.code = await runColo(argv, {
    version: '9.9.9',
    isTerminal: false,
    print: (text) => {
      result.out += text;
    },
    complain: (text) => {
      result.err += text;
    },
    call: async (path, command, timeoutMs) => {
      result.calls.push({ path, command, timeoutMs });
      const next = options.responses?.shift();
      if (next !== undefined) return { id: 1, ...next } as Response;
      if (options.failure !== undefined) throw options.failure;
      return { id: 1, ...(options.response ?? { ok: true, result: fullStatus() }) } as Response;
    },
    list: async () => options.sockets ?? ['web.sock'],
    captureFolder: (dir) => `/here/${dir ?? 'new'}`,
    absolute: (path) => resolve('/here', path),
    makeCertificate: async (wish) => {
      result.pki = wish;
      if (options.failure !== undefined) throw options.failure;
      return {
        ca: '/etc/colo/pki/ca.crt',
        certificate: '/etc/colo/pki/hosta.crt',
        key: '/etc/colo/pki/hosta.key',
        names: ['hosta', '10.0.0.1'],
        validUntil: '2030-01-02T03:04:05.000Z',
      };
    },
    showCertificates: async (wish) => {
      result.pki = wish;
      return options.certificates ?? [];
    },
    compareFiles: async () => {
      throw new Error('Nothing is compared in this file');
    },
    checkConfig: async (file, role) =>
      options.report ?? { file, role: role ?? 'primary', findings: [] },
    planDiscard: async ({ vm, disk }) => ({
      vm,
      host: 'here',
      stateDir: '/state',
      disks: [{ name: disk ?? 'root', path: '/images/root.img' }],
    }),
    carryOutDiscard: async (plan) =>
      plan.disks.map(({ name, path }) => ({
        ...{ disk: name, image: path, record: `/state/${name}`, kept: null },
      })),
    confirm: async (question) => {
      result.err += question;
      return options.confirms === true;
    },
    onInterrupt: () => () => undefined,
    nextLook: async () => {
      looks -= 1;
      return looks > 0;
    },
  });
  return result;
}

const DONE: Options = { response: { ok: true, result: { detail: 'Done' } } as never };

test('the only agent is found without being named', async (t) => {
  const { code, calls } = await run(['checkpoint'], { ...DONE, sockets: ['web.sock', 'qmp.pid'] });
  t.is(code, 0);
  t.is(calls[0]?.path, '/run/colo/web.sock');
});

test('a socket, a VM and a folder can be named', async (t) => {
  t.is((await run(['status', '--socket', '/x'])).calls[0]?.path, '/x');
  t.is((await run(['status', '--vm', 'db'])).calls[0]?.path, '/run/colo/db.sock');
  t.is((await run(['--run-dir', '/r', 'status'])).calls[0]?.path, '/r/web.sock');
});

test('without an agent the exit code is 69, with several they are listed', async (t) => {
  const none = await run(['status'], { sockets: [] });
  t.is(none.code, 69);
  t.regex(none.err, /^colo: Found no agent in \/run\/colo, expected one; start it/);
  const many = await run(['status'], { sockets: ['b.sock', 'a.sock'] });
  t.is(many.code, 64);
  t.regex(many.err, /Found 2 agents in \/run\/colo \(a, b\), expected one; choose with --vm/);
});

test('every command carries its arguments', async (t) => {
  const asked = async (...argv: string[]) => (await run(argv, DONE)).calls[0]?.command;
  t.deepEqual(await asked('failover'), { command: 'failover', arguments: { force: false } });
  t.deepEqual(await asked('failover', '--force'), {
    command: 'failover',
    arguments: { force: true },
  });
  t.deepEqual(await asked('set-period', '1.5s'), {
    command: 'set-period',
    arguments: { periodUs: 1_500_000 },
  });
  t.deepEqual(await asked('set-period', 'auto'), {
    command: 'set-period',
    arguments: { periodUs: 'auto' },
  });
  for (const mode of ['checkpoint', 'colo'] as const) {
    t.deepEqual(await asked('set-mode', mode), { command: 'set-mode', arguments: { mode } });
  }
  t.deepEqual(await asked('checkpoint'), { command: 'checkpoint', arguments: {} });
});

test('a capture has its defaults, and its folder is made absolute here', async (t) => {
  const asked = async (...argv: string[]) => (await run(['capture', ...argv], DONE)).calls[0];
  const usual = { dir: '/here/new', durationUs: 10_000_000, nic: 0, bytesMax: 1024 ** 3 };
  t.deepEqual((await asked())?.command, { command: 'capture', arguments: usual });
  const all = ['--dir', 'd', '--duration', '2.5s', '--nic', '7', '--max-bytes', '3MiB'];
  t.deepEqual((await asked(...all))?.command, {
    command: 'capture',
    arguments: { dir: '/here/d', durationUs: 2_500_000, nic: 7, bytesMax: 3 * 1024 ** 2 },
  });
});

test('an answer is waited for as long as the command takes', async (t) => {
  const waits = async (...argv: string[]) => (await run(argv, DONE)).calls[0]?.timeoutMs;
  t.is(await waits('set-period', 'auto'), 5_000);
  t.is(await waits('set-mode', 'colo'), 60_000);
  t.is(await waits('checkpoint'), 60_000);
  t.is(await waits('capture', '--duration', '100s'), 160_000);
});

test('answers come as a sentence or as JSON', async (t) => {
  t.is((await run(['checkpoint'], DONE)).out, 'Done\n');
  t.is((await run(['checkpoint', '--json'], DONE)).out, '{"ok":true,"detail":"Done"}\n');
  t.deepEqual(JSON.parse((await run(['status', '--json'])).out), fullStatus());
});

test('a refusal exits 1 with its code and reason', async (t) => {
  const refused: Options = {
    response: { ok: false, error: { code: 'COLO_E_X', reason: 'No' } } as never,
  };
  const human = await run(['failover'], refused);
  t.deepEqual([human.code, human.out, human.err], [1, '', 'colo: No (COLO_E_X)\n']);
  const json = await run(['failover', '--json'], refused);
  t.deepEqual([json.code, json.err], [1, '']);
  t.is(json.out, '{"ok":false,"code":"COLO_E_X","reason":"No"}\n');
});

test('an answer of the wrong form exits 1 and says so', async (t) => {
  const { code, err } = await run(['status'], { response: { ok: true, result: {} } as never });
  t.is(code, 1);
  t.regex(err, /^colo: The status is wrong: .*\(COLO_E_PROTOCOL\)\n$/);
});

test('wrong usage exits 64, in one line, without asking any agent', async (t) => {
  const wrong = [
    [],
    ['reboot'],
    ['statu'],
    ['status', 'x'],
    ['status', '--bogus'],
    ['status', '--socket', '/a', '--vm', 'b'],
    ['status', '--vm', 'A/B'],
    ['status', '--vm', 'a', '--vm', 'b'],
    ['status', '--vm'],
    ['set-period'],
    ['set-period', '200'],
    ['set-period', '1ms'],
    ['set-period', '1s', '2s'],
    ['set-period', 'automatic'],
    ['set-mode'],
    ['set-mode', 'remus'],
    ['set-mode', 'colo', 'checkpoint'],
    ['capture', 'x'],
    ['capture', '--duration', '10'],
    ['capture', '--duration', '1h'],
    ['capture', '--duration', '601s'],
    ['capture', '--nic', '8'],
    ['capture', '--nic', '-1'],
    ['capture', '--max-bytes', '100'],
    ['capture', '--dir', 'a', '--dir', 'b'],
    ['compare'],
    ['compare', 'a.pcap'],
    ['compare', 'a.pcap', 'b.pcap', 'c.pcap'],
    ['compare', 'a.pcap', 'b.pcap', '--compare-timeout', '200'],
    ['compare', 'a.pcap', 'b.pcap', '--inbound', 'c', '--inbound', 'd'],
    ['checkpoint', '--force'],
  ];
  for (const argv of wrong) {
    const { code, err, out, calls } = await run(argv);
    t.is(code, 64, argv.join(' '));
    t.regex(err, /^colo: [^\n]+ \(COLO_E_USAGE\)\n$/, argv.join(' '));
    t.is(out, '');
    t.deepEqual(calls, []);
  }
  t.regex((await run(['set-period', '200'])).err, /add the unit, such as 200ms/);
  t.regex((await run(['statu'])).err, /did you mean status\?/);
  t.like(JSON.parse((await run(['--json', 'reboot'])).out), { ok: false, code: 'COLO_E_USAGE' });
});

test('help and version are answers', async (t) => {
  const help = await run(['--help']);
  t.is(help.code, 0);
  const words = [
    'status',
    'failover',
    'set-period',
    'set-mode',
    'checkpoint',
    'capture',
    'compare',
  ];
  for (const word of [...words, 'completion', '--vm']) t.true(help.out.includes(word), word);
  t.is((await run(['--version'])).out, '9.9.9\n');
  t.regex((await run(['failover', '--help'])).out, /--force/);
  t.regex((await run(['capture', '--help'])).out, /--max-bytes .*\n?.*1GiB/);
  t.regex((await run(['compare', '--help'])).out, /--compare-timeout[\s\S]*200ms/);
});

test('the shell can complete commands', async (t) => {
  t.regex((await run(['completion'])).out, /colo --get-yargs-completions/);
  const { out } = await run(['--get-yargs-completions', 'colo', '']);
  for (const word of ['set-period', 'set-mode', 'capture', 'compare']) {
    t.true(out.split('\n').includes(word), word);
  }
});

test('a verification lists what differs, and says by its exit code whether that is left', async (t) => {
  const verified = (disk: object): Options => ({
    response: { ok: true, result: { disks: [disk] } } as never,
  });
  const found = await run(['verify'], { ...verified(verifiedDisk()), looks: 0 });
  t.is(found.code, 1);
  t.deepEqual(found.calls[0]?.command, {
    command: 'verify',
    arguments: { disk: null, repair: false },
  });
  t.is(
    found.out,
    'disk disk0: 4096 clusters of 64 KiB, 1 differ\n  differed at 2621440, 65536 bytes\n',
  );
  const mended = { ...verifiedDisk(), repairedBytes: 65_536, remaining: 0 };
  const argv = ['verify', '--disk', 'disk0', '--repair', '--json'];
  const repaired = await run(argv, { ...verified(mended), looks: 0 });
  t.is(repaired.code, 0);
  t.deepEqual(repaired.calls[0]?.command.arguments, { disk: 'disk0', repair: true });
  t.deepEqual(JSON.parse(repaired.out), { ok: true, disks: [mended] });
  t.is(repaired.err, '');
  t.is((await run(['verify', '--disk', 'a/b'])).code, 64);
  t.deepEqual((await run(['verify', '--disk'], verified(mended))).calls[0]?.command.arguments, {
    disk: null,
    repair: false,
  });
});

test('an image is given up only when that is confirmed', async (t) => {
  const refused = await run(['discard-image', '--vm', 'web']);
  t.is(refused.code, 1);
  t.regex(refused.err, /disk root: \/images\/root.img[\s\S]*nothing was given up/);
  const words = 'may be overwritten by the other host now; it had no record';
  const done = await run(['discard-image', '--vm', 'web'], { confirms: true });
  t.deepEqual([done.code, done.out], [0, `disk root: /images/root.img ${words}\n`]);
  const json = await run(['discard-image', '--vm', 'web', '--disk', 'data', '--yes', '--json']);
  t.deepEqual(JSON.parse(json.out).disks[0].disk, 'data');
  t.is(json.err, '');
  t.is((await run(['discard-image'])).code, 64);
  t.is((await run(['discard-image', '--vm', 'web', '--image', '/x'])).code, 64);
});

test('a watch goes on through failures', async (t) => {
  const failure = new AgentUnreachable('Nobody answers');
  const { code, calls } = await run(['status', '--watch'], { looks: 3, failure });
  t.is(calls.length, 3);
  t.is(code, 69);
});

test('the table for people shows every fact', async (t) => {
  const { out } = await run(['status']);
  t.deepEqual(out.split('\n'), [
    'VM               web on hostA',
    'Role             primary, protected',
    'Peer             10.0.0.2:7800, connected, heard 12 ms ago',
    'Epoch            42, committed 41',
    'Mode             checkpoint, every 200 ms',
    'Synchronising    [#######.......................]  25 %  ram, 128.0 MiB of 512.0 MiB',
    '  disk disk0     comparing, 120 of 4096 clusters compared, 3 differ, sent 64.0 KiB, ' +
      '128.0 KiB to send, some 12 s left',
    'Synchronised     52.0 MiB of memory sent, 206.0 MiB kept there, in 2.3 s',
    'Verifying        [#######.......................]  25 %  disk disk0, 1 clusters differ',
    'Migration        [..............................]   0 %  hybrid to 10.0.0.3:7800, postcopy, ' +
      'round 1, 1.9 MiB at 95.4 MiB/s, guest slowed down by 10 %, some 5 s left, downtime 31 ms, ' +
      '120 faults, p50 0.21 ms, p99 1.90 ms',
    'Checkpoints      41 (period 40, operator 1), failed 0',
    'Pause            last 2.93 ms, median 2.8 ms, p99 4.1 ms',
    'Dirty pages      312 in the last checkpoint, 14 of them in the pause',
    'Sent             12.4 MiB',
    'Held output      3 frames, 4.1 KiB',
    'Downtime         none',
    'Guest            QEMU 7.2.22, tcg, pages by userfaultfd',
    'Disk disk0       2.0 GiB, buffered 4.0 KiB, overlay 0 B, active, generation 5b0c7e5e epoch 40',
    'Witness          etcd://10.0.0.3:2379, no grant, token 17',
    'Right to speak   speaking, for 480 ms more',
    'Heartbeats       the peer is alive',
    'Gateway          reachable',
    'Links            mutual TLS 1.3',
    'Certificate      hosta, 10.0.0.1, until 2030-01-02: 400 days left',
    "Peer's           hostb, until 2029-01-02: 12 days left, RENEW IT",
    'Disk memory      24.0 MiB',
    'Up               1 h 2 min',
    'Last failure     none',
    '',
  ]);
});

test('a secondary without a guest shows neither a period nor a QEMU', async (t) => {
  const result = { ...fullStatus(), role: 'secondary', periodMs: 0, qemuVersion: 'none' };
  const { out } = await run(['status'], { response: { ok: true, result } as never });
  t.regex(out, /^Mode {13}checkpoint$/m);
  t.regex(out, /^Guest {12}none yet$/m);
});

test('a table never carries control characters to the terminal', async (t) => {
  const result = { ...fullStatus(), lastFailure: 'evil\x1b[2J\n' };
  const { out } = await run(['status'], { response: { ok: true, result } as never });
  t.true(out.endsWith('Last failure     evil?[2J?\n'));
});

test('check-config takes files, or all of /etc/colo, and says which are good', async (t) => {
  const named = await run(['check-config', '/a', 'b', '--role', 'secondary']);
  t.is(named.code, 0);
  t.is(
    named.out,
    '/a: good for colo-secondary on this host\nb: good for colo-secondary on this host\n',
  );
  const all = await run(['check-config'], { sockets: ['web.conf', 'web.conf.example'] });
  t.is(all.out, '/etc/colo/web.conf: good for colo-primary on this host\n');
  const none = await run(['check-config'], { sockets: [] });
  t.is(none.code, 78);
  t.regex(none.err, /^colo: found no \*\.conf in \/etc\/colo, expected one/);
});

test('check-config exits 78 for an error and 0 for a warning, also in JSON', async (t) => {
  const report = (level: 'error' | 'warning'): FileReport => ({
    file: '/a',
    role: 'primary',
    findings: [{ level, key: 'disk', line: '/a:1: disk: found x, expected y' }],
  });
  const error = await run(['check-config', '/a'], { report: report('error') });
  t.deepEqual([error.code, error.out], [78, '']);
  t.is(error.err, 'colo: /a:1: disk: found x, expected y\n');
  const warning = await run(['check-config', '/a'], { report: report('warning') });
  t.is(warning.code, 0);
  t.is(warning.err, 'colo: warning: /a:1: disk: found x, expected y\n');
  const json = await run(['check-config', '/a', '--json'], { report: report('error') });
  t.deepEqual([json.code, json.err], [78, '']);
  t.deepEqual(JSON.parse(json.out), { ok: false, files: [{ ...report('error'), ok: false }] });
});

const EVENT = { sequence: 3, timeUs: 1_795_234_974_864_361, role: 'secondary', reason: 'Silent' };

function eventsAnswer(next: number, ...events: object[]): Omit<Response, 'id'> {
  return { ok: true, result: { events, next } } as never;
}

test('events are shown one a line until there are no more', async (t) => {
  const failover = { kind: 'failover', continuedFrom: 'running', epoch: 41, downtimeMs: 812 };
  const lost = { ...EVENT, kind: 'lost', count: 2, sequence: 2, reason: 'lost 2 events' };
  const responses = [
    eventsAnswer(3, lost, { ...EVENT, ...failover }),
    eventsAnswer(4, { ...EVENT, sequence: 4, kind: 'state', from: 'failing-over', to: 'alone' }),
    eventsAnswer(4),
  ];
  const { code, out, calls } = await run(['events'], { responses });
  t.is(code, 0);
  t.deepEqual(out.split('\n'), [
    '2026-11-21T04:22:54.864Z     2 secondary lost: lost 2 events',
    '2026-11-21T04:22:54.864Z     3 secondary failover from as it ran, epoch 41, down 812 ms: Silent',
    '2026-11-21T04:22:54.864Z     4 secondary state failing-over -> alone: Silent',
    '',
  ]);
  const asked = calls.map(({ command }) => command.arguments);
  t.deepEqual(
    asked,
    [null, 3, 4].map((after) => ({ after, waitMs: 0 })),
  );
});

test('events are followed until the agent is gone, as lines of JSON', async (t) => {
  const state = { ...EVENT, kind: 'guest', what: 'reset' };
  const { code, out, calls } = await run(['events', '--follow', '--json', '--after', '2'], {
    responses: [eventsAnswer(2), eventsAnswer(3, state)],
    failure: new AgentUnreachable('The agent hung up'),
  });
  t.is(code, 69);
  const [event, end] = out.trim().split('\n');
  t.deepEqual(JSON.parse(event ?? ''), state);
  t.like(JSON.parse(end ?? ''), { ok: false, code: 'COLO_E_UNREACHABLE' });
  const waits = calls.map(({ command }) => (command.arguments as { waitMs: number }).waitMs > 0);
  t.deepEqual(waits, [false, true, true]);
});

test('a sequence number that is none is a usage error', async (t) => {
  t.is((await run(['events', '--after', 'x'])).code, 64);
});

const CERTIFICATE: ShownCertificate = {
  file: '/etc/colo/pki/hosta.crt',
  subject: 'CN=hosta',
  issuer: 'CN=Colo CA 1',
  names: ['hosta', '10.0.0.1'],
  isCa: false,
  validFrom: '2028-01-02T03:04:05.000Z',
  validUntil: '2030-01-02T03:04:05.000Z',
  daysLeft: 12,
  state: 'valid',
  fingerprint: 'AA:BB',
};

test('pki: what was typed reaches the CA, with its defaults', async (t) => {
  const dir = '/etc/colo/pki';
  t.deepEqual((await run(['pki', 'init'])).pki, {
    kind: 'init',
    init: { dir, days: 3650, json: false },
  });
  const issue = { dir, name: 'hosta', others: [], days: undefined, renew: false, json: false };
  t.deepEqual((await run(['pki', 'issue', 'hosta'])).pki, { kind: 'issue', issue });
  const more = ['10.0.0.1', 'fd00::1', '--days', '9', '--renew', '--json', '--dir', 'p'];
  t.deepEqual((await run(['pki', 'issue', 'hosta', ...more])).pki, {
    kind: 'issue',
    issue: {
      ...{ dir: '/here/p', name: 'hosta', others: ['10.0.0.1', 'fd00::1'] },
      ...{ days: 9, renew: true, json: true },
    },
  });
  t.deepEqual((await run(['pki', 'show', 'a.crt', '/b'])).pki, {
    kind: 'show',
    show: { files: ['/here/a.crt', '/b'], dir, json: false },
  });
});

test('pki: what makes no sense is refused before anything is done', async (t) => {
  for (const argv of [
    ['pki'],
    ['pki', 'nonsense'],
    ['pki', 'init', 'more'],
    ['pki', 'init', '--days', '0'],
    ['pki', 'init', '--days', '1', '--days', '2'],
    ['pki', 'issue'],
    ['pki', 'issue', '*'],
    ['pki', 'issue', '../etc/passwd'],
    ['pki', 'issue', 'a,IP:10.0.0.9'],
    ['pki', 'issue', 'hosta', '10.0.0.300'],
    ['pki', 'issue', 'hosta', 'fe80::1%eth0'],
    ['pki', 'issue', 'h'.repeat(65)],
    ['pki', 'issue', 'hosta', '--days', '99999'],
  ]) {
    const { code, pki, err } = await run(argv);
    t.is(code, 64, argv.join(' '));
    t.is(pki, undefined);
    t.regex(err, /COLO_E_USAGE/);
  }
});

test('pki: what was made is told with what to do next, and as JSON', async (t) => {
  t.regex((await run(['pki', 'init'])).out, /never leaves this host[\s\S]*colo pki issue/);
  const { code, out } = await run(['pki', 'issue', 'hosta', '10.0.0.1']);
  t.is(code, 0);
  t.regex(out, /for hosta, 10\.0\.0\.1, until 2030-01-02/);
  t.regex(out, /scp \S+ca\.crt \S+hosta\.crt \S+hosta\.key hosta:\/etc\/colo\/pki\//);
  const made = JSON.parse((await run(['pki', 'issue', 'hosta', '--json'])).out);
  t.like(made, { ok: true, certificate: '/etc/colo/pki/hosta.crt' });
});

test('pki show: an end that is near is told, and one that is past is a failure', async (t) => {
  const near = await run(['pki', 'show'], { certificates: [CERTIFICATE] });
  t.is(near.code, 0);
  t.regex(near.out, /host hosta, 10\.0\.0\.1[\s\S]*12 days left, RENEW IT[\s\S]*AA:BB/);
  const expired = { ...CERTIFICATE, state: 'expired', daysLeft: -1 } as const;
  const past = await run(['pki', 'show'], { certificates: [CERTIFICATE, expired] });
  t.is(past.code, 1);
  t.regex(past.out, /EXPIRED/);
  const json = await run(['pki', 'show', '--json'], { certificates: [CERTIFICATE] });
  t.deepEqual(JSON.parse(json.out), { ok: true, certificates: [CERTIFICATE] });
});
