/** The witness in a real etcd: one member, started by the test and cut off by it. */
import { createServer, type Server } from 'node:net';
import test from 'ava';
import { Etcd } from '../../scripts/harness/etcd.js';
import { openWitness, type Witness, type WitnessIdentity } from '../../src/failover/index.js';
import { encodeRelease } from '../../src/failover/witness/etcd-wire.js';
import { testWitness } from '../support/witness-suite.js';

const TTL_US = 2_000_000;
let etcd: Etcd;
let endpoint = '';

test.before('start etcd', async () => {
  const [clientPort, peerPort] = [await freePort(), await freePort()];
  const probe = async (url: string): Promise<boolean> =>
    (await fetch(`${url}/health`).catch(() => undefined))?.ok === true;
  etcd = await Etcd.start({ enter: [], address: '127.0.0.1', clientPort, peerPort, probe });
  endpoint = etcd.endpoint;
});

test.after.always('stop etcd', () => etcd?.stop());

function open(identity: WitnessIdentity, endpoints: string[], timeoutUs = 20_000_000): Witness {
  const setting = { kind: 'etcd', endpoints } as const;
  return openWitness({ identity, setting, ttlUs: TTL_US, timeoutUs }) as Witness;
}

testWitness(test, 'etcd', { open: (_t, identity) => open(identity, [endpoint]), ttlUs: TTL_US });

const identity = { vm: 'ends', host: 'a', role: 'primary', instance: 'i' } as const;
const request = { purpose: 'insure', knownToken: 0 } as const;

test('etcd: an end point that is gone, or says nothing, costs its part of the time', async (t) => {
  const silent = createServer(() => {});
  const port = await listen(silent);
  t.teardown(() => silent.close());
  const gone = `http://127.0.0.1:${await freePort()}`;
  const witness = open(identity, [gone, `http://127.0.0.1:${port}`, endpoint], 6_000_000);
  t.teardown(() => witness.close());
  t.is((await witness.ask(request)).kind, 'granted');
  // From now on the one that answered is asked first.
  const before = Date.now();
  t.is((await witness.ask(request)).kind, 'granted');
  t.true(Date.now() - before < 1_000);
});

test('etcd: a release that is carried out late frees no later grant', async (t) => {
  const [a, b] = ['a', 'b'].map((host) =>
    open({ ...identity, vm: 'late', host, instance: `late ${host}` }, [endpoint]),
  ) as [Witness, Witness];
  t.teardown(() => [a, b].map((witness) => witness.close()));
  const first = await a.ask(request);
  t.is((await a.ask(request)).kind, 'granted');
  const release = encodeRelease('late', first.kind === 'granted' ? first.token : 0);
  const options = { method: 'POST', body: JSON.stringify(release) };
  t.true((await fetch(`${endpoint}/v3/kv/txn`, options)).ok);
  t.like(await b.ask(request), { kind: 'denied', holder: 'a' });
  await a.release();
  t.is((await b.ask(request)).kind, 'granted');
});

test('etcd: one that is stopped is unreachable in time, and goes on afterwards', async (t) => {
  const witness = open({ ...identity, vm: 'stopped' }, [endpoint], 500_000);
  t.teardown(() => witness.close());
  // A first request may find a busy machine; the time-out is short for the second one.
  const patient = open({ ...identity, vm: 'stopped' }, [endpoint]);
  t.is((await patient.ask(request)).kind, 'granted');
  etcd.process.kill('SIGSTOP');
  try {
    t.is((await witness.ask(request)).kind, 'unreachable');
  } finally {
    etcd.process.kill('SIGCONT');
  }
  t.is((await patient.ask(request)).kind, 'granted');
});

function listen(server: Server): Promise<number> {
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve((server.address() as { port: number }).port));
  });
}

async function freePort(): Promise<number> {
  const server = createServer();
  const port = await listen(server);
  await new Promise((resolve) => server.close(resolve));
  return port;
}
