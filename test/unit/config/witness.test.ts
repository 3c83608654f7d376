import test from 'ava';
import { formatWitness, parseWitness, ValueError } from '../../../src/config/index.js';
import { parseHeartbeatPath } from '../../../src/config/witness.js';
import { resolvePrimary } from '../../support/configuration.js';

const MINIMAL = ['--peer', '10.0.0.2', '--disk', '/a.img'];

test('every kind of witness is read, and written as it was read', (t) => {
  const kinds = {
    none: { kind: 'none' },
    'etcd://10.0.0.3:2379,host-c:99,[fd00::3]:2380': {
      kind: 'etcd',
      endpoints: ['http://10.0.0.3:2379', 'http://host-c:99', 'http://[fd00::3]:2380'],
    },
    'file:///srv/colo': { kind: 'file', folder: '/srv/colo' },
    'command:/etc/colo/witness': { kind: 'command', command: '/etc/colo/witness' },
  } as const;
  for (const [text, setting] of Object.entries(kinds)) {
    t.deepEqual(parseWitness(text), setting);
    t.is(formatWitness(setting), text);
  }
});

test("an end point without a port has etcd's", (t) => {
  t.deepEqual(parseWitness('etcd://10.0.0.3,[fd00::3],fd00::4'), {
    kind: 'etcd',
    endpoints: ['http://10.0.0.3:2379', 'http://[fd00::3]:2379', 'http://[fd00::4]:2379'],
  });
});

test('anything else is refused with what was expected', (t) => {
  for (const text of [
    '',
    'yes',
    'etcd://',
    'etcd://a,,b',
    'etcd://a:0',
    'etcd://a,a:2379',
    'etcd://a,b,c,d,e,f,g,h',
    'etcd:10.0.0.3',
    'http://10.0.0.3',
    'file://srv/colo',
    'file:/srv/colo',
    'command:witness',
    'command:',
  ]) {
    t.throws(() => parseWitness(text), { instanceOf: ValueError }, text);
  }
});

test('a heartbeat path has two addresses of one family', (t) => {
  const path = { local: '10.9.0.1', peer: '10.9.0.2' };
  t.deepEqual(parseHeartbeatPath('local=10.9.0.1,peer=10.9.0.2'), path);
  for (const text of [
    '10.9.0.1',
    'local=10.9.0.1',
    'local=a,peer=b',
    'local=fd00::1,peer=10.0.0.1',
  ]) {
    t.throws(() => parseHeartbeatPath(text), { instanceOf: ValueError }, text);
  }
});

test('without any of it nobody is asked, and a wait that is too long is refused', (t) => {
  t.like(resolvePrimary(MINIMAL), {
    witness: { kind: 'none' },
    witnessTtlUs: 5_000_000,
    witnessTimeoutUs: 1_000_000,
    gateway: undefined,
    heartbeatPath: undefined,
  });
  const error = t.throws(() => resolvePrimary([...MINIMAL, '--witness-timeout', '3s']));
  t.regex(error.message, /witness-timeout: found a wait of 3s, expected at most half of .* 5s/);
});
