/** `colo pki` makes files that TLS takes, lets nobody else read them, and overwrites nothing. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { chmodSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import {
  type InitWish,
  type IssueWish,
  initAuthority,
  issueCertificate,
} from '../../../src/cli/pki/authority.js';
import { showCertificates } from '../../../src/cli/pki/certificate-file.js';
import { refusalOfCertificate } from '../../../src/transport/index.js';
import { temporaryFolder } from '../../support/temporary.js';

const COLO = fileURLToPath(new URL('../../../src/cli/colo.js', import.meta.url));
const DAY_MS = 24 * 3600 * 1000;

const list = async (folder: string): Promise<string[]> => readdirSync(folder);
const init = (dir: string, wish: Partial<InitWish> = {}) =>
  initAuthority({ dir, days: undefined, json: false, ...wish });
const issue = (dir: string, wish: Partial<IssueWish> = {}, signal?: AbortSignal) =>
  issueCertificate(
    { dir, name: 'hosta', others: [], days: undefined, renew: false, json: false, ...wish },
    signal,
  );
const certificate = (dir: string, name: string): X509Certificate =>
  new X509Certificate(readFileSync(join(dir, `${name}.crt`)));

/** A folder that is not there yet. */
function newFolder(t: ExecutionContext): string {
  return join(temporaryFolder(t), 'etc', 'pki');
}

test('a CA and its hosts: who they are, who may read them, nothing left over', async (t) => {
  const dir = newFolder(t);
  const made = await init(dir);
  t.is(made.ca, join(dir, 'ca.crt'));
  t.is(made.key, join(dir, 'ca.key'));
  const host = await issue(dir, { others: ['a.example', '10.0.0.1', 'fd00::1', 'hosta'] });
  t.deepEqual(host.names, ['hosta', 'a.example', '10.0.0.1', 'FD00:0:0:0:0:0:0:1']);
  t.is(statSync(dir).mode & 0o777, 0o700);
  const files = readdirSync(dir).sort();
  t.deepEqual(files, ['.lock', 'ca.crt', 'ca.key', 'hosta.crt', 'hosta.key']);
  for (const file of files) t.is(statSync(join(dir, file)).mode & 0o777, 0o600, file);
  const ca = readFileSync(made.ca, 'utf8');
  for (const name of ['hosta', 'a.example', '10.0.0.1', 'fd00::1']) {
    t.is(refusalOfCertificate(certificate(dir, 'hosta'), { ca, peerNames: [name] }), undefined);
  }
  const leaf = certificate(dir, 'hosta');
  t.false(leaf.ca);
  t.true(certificate(dir, 'ca').ca);
  const years = (Date.parse(leaf.validTo) - Date.parse(leaf.validFrom)) / DAY_MS / 365;
  t.is(Math.round(years), 2);
  const verified = execFileSync('openssl', [
    ...['verify', '-x509_strict', '-CAfile', made.ca],
    ...['-purpose', 'sslserver', host.certificate],
  ]);
  t.regex(verified.toString(), /OK/);
});

test('two CAs have two names, two certificates two numbers', async (t) => {
  const [one, other] = [newFolder(t), newFolder(t)];
  await Promise.all([init(one), init(other)]);
  t.not(certificate(one, 'ca').subject, certificate(other, 'ca').subject);
  await issue(one, { name: 'a' });
  await issue(one, { name: 'b' });
  t.not(certificate(one, 'a').serialNumber, certificate(one, 'b').serialNumber);
});

test('nothing is overwritten', async (t) => {
  const dir = newFolder(t);
  await init(dir);
  await issue(dir);
  const before = new Map(readdirSync(dir).map((name) => [name, readFileSync(join(dir, name))]));
  await t.throwsAsync(init(dir), { message: /found .*ca\.crt, expected none/ });
  await t.throwsAsync(issue(dir), { message: /found .*hosta\.crt.*--renew/ });
  await t.throwsAsync(issue(dir, { name: 'ca' }), { message: /the name ca/ });
  // Half a pair of files counts, too.
  writeFileSync(join(dir, 'other.key'), 'mine');
  await t.throwsAsync(issue(dir, { name: 'other' }), { message: /found .*other\.key/ });
  t.is(readFileSync(join(dir, 'other.key'), 'utf8'), 'mine');
  for (const [name, bytes] of before) t.deepEqual(readFileSync(join(dir, name)), bytes, name);
});

test('a renewal: the same key and names, another end; it needs no private key of the host', async (t) => {
  const dir = newFolder(t);
  await init(dir);
  await issue(dir, { others: ['10.0.0.1'], days: 10 });
  const before = certificate(dir, 'hosta');
  execFileSync('rm', [join(dir, 'hosta.key')]);
  const made = await issue(dir, { renew: true, days: 20 });
  const after = certificate(dir, 'hosta');
  t.is(made.key, undefined);
  t.true(after.publicKey.equals(before.publicKey));
  t.is(after.subjectAltName, before.subjectAltName);
  t.is(Math.round((Date.parse(after.validTo) - Date.parse(before.validTo)) / DAY_MS), 10);
  await issue(dir, { renew: true, others: ['10.0.0.9'] });
  t.is(certificate(dir, 'hosta').subjectAltName, 'DNS:hosta, IP Address:10.0.0.9');
  await t.throwsAsync(issue(dir, { name: 'nobody', renew: true }), { message: /no file/ });
});

test('no certificate outlives its CA', async (t) => {
  const dir = newFolder(t);
  await init(dir, { days: 30 });
  await t.throwsAsync(issue(dir, { days: 31 }), { message: /found 31 days, expected at most/ });
  await issue(dir);
  t.true(
    Date.parse(certificate(dir, 'hosta').validTo) <= Date.parse(certificate(dir, 'ca').validTo),
  );
});

test('without a CA, its key or a folder for keys there is no certificate', async (t) => {
  const dir = newFolder(t);
  await t.throwsAsync(issue(dir), { message: /no file .*ca\.crt.*colo pki init/ });
  await init(dir);
  execFileSync('rm', [join(dir, 'ca.key')]);
  await t.throwsAsync(issue(dir), { message: /found no .*ca\.key/ });
  const open = newFolder(t);
  mkdirSync(open, { recursive: true });
  chmodSync(open, 0o755);
  await t.throwsAsync(init(open), { message: /mode 0755, expected 0700/ });
  t.deepEqual(readdirSync(open), []);
});

test('the umask changes nothing', (t) => {
  const dir = newFolder(t);
  // Only root writes to a folder that it may not write to.
  for (const umask of ['000', '022', ...(process.getuid?.() === 0 ? ['777'] : [])]) {
    const place = join(dir, umask);
    mkdirSync(place, { recursive: true, mode: 0o700 });
    const run = `umask ${umask}; "$0" "$1" pki init --dir "$2"`;
    execFileSync('sh', ['-c', run, process.execPath, COLO, place], { stdio: 'pipe' });
    for (const file of ['ca.crt', 'ca.key']) {
      t.is(statSync(join(place, file)).mode & 0o777, 0o600, `${umask} ${file}`);
    }
  }
});

test('an interrupt leaves no file behind', async (t) => {
  const dir = newFolder(t);
  await init(dir);
  const before = readdirSync(dir).sort();
  await t.throwsAsync(issue(dir, {}, AbortSignal.abort()), { code: 'COLO_E_INTERRUPTED' });
  t.deepEqual(readdirSync(dir).sort(), before);
});

test('an interrupt while openssl works ends both, and leaves no file behind', async (t) => {
  const dir = newFolder(t);
  await init(dir);
  const before = readdirSync(dir).sort();
  // One that never ends, and says that it has begun.
  const bin = temporaryFolder(t);
  const fake = '#!/bin/sh\necho $$ > "$0.new"\nmv "$0.new" "$0.pid"\nexec sleep 600\n';
  writeFileSync(join(bin, 'openssl'), fake, { mode: 0o755 });
  const child = spawn(process.execPath, [COLO, 'pki', 'issue', 'hosta', '--dir', dir], {
    env: { ...process.env, PATH: `${bin}:${process.env['PATH']}` },
    stdio: 'ignore',
  });
  t.teardown(() => void child.kill('SIGKILL'));
  await until(() => readdirSync(bin).includes('openssl.pid'), child);
  child.kill('SIGINT');
  const [code] = await once(child, 'exit');
  t.is(code, 130);
  t.deepEqual(readdirSync(dir).sort(), before);
  const pid = Number(readFileSync(join(bin, 'openssl.pid'), 'utf8'));
  await until(() => !isAlive(pid), child);
});

test('show: every certificate of a folder or of the files named; what is none is told', async (t) => {
  const dir = newFolder(t);
  await init(dir);
  await issue(dir, { days: 10, others: ['10.0.0.1'] });
  const all = await showCertificates({ files: [], dir, json: false }, list);
  t.deepEqual(
    all.map(({ isCa, state }) => ({ isCa, state })),
    [
      { isCa: true, state: 'valid' },
      { isCa: false, state: 'valid' },
    ],
  );
  t.deepEqual(all[1]?.names, ['hosta', '10.0.0.1']);
  t.is(all[1]?.issuer, all[0]?.subject);
  t.true([9, 10].includes(all[1]?.daysLeft ?? 0));
  const bundle = join(dir, 'bundle.pem');
  writeFileSync(bundle, readFileSync(join(dir, 'ca.crt'), 'utf8').repeat(2));
  t.is((await showCertificates({ files: [bundle], dir, json: false }, list)).length, 2);
  const wrong: [string, string, RegExp][] = [
    ['empty', '', /no certificate/],
    ['key', readFileSync(join(dir, 'hosta.key'), 'utf8'), /no certificate/],
    ['torn', '-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n', /can not be read/],
  ];
  for (const [name, text, expected] of wrong) {
    const file = join(dir, name);
    writeFileSync(file, text);
    await t.throwsAsync(showCertificates({ files: [file], dir, json: false }, list), {
      message: expected,
      code: 'COLO_E_PKI',
    });
  }
  await t.throwsAsync(
    showCertificates({ files: [], dir: join(dir, 'none'), json: false }, async () => []),
    {
      message: /no certificates in/,
    },
  );
});

async function until(isSo: () => boolean, child: ChildProcess): Promise<void> {
  const deadline = Date.now() + 60_000;
  while (!isSo()) {
    if (Date.now() > deadline) throw new Error(`It did not come; exit code ${child.exitCode}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
