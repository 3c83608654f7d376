/** Ends of certificates: in the status at any time, in the log while they are near. */

import { X509Certificate } from 'node:crypto';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { NodeSecurity } from '../../../src/node/index.js';
import { resolveSecondary } from '../../support/configuration.js';
import { CollectingLog } from '../../support/fake-node.js';
import { temporaryFolder } from '../../support/temporary.js';
import { TestPki } from '../../support/test-pki.js';

const DAY_MS = 24 * 3600 * 1000;
const pki = new TestPki();
test.after.always(() => pki.remove());

test('the end of a certificate comes near while the agent runs', (t) => {
  let nowMs = Date.now();
  const until = new Date(nowMs + 100.5 * DAY_MS);
  const log = new CollectingLog();
  const security = new NodeSecurity(placeWith(t, until), log, () => nowMs);
  t.teardown(() => security.stop());
  t.is(security.links.kind, 'tls');
  t.like(security.status, { transport: 'tls', certificate: { daysLeft: 100 } });
  t.is(security.status.peerCertificate, null);
  const about = (what: string): string[] => log.lines.filter((line) => line.includes(what));
  security.lookAtEnds();
  t.deepEqual(about('of this host expires'), []);
  nowMs += 80 * DAY_MS;
  security.lookAtEnds();
  security.lookAtEnds();
  t.is(about('of this host expires').length, 2);
  nowMs += 30 * DAY_MS;
  t.is(security.status.certificate?.daysLeft, -10);
});

test("the peer's certificate is told, and warned of when it is a new one", (t) => {
  const log = new CollectingLog();
  const place = placeWith(t, new Date(Date.now() + 100 * DAY_MS));
  const security = new NodeSecurity(place, log);
  t.teardown(() => security.stop());
  const peer = pki.issue({ names: 'DNS:hostb', until: new Date(Date.now() + 2.5 * DAY_MS) });
  const peerCertificate = new X509Certificate(peer.certificate);
  security.met({ peerCertificate: undefined });
  t.is(security.status.peerCertificate, null);
  security.met({ peerCertificate });
  security.met({ peerCertificate });
  t.like(security.status.peerCertificate, { names: ['hostb'], daysLeft: 2 });
  t.is(log.lines.filter((line) => line.includes("peer's certificate expires")).length, 1);
});

test('files that are replaced count from then on, if nothing is wrong with them', (t) => {
  const log = new CollectingLog();
  const place = placeWith(t, new Date(Date.now() + 10 * DAY_MS));
  const security = new NodeSecurity(place, log);
  t.teardown(() => security.stop());
  const before = security.links;
  security.lookAtFiles();
  t.is(security.links, before, 'nothing has changed');
  const told = (what: string): number => log.lines.filter((line) => line.includes(what)).length;
  t.is(told('New connections use') + told('are not used'), 0);
  const renewed = pki.issue({ until: new Date(Date.now() + 400.5 * DAY_MS) });
  writeFileSync(place.security.certificate, renewed.certificate);
  security.lookAtFiles();
  security.lookAtFiles();
  t.is(security.links, before, 'the key is still that of the old one');
  t.is(told('are not used'), 1);
  writeFileSync(place.security.key, renewed.key);
  security.lookAtFiles();
  t.like(security.links, { kind: 'tls', certificate: renewed.certificate, key: renewed.key });
  t.like(security.status.certificate, { daysLeft: 400 });
  t.is(told('New connections use'), 1);
  rmSync(place.security.certificate);
  security.lookAtFiles();
  t.like(security.links, { certificate: renewed.certificate });
  t.is(told('are not used'), 2);
});

test('a node whose files are wrong does not start', (t) => {
  const place = placeWith(t, new Date(Date.now() - DAY_MS / 2));
  t.throws(() => new NodeSecurity(place, new CollectingLog()), { code: 'COLO_E_TLS' });
});

function placeWith(t: ExecutionContext, until: Date) {
  const folder = temporaryFolder(t);
  const { certificate, key } = pki.issue({ until });
  const flags: string[] = [];
  for (const [name, text] of Object.entries({ ca: pki.ca.certificate, certificate, key })) {
    const path = join(folder, name);
    writeFileSync(path, text, { mode: 0o600 });
    flags.push(`--tls-${name}`, path);
  }
  return resolveSecondary(['--listen', '10.0.0.2', ...flags]);
}
