import test from 'ava';
import {
  decodeAsk,
  decodeLease,
  encodeAsk,
  encodeLease,
} from '../../../../src/failover/witness/etcd-wire.js';
import { ProtocolError } from '../../../../src/lib/index.js';

const WHO = { vm: 'web', host: 'host-a', role: 'primary', instance: 'i1' } as const;
const base64 = (text: string) => Buffer.from(text).toString('base64');
const header = { revision: '42', raft_term: '2' };
const kv = (host: string, revision: string) => ({
  key: base64('k'),
  create_revision: '3',
  mod_revision: revision,
  value: base64(JSON.stringify({ host, role: 'primary', instance: 'x' })),
});

test('a lease is asked for in whole seconds, and its life is what etcd says', (t) => {
  t.deepEqual(encodeLease(2_500_000), { TTL: '3' });
  t.deepEqual(decodeLease({ header, ID: '7587', TTL: '3' }), { id: '7587', ttlUs: 3_000_000 });
  for (const TTL of ['0', '-1', '99999999', 'x', 3, undefined]) {
    t.throws(() => decodeLease({ ID: '1', TTL }), { instanceOf: ProtocolError });
  }
});

test('only a request to go alone writes the alone token', (t) => {
  const insure = JSON.stringify(encodeAsk(WHO, { purpose: 'insure', knownToken: 6 }, '9'));
  const alone = JSON.stringify(encodeAsk(WHO, { purpose: 'alone', knownToken: 6 }, '9'));
  const put = `"request_put":{"key":"${base64('colo/web/alone')}"`;
  t.false(insure.includes(put));
  t.true(alone.includes(put));
  t.true(alone.includes('"mod_revision":"7"'));
});

test('each answer of a transaction has its meaning', (t) => {
  const acquired = { succeeded: true, responses: [{ response_put: {} }] };
  const top = { header, succeeded: true };
  const refused = { responses: [{ response_range: { kvs: [kv('host-b', '40')] } }] };
  t.deepEqual(decodeAsk({ ...top, responses: [{ response_txn: acquired }] }, 'host-a'), {
    kind: 'granted',
    revision: 42,
  });
  const renewed = { responses: [{ response_txn: acquired }] };
  t.is(decodeAsk({ ...top, responses: [{ response_txn: renewed }] }, 'host-a').kind, 'granted');
  const held = { responses: [{ response_txn: refused }] };
  t.deepEqual(decodeAsk({ ...top, responses: [{ response_txn: held }] }, 'host-a'), {
    kind: 'held',
    holder: 'host-b',
  });
  t.deepEqual(decodeAsk({ header, ...refused }, 'host-a'), { kind: 'stale', holder: 'host-b' });
  t.deepEqual(decodeAsk({ header, ...refused }, 'host-b'), { kind: 'own', token: 40 });
});

test('what is not the protocol is refused by name, never granted', (t) => {
  const top = { header, succeeded: true };
  for (const json of [
    undefined,
    null,
    [],
    {},
    { succeeded: true },
    { header: { revision: 5 }, succeeded: true },
    { header: { revision: '99999999999999999999' }, succeeded: true },
    top,
    { ...top, responses: [] },
    { ...top, responses: [{ response_txn: { succeeded: false } }] },
    { ...top, responses: [{ response_txn: { responses: 'many' } }] },
    { ...top, succeeded: 'yes' },
  ]) {
    t.throws(() => decodeAsk(json, 'host-a'), { instanceOf: ProtocolError }, JSON.stringify(json));
  }
});
