/** Ends of certificates: in the status at any time, in the log while they are near. */

import { X509Certificate } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { NodeSecurity } from '../../../src/node/index.js';
import { certificateFacts } from '../../../src/transport/index.js';
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
  const facts = certificateFacts(new X509Certificate(peer.certificate), Date.now());
  security.notePeer(facts);
  security.notePeer(facts);
  t.like(security.status.peerCertificate, { names: ['hostb'], daysLeft: 2 });
  t.is(log.lines.filter((line) => line.includes("peer's certificate expires")).length, 1);
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
