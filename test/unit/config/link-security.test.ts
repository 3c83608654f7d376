/** Which files an agent takes for TLS, and what it says of those that it does not take. */
import { chmodSync, chownSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import {
  examineLinkSecurity,
  loadLinkSecurity,
  type SecurityPlace,
} from '../../../src/config/index.js';
import { resolvePrimary, resolveSecondary } from '../../support/configuration.js';
import { temporaryFolder } from '../../support/temporary.js';
import { TestPki } from '../../support/test-pki.js';

const DAY_MS = 24 * 3600 * 1000;
const pki = new TestPki();
const otherPki = new TestPki('Other CA');
test.after.always(() => {
  pki.remove();
  otherPki.remove();
});
const day = (days: number): Date => new Date(Date.now() + days * DAY_MS);
const good = pki.issue({ until: day(300) });
const FAR = ['--listen', '10.0.0.2'];

/** A host with these files; what is left out is as it should be, null is not there. */
function placeOf(
  t: ExecutionContext,
  files: { ca?: string | null; certificate?: string | null; key?: string | null } = {},
  argv: string[] = FAR,
): SecurityPlace & { folder: string } {
  const folder = temporaryFolder(t);
  const texts = { ca: pki.ca.certificate, ...good, ...files };
  const paths = { ca: 'ca.crt', certificate: 'host.crt', key: 'host.key' } as const;
  for (const [kind, name] of Object.entries(paths)) {
    const text = texts[kind as keyof typeof paths];
    if (text !== null) writeFileSync(join(folder, name), text, { mode: 0o600 });
  }
  const path = (name: string): string => join(folder, name);
  const flags = ['--tls-ca', path(paths.ca), '--tls-certificate', path(paths.certificate)];
  return { ...resolveSecondary([...argv, ...flags, '--tls-key', path(paths.key)]), folder };
}

const errors = (place: SecurityPlace): string[] =>
  examineLinkSecurity(place, Date.now())
    .findings.filter(({ level }) => level === 'error')
    .map(({ key, text }) => `${key}: ${text}`);

test('good files: the links get their texts, the status their end', (t) => {
  const { links, certificate, warnings } = loadLinkSecurity(placeOf(t));
  t.deepEqual(links, { kind: 'tls', ca: pki.ca.certificate, ...good, peerNames: ['*'] });
  t.deepEqual(certificate?.names, ['localhost', '127.0.0.1']);
  t.is(certificate?.daysLeft, 299);
  // The CA of this test ends soon.
  t.deepEqual(warnings.length, 1);
  t.regex(warnings[0] ?? '', /^tls-ca: found one that expires on .*, in 29 days/);
});

test('an end that is near is warned of, with what to do', (t) => {
  const near = pki.issue({ until: day(10.5) });
  const { warnings } = loadLinkSecurity(placeOf(t, near));
  t.true(
    warnings.some((line) => /^tls-certificate: found one .* in 10 days.*--renew/.test(line)),
    warnings.join('\n'),
  );
});

test('what the agent would fail with later is refused at the start', (t) => {
  const cases: readonly (readonly [Parameters<typeof placeOf>[1], RegExp])[] = [
    [{ ca: null }, /^tls-ca: found ".*ca\.crt" that is not there/],
    [{ certificate: null }, /^tls-certificate: found ".*host\.crt" that is not there/],
    [{ key: null }, /^tls-key: found ".*host\.key" that is not there/],
    [{ ca: otherPki.ca.certificate }, /^tls-certificate: found .* that no CA in .* has signed/],
    [{ ca: good.certificate }, /^tls-ca: found .* no CA/],
    [{ ca: 'x' }, /^tls-ca: found .* without a certificate/],
    [{ certificate: good.key }, /^tls-certificate: found .* without a certificate/],
    [{ key: good.certificate }, /^tls-key: found .* without a key/],
    [{ key: pki.issue().key }, /^tls-key: found .* that is not for .*host\.crt/],
    [{ key: good.key.replace('BEGIN', 'BEGIN ENCRYPTED') }, /^tls-key: .* with a passphrase/],
    [pki.issue({ from: day(-5), until: day(-1) }), /^tls-certificate: .* has expired on .*--renew/],
    [pki.issue({ from: day(1), until: day(5) }), /^tls-certificate: .* not valid before .*clock/],
    [pki.issue({ uses: 'serverAuth' }), /^tls-certificate: .* another use/],
    [pki.issue({ isCa: true }), /^tls-certificate: .* a CA's certificate/],
    [{ ca: 'x'.repeat(70_000) }, /^tls-ca: found .* of 70000 bytes, expected at most/],
    [
      { certificate: '-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n' },
      /^tls-certificate: found .*expected certificates/,
    ],
  ];
  for (const [files, expected] of cases) {
    const place = placeOf(t, files);
    const told = errors(place);
    t.true(
      told.some((line) => expected.test(line)),
      `${expected}: ${told.join('\n')}`,
    );
    const error = t.throws(() => loadLinkSecurity(place), { code: 'COLO_E_TLS' });
    t.notRegex(error?.message ?? '', /PRIVATE KEY/);
  }
});

test('a key that others may read and files that others may change are refused', (t) => {
  for (const mode of [0o640, 0o604, 0o660]) {
    const place = placeOf(t);
    chmodSync(join(place.folder, 'host.key'), mode);
    t.regex(errors(place)[0] ?? '', /^tls-key: found .* with mode 06.., expected 0600.*chmod 600/);
  }
  for (const [name, key] of [
    ['ca.crt', 'tls-ca'],
    ['host.crt', 'tls-certificate'],
  ] as const) {
    const place = placeOf(t);
    chmodSync(join(place.folder, name), 0o644);
    t.deepEqual(errors(place), []);
    chmodSync(join(place.folder, name), 0o664);
    t.regex(errors(place)[0] ?? '', new RegExp(`^${key}: found .* with mode 0664, expected 0644`));
  }
});

test('files of another user are refused', (t) => {
  if (process.getuid?.() !== 0) {
    t.log('Skipped: only root can give a file to another user');
    t.pass();
    return;
  }
  const place = placeOf(t);
  chownSync(join(place.folder, 'host.key'), 12_345, 0);
  t.regex(errors(place)[0] ?? '', /^tls-key: found .* of user 12345, expected one of root/);
});

test('what is no file is refused, a link to one is not', (t) => {
  const place = placeOf(t, { key: null, ca: null });
  mkdirSync(join(place.folder, 'ca.crt'));
  symlinkSync('/dev/zero', join(place.folder, 'host.key'));
  const told = errors(place);
  t.true(told.some((line) => /^tls-ca: found .* that is no file/.test(line)));
  t.true(told.some((line) => /^tls-key: found .* that is no file/.test(line)));
  const linked = placeOf(t, { key: null });
  writeFileSync(join(linked.folder, 'real.key'), good.key, { mode: 0o600 });
  symlinkSync('real.key', join(linked.folder, 'host.key'));
  t.deepEqual(errors(linked), []);
});

test('an old CA beside the new one does no harm', (t) => {
  const place = placeOf(t, { ca: `${otherPki.ca.certificate}${pki.ca.certificate}` });
  t.deepEqual(errors(place), []);
});

test('without TLS: on loopback and on a link declared trusted', (t) => {
  const none = { ca: null, certificate: null, key: null };
  const loopback = ['--listen', '127.0.0.1', '--peer', '[::1]:99'];
  t.deepEqual(loadLinkSecurity(placeOf(t, none, loopback)), {
    links: { kind: 'plain' },
    certificate: undefined,
    warnings: [],
  });
  const trusted = placeOf(t, {}, [...FAR, '--transport-security', 'plain-trusted']);
  const { links, warnings } = loadLinkSecurity(trusted);
  t.deepEqual(links, { kind: 'plain' });
  t.regex(warnings[0] ?? '', /^transport-security: found no protection/);
  // Nobody has said that he wants it so.
  for (const argv of [FAR, [], ['--listen', '127.0.0.1', '--peer', '10.0.0.1']]) {
    t.throws(() => loadLinkSecurity(placeOf(t, none, argv)), {
      code: 'COLO_E_TLS',
      message: /^tls-certificate: found none of .*ca\.crt.*colo pki.*plain-trusted$/,
    });
  }
  // Some of the files: somebody wants TLS.
  t.throws(() => loadLinkSecurity(placeOf(t, { ...none, ca: 'x' }, loopback)));
});

test('whose certificate is expected: what names the peer, or what is said', (t) => {
  const names = (argv: string[]): readonly string[] => resolveSecondary(argv).security.peerNames;
  t.deepEqual(names([]), ['*']);
  t.deepEqual(names(['--peer', '10.0.0.1:7']), ['10.0.0.1']);
  t.deepEqual(names(['--peer', 'hosta', '--allow-peer', '10.0.0.1']), ['hosta', '10.0.0.1']);
  t.deepEqual(names(['--peer', '[fe80::1%eth0]:9']), ['fe80::1']);
  t.deepEqual(names(['--peer', 'hosta', '--tls-peer-names', 'b,10.0.0.1,b']), ['b', '10.0.0.1']);
  const primary = resolvePrimary(['--peer', '10.0.0.2', '--kernel', '/k', '--host', 'rack1']);
  t.deepEqual(primary.security, {
    transport: 'tls',
    ca: '/etc/colo/pki/ca.crt',
    certificate: '/etc/colo/pki/rack1.crt',
    key: '/etc/colo/pki/rack1.key',
    peerNames: ['10.0.0.2'],
  });
});
