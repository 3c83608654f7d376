/**
 * The Debian package: built, installed in a clean root, and used as docs/install.md says, up to a
 * protected guest. There is no systemd as process 1 here: the test starts what the units start, and
 * listens where systemd would.
 */
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import test from 'ava';
import { type Child, run } from '../../scripts/harness/child.js';
import { Cleanup } from '../../scripts/harness/cleanup.js';
import { copyImage, type GuestFiles, guestFiles } from '../../scripts/harness/guest-files.js';
import { BRIDGE, GUEST_MAC, Lab, REPLICATION_ADDRESS } from '../../scripts/harness/lab.js';
import { NotifySocket } from '../support/notify-socket.js';
import { ROOT } from './lab-harness.js';
import { type PackageHost, PackageRoot } from './package-root.js';

const WATCHDOG_US = 3_000_000;
const PROTECTED_DEADLINE_MS = 120_000;

const PRIMARY = (guest: GuestFiles): string => `# as in docs/install.md
vm = web
host = hosta
peer = ${REPLICATION_ADDRESS.hostb}
memory = 256MiB
kernel = ${guest.kernel}
initrd = ${guest.initrd}
append = ${guest.commandLine}
disk = root=/var/lib/colo/web.img
nic = name=lan,mac=${GUEST_MAC}
bridge = ${BRIDGE}
peer-timeout = 3s
`;
const SECONDARY = `vm = web
host = hostb
listen = ${REPLICATION_ADDRESS.hostb}
allow-peer = ${REPLICATION_ADDRESS.hosta}
bridge = ${BRIDGE}
peer-timeout = 3s
`;

test.serial('the package is the same byte by byte, and goes in and out cleanly', async (t) => {
  const cleanup = new Cleanup();
  const stopListening = cleanup.onSignals();
  try {
    const root = await PackageRoot.create(cleanup);
    const path = await root.build();
    const first = await readFile(join(root.path, path));
    await root.build();
    t.true(first.equals(await readFile(join(root.path, path))));

    // Without Node it goes in, and says what is missing.
    const installed = await root.sh(`apt-get install -y ${path} 2>&1`);
    t.regex(installed, /colo-run: found no Node, expected Node 20 or newer; install it/);
    t.regex(await root.sh('colo --version 2>&1; echo $?'), /^colo: found no Node, .*\n78\n$/);
    await root.sh('printf "#!/bin/sh\\necho v18.20.4\\n" >/usr/bin/node; chmod 755 /usr/bin/node');
    t.regex(await root.sh('colo --version 2>&1 || true'), /found \/usr\/bin\/node 18\.20\.4, expe/);
    await copyFile(process.execPath, join(root.path, 'usr/local/bin/node'));

    const { version } = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8')) as {
      version: string;
    };
    for (const name of ['colo', 'colo-primary', 'colo-secondary']) {
      t.is(await root.sh(`${name} --version`), `${version}\n`);
      t.regex(await root.sh(`man ${name} | cat`), /colo-primary\(8\)|colo\(1\)/);
    }
    t.is(await root.sh('dpkg -V colo'), '');
    t.is(
      await root.sh(
        'systemd-analyze verify colo-primary@web.service colo-secondary@web.service 2>&1 || true',
      ),
      '',
    );

    // The example has the right form; what it names is not on this host, line by line.
    await root.sh('cp /usr/share/doc/colo/examples/primary.conf /etc/colo/web.conf');
    await root.sh('colo-primary --config /etc/colo/web.conf --check-config');
    const found = await root.sh('colo check-config 2>&1; test $? = 78');
    for (const key of ['bridge: found no interface "br0"', 'disk: found "/var/lib/colo/web.img"']) {
      t.true(found.includes(key), found);
    }
    for (const line of found.trim().split('\n')) t.regex(line, /: found .*, expected .*; /);

    t.is(await root.sh('stat -c %a /etc/colo/pki'), '700\n');
    await root.sh('colo pki init; colo pki issue hosta 10.0.0.1');
    t.regex(await root.sh('colo pki show'), /host hosta, 10\.0\.0\.1/);

    await root.sh('mkdir -p /var/lib/colo; cd /var/lib/colo; touch web-root.img web.epoch');
    await root.sh('apt-get remove -y colo; test ! -e /usr/lib/colo; test ! -e /usr/bin/colo');
    t.is(
      await root.sh('ls /etc/colo /etc/default/colo'),
      '/etc/default/colo\n\n/etc/colo:\npki\nweb.conf\n',
    );
    await root.sh('dpkg --purge colo');
    const left = await root.sh('ls /etc/colo /var/lib/colo; test ! -e /etc/default/colo');
    t.is(left, '/etc/colo:\npki\nweb.conf\n\n/var/lib/colo:\nweb-root.img\n');
  } finally {
    await cleanup.run();
    stopListening();
  }
});

test.serial('scripts/install puts Colo below a prefix and takes it away again', async (t) => {
  const cleanup = new Cleanup();
  const stopListening = cleanup.onSignals();
  try {
    const directory = await mkdtemp(join(tmpdir(), 'colo-package-'));
    cleanup.add('installation', () => rm(directory, { recursive: true, force: true }));
    const install = [join(ROOT, 'scripts/install'), '--prefix', '/opt/x', '--destdir', directory];
    await run(install);
    await writeFile(join(directory, 'etc/default/colo'), 'mine');
    await writeFile(join(directory, 'opt/x/lib/systemd/system/theirs.service'), '');
    const unit = join(directory, 'opt/x/lib/systemd/system/colo-primary@.service');
    const primary = await readFile(unit, 'utf8');
    t.regex(primary, /^ExecStart=\/opt\/x\/bin\/colo-primary /m);
    // Its peer runs the guest by then.
    t.regex(primary, /^Restart=on-failure$/m);
    const secondary = await readFile(unit.replace('primary', 'secondary'), 'utf8');
    t.regex(secondary, /^Restart=on-failure$/m);
    t.notRegex(primary + secondary, /@[a-z]+@[^%.]/);
    const script = join(directory, 'opt/x/lib/colo/colo-run');
    t.regex(await readFile(script, 'utf8'), /^library=\/opt\/x\/lib\/colo$/m);
    await run(install);
    t.is(await readFile(join(directory, 'etc/default/colo'), 'utf8'), 'mine');
    await run([...install, '--uninstall']);
    const left = (await readdir(directory, { recursive: true, withFileTypes: true }))
      .filter((entry) => !entry.isDirectory())
      .map((entry) => join(entry.parentPath, entry.name).slice(directory.length));
    t.deepEqual(left.sort(), ['/etc/default/colo', '/opt/x/lib/systemd/system/theirs.service']);
    await t.throwsAsync(run([...install, '--uninstall']), { message: /expected the list of an/ });
    await t.throwsAsync(run([...install, '--prefix', 'x']), { message: /exit code 64/ });
  } finally {
    await cleanup.run();
    stopListening();
  }
});

test.serial('the units start, protect a guest, stay alive and stop in order', async (t) => {
  const cleanup = new Cleanup();
  const stopListening = cleanup.onSignals();
  try {
    const guest = await guestFiles(ROOT);
    const root = await PackageRoot.create(cleanup);
    await root.sh(`apt-get install -y ${await root.build()}`);
    await copyFile(process.execPath, join(root.path, 'usr/local/bin/node'));
    const lab = await Lab.up(ROOT, cleanup);
    const readable = [join(guest.kernel, '..')];
    const hosta = await root.host(lab, 'hosta', readable);
    const hostb = await root.host(lab, 'hostb', readable);
    await writeFile(join(hosta.directory, 'etc/web.conf'), PRIMARY(guest));
    await writeFile(join(hostb.directory, 'etc/web.conf'), SECONDARY);
    await copyImage(guest.image, join(hosta.directory, 'lib/web.img'));
    await makeCertificates(hosta, hostb);
    for (const [host, role] of [
      [hosta, 'primary'],
      [hostb, 'secondary'],
    ] as const) {
      const said = await host.run('colo', 'check-config');
      t.is(said, `/etc/colo/web.conf: good for colo-${role} on this host\n`);
    }

    const started: Child[] = [];
    cleanup.add('agents', async () => void (await Promise.all(started.map((one) => one.stop()))));
    const start = async (host: PackageHost, unit: string): Promise<[Child, NotifySocket]> => {
      const manager = await NotifySocket.listen(t, host.notifyPath);
      const agent = host.start(await root.commandOf(unit, 'web'), WATCHDOG_US);
      started.push(agent);
      const ended = agent.ended.then(async ({ code }) => {
        throw new Error(`${unit} ended with ${code}: ${await readFile(host.logPath, 'utf8')}`);
      });
      await Promise.race([manager.waitFor(/^READY=1/), ended]);
      ended.catch(() => undefined);
      return [agent, manager];
    };
    const [secondary, secondaryManager] = await start(hostb, 'colo-secondary@.service');
    const [primary, primaryManager] = await start(hosta, 'colo-primary@.service');
    await waitStatus(hosta, ({ committedEpoch }) => committedEpoch !== null);
    for (const host of [hosta, hostb]) {
      const { security } = JSON.parse(await host.run('colo', 'status', '--json')) as Status;
      t.like(security, { transport: 'tls', certificate: { daysLeft: 729 } });
    }
    for (const manager of [primaryManager, secondaryManager]) {
      await manager.waitFor(/WATCHDOG=1/, manager.datagrams.length);
    }

    primary.kill('SIGTERM');
    t.is((await primary.ended).code, 0, await readFile(hosta.logPath, 'utf8'));
    await primaryManager.waitFor(/STOPPING=1/);
    await waitStatus(hostb, ({ role }) => role === 'primary');
    await secondaryManager.waitFor(/STATUS=primary, /);
    secondary.kill('SIGTERM');
    t.is((await secondary.ended).code, 0, await readFile(hostb.logPath, 'utf8'));
    await secondaryManager.waitFor(/STOPPING=1/);
  } finally {
    await cleanup.run();
    stopListening();
  }
});

interface Status {
  readonly role: string;
  readonly security: unknown;
  readonly committedEpoch: number | null;
}

/** As docs/security.md says. */
async function makeCertificates(hosta: PackageHost, hostb: PackageHost): Promise<void> {
  await hosta.run('colo', 'pki', 'init');
  for (const host of ['hosta', 'hostb'] as const) {
    await hosta.run('colo', 'pki', 'issue', host, REPLICATION_ADDRESS[host]);
  }
  const [from, to] = [join(hosta.directory, 'etc/pki'), join(hostb.directory, 'etc/pki')];
  await mkdir(to, { mode: 0o700 });
  for (const name of ['ca.crt', 'hostb.crt', 'hostb.key']) {
    await copyFile(join(from, name), join(to, name));
  }
}

/** Asks with `colo status` until it holds. */
async function waitStatus(host: PackageHost, holds: (status: Status) => boolean): Promise<void> {
  const until = performance.now() + PROTECTED_DEADLINE_MS;
  let text = '';
  while (performance.now() < until) {
    text = await host.run('colo', 'status', '--json');
    if (holds(JSON.parse(text) as Status)) return;
    await delay(100);
  }
  throw new Error(`Not within ${PROTECTED_DEADLINE_MS / 1000} s: ${text}`);
}
