import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { openWitness, type Witness } from '../../../../src/failover/index.js';
import { RECORDS_KEPT } from '../../../../src/failover/limits.js';
import {
  decodeRecord,
  encodeRecord,
  judge,
  recordName,
  recordNumber,
} from '../../../../src/failover/witness/file-record.js';
import { temporaryFolder } from '../../../support/temporary.js';
import { testWitness } from '../../../support/witness-suite.js';

const TTL_US = 1_000_000;

const shared = mkdtempSync(join(tmpdir(), 'colo-test-witness-'));
test.after.always(() => rmSync(shared, { recursive: true, force: true }));

testWitness(test, 'file', {
  open: (_t, identity) => {
    const setting = { kind: 'file', folder: shared } as const;
    return openWitness({ identity, setting, ttlUs: TTL_US, timeoutUs: 10_000_000 }) as Witness;
  },
  ttlUs: TTL_US,
});

const WHO = { vm: 'web', host: 'host-a', role: 'primary', instance: 'i1' } as const;

function open(folder: string, who: { host: string; instance: string } = WHO): Witness {
  return openWitness({
    identity: { ...WHO, ...who },
    setting: { kind: 'file', folder },
    ttlUs: TTL_US,
    timeoutUs: 10_000_000,
  }) as Witness;
}

const asked = (nonce: string) =>
  ({ who: WHO, request: { purpose: 'alone', knownToken: 0 }, ttlUs: TTL_US, nonce }) as const;

test('names: a number has twelve digits, and belongs to one VM', (t) => {
  t.is(recordName('web', 17), 'web.000000000017.json');
  t.is(recordNumber('web', 'web.000000000017.json'), 17);
  for (const name of ['web.17.json', 'web2.000000000017.json', 'web.000000000017.json~', 'web']) {
    t.is(recordNumber('web', name), undefined, name);
  }
});

test('a record survives its text; anything else is none', (t) => {
  const verdict = judge(undefined, asked('n'), 0);
  if (verdict.kind !== 'write') return t.fail();
  const { record } = verdict;
  t.like(record, { number: 1, state: 'held', aloneToken: 1, aloneHost: 'host-a' });
  const text = encodeRecord(record);
  t.deepEqual(decodeRecord(text, 'web', 1), record);
  t.is(decodeRecord(text, 'web', 2), undefined);
  t.is(decodeRecord(text, 'mail', 1), undefined);
  for (let length = 0; length < text.length - 2; length += 1) {
    t.is(decodeRecord(text.slice(0, length), 'web', 1), undefined);
  }
  t.is(decodeRecord(text.replace('"number":1', '"number":-1'), 'web', 1), undefined);
});

test('the other expires on the own clock, counted from when its record was first seen', (t) => {
  const verdict = judge(undefined, asked('n'), 0);
  if (verdict.kind !== 'write') return t.fail();
  const seen = { record: { ...verdict.record, instance: 'other', host: 'host-b' }, sinceUs: 500 };
  const request = { purpose: 'insure', knownToken: 1 } as const;
  const ask = { ...asked('m'), request };
  t.deepEqual(judge(seen, ask, 500 + TTL_US), { kind: 'held', holder: 'host-b' });
  t.is(judge(seen, ask, 500 + TTL_US * 1.01 + 5_000).kind, 'write');
});

test('a number that was taken in between is a refusal, and old records are removed', async (t) => {
  const folder = temporaryFolder(t);
  const a = open(folder);
  for (let count = 0; count < RECORDS_KEPT + 5; count += 1) {
    t.is((await a.ask({ purpose: 'insure', knownToken: 0 })).kind, 'granted');
  }
  const names = readdirSync(folder).sort();
  t.is(names.length, RECORDS_KEPT);
  t.is(names.at(-1), recordName('web', RECORDS_KEPT + 5));
  t.deepEqual(
    names.filter((name) => name.includes('draft')),
    [],
  );
});

test('a folder that is missing, or has what nobody wrote, makes the witness unreachable', async (t) => {
  const folder = temporaryFolder(t);
  const request = { purpose: 'alone', knownToken: 0 } as const;
  t.is((await open(join(folder, 'missing')).ask(request)).kind, 'unreachable');
  writeFileSync(join(folder, recordName('web', 3)), 'what');
  const answer = await open(folder).ask(request);
  t.is(answer.kind, 'unreachable');
  t.regex(answer.kind === 'unreachable' ? answer.reason : '', /000000000003\.json.*remove it/);
});
