/** Every case of who may overwrite whom, by name. */
import test from 'ava';
import {
  type ImageClaim,
  judgeDisk,
  judgeDisks,
  type MapState,
  parseAcceptedImages,
  parsePrimaryImages,
} from '../../../../src/blockrep/generation/judge.js';
import { type GenerationRecord, lineageOf } from '../../../../src/blockrep/generation/record.js';
import { DISKS_MAX } from '../../../../src/blockrep/limits.js';
import { ProtocolError } from '../../../../src/lib/index.js';
import { alone, at, first, generation, standby } from './records.js';

const NO_MAP: MapState = { trusted: false };
const COMMAND = 'colo discard-image --vm web --disk root';

function since(number: number, epoch: number): MapState {
  return { trusted: true, base: { generation: generation(number), epoch } };
}

type RecordClaim = Extract<ImageClaim, { kind: 'record' }>;

function claim(record: GenerationRecord, more: Partial<RecordClaim> = {}): ImageClaim {
  const { state } = record;
  const map = NO_MAP;
  return { kind: 'record', lineage: lineageOf(record), state, changedOutside: 'no', map, ...more };
}

interface Case {
  readonly name: string;
  readonly primary: GenerationRecord;
  readonly map?: MapState;
  readonly secondary: ImageClaim;
  readonly verdict: 'changed' | 'all' | RegExp;
}

// anna boots generation 1, bert stands by; at epoch 7 they part.
const anna = first(1, 7);
const annaAlone = alone(anna, 2);
const bert = alone(standby(anna, 7), 3, { host: 'bert' });

const CASES: readonly Case[] = [
  {
    name: 'a blank image',
    primary: annaAlone,
    secondary: { kind: 'blank' },
    verdict: 'all',
  },
  {
    name: 'data without a record',
    primary: annaAlone,
    secondary: { kind: 'unknown' },
    verdict: /no record of it|no record of/,
  },
  {
    name: 'an image that was given up, whatever it is',
    primary: annaAlone,
    secondary: claim({ ...first(50), state: 'discarded' }, { changedOutside: 'written' }),
    verdict: 'all',
  },
  {
    name: 'an image that was not finished',
    primary: annaAlone,
    map: since(1, 7),
    secondary: claim({ ...standby(anna, 7), state: 'syncing' }),
    verdict: 'all',
  },
  {
    name: 'a standby, and the primary went on alone',
    primary: annaAlone,
    map: since(1, 7),
    secondary: claim(standby(anna, 7)),
    verdict: 'changed',
  },
  {
    name: 'a standby in the generation that still runs',
    primary: anna,
    map: since(1, 7),
    secondary: claim(standby(anna, 7)),
    verdict: 'changed',
  },
  {
    name: 'a standby that committed an epoch more than the primary heard of',
    primary: annaAlone,
    map: since(1, 7),
    secondary: claim(standby(anna, 8)),
    verdict: 'changed',
  },
  {
    name: 'a standby two epochs ahead: the primary has lost data',
    primary: annaAlone,
    map: since(1, 7),
    secondary: claim(standby(anna, 9)),
    verdict: /image is newer: start that host as primary/,
  },
  {
    name: 'a standby far ahead of a primary that died and does not know its last epoch',
    primary: alone(anna, 2, { exact: false }),
    map: since(1, 7),
    secondary: claim(standby(anna, 900)),
    verdict: 'changed',
  },
  {
    name: 'a standby whose very first commit the primary has not heard of',
    primary: alone(first(1, 0), 2),
    map: since(8, 3),
    secondary: claim(standby(anna, 1_000_001)),
    verdict: 'all',
  },
  {
    name: 'a standby, and the map starts later than it stands',
    primary: annaAlone,
    map: since(1, 7),
    secondary: claim(standby(anna, 5)),
    verdict: 'all',
  },
  {
    name: 'a standby, and the map starts in another generation',
    primary: annaAlone,
    map: since(2, 1),
    secondary: claim(standby(anna, 7)),
    verdict: 'all',
  },
  {
    name: 'a standby, and the map is not trusted',
    primary: annaAlone,
    map: { ...since(1, 7), trusted: false },
    secondary: claim(standby(anna, 7)),
    verdict: 'all',
  },
  {
    name: 'a standby, and the primary has gone on alone several times',
    primary: alone(alone(annaAlone, 4), 5),
    map: since(1, 7),
    secondary: claim(standby(anna, 7)),
    verdict: 'changed',
  },
  {
    name: 'the former primary, which died while it was protected',
    primary: bert,
    map: since(1, 7),
    secondary: claim(anna, { map: since(1, 7) }),
    verdict: 'changed',
  },
  {
    name: 'the former primary, which had not heard of the last commit',
    primary: bert,
    map: since(1, 7),
    secondary: claim({ ...anna, epoch: 6 }, { map: since(1, 6) }),
    verdict: 'changed',
  },
  {
    name: 'the former primary, without a map to trust',
    primary: bert,
    map: since(1, 7),
    secondary: claim(anna),
    verdict: 'all',
  },
  {
    name: 'the former primary, whose map starts in an older generation',
    primary: bert,
    map: since(1, 7),
    secondary: claim(anna, { map: since(8, 7) }),
    verdict: 'all',
  },
  {
    name: 'the former primary, when the one who went on has no map',
    primary: bert,
    secondary: claim(anna, { map: since(1, 7) }),
    verdict: 'all',
  },
  {
    name: 'the former primary knows a later commit than its secondary went on from',
    primary: bert,
    map: since(1, 7),
    secondary: claim({ ...anna, epoch: 8 }, { map: since(1, 8) }),
    verdict: /knows epoch 8 of generation 00000001.* went on from epoch 7/,
  },
  {
    name: 'the former primary knows a later commit than its secondary, which had died and forgot',
    primary: alone(standby(anna, 7), 3, { host: 'bert', exact: false }),
    map: since(1, 7),
    secondary: claim({ ...anna, epoch: 8 }, { map: since(1, 8) }),
    verdict: 'all',
  },
  {
    name: 'both went on by themselves',
    primary: annaAlone,
    map: since(1, 7),
    secondary: claim(bert, { map: since(1, 7) }),
    verdict: /both hosts went on by themselves from generation 00000001/,
  },
  {
    name: 'both went on by themselves, seen from the other side',
    primary: bert,
    map: since(1, 7),
    secondary: claim(annaAlone, { map: since(1, 7) }),
    verdict: /both hosts went on by themselves from generation 00000001/,
  },
  {
    name: 'the secondary went on from where the primary still is',
    primary: anna,
    map: since(1, 7),
    secondary: claim(bert, { map: since(1, 7) }),
    verdict: /image is newer: start that host as primary/,
  },
  {
    name: 'a guest wrote both images in one generation: one is a copy',
    primary: anna,
    map: since(1, 7),
    secondary: claim(anna, { map: since(1, 7) }),
    verdict: /generation that this host wrote itself/,
  },
  {
    name: 'an old copy of what the primary wrote itself',
    primary: annaAlone,
    map: since(1, 7),
    secondary: claim(anna, { map: since(1, 7) }),
    verdict: /generation that this host wrote itself/,
  },
  {
    name: 'nothing in common',
    primary: annaAlone,
    map: since(1, 7),
    secondary: claim(alone(first(60, 7), 61)),
    verdict: /nothing in common/,
  },
  {
    name: 'an ancestor that was written to outside of Colo',
    primary: annaAlone,
    map: since(1, 7),
    secondary: claim(standby(anna, 7), { changedOutside: 'written' }),
    verdict: /was written to since Colo closed it/,
  },
  {
    name: 'an ancestor whose file is another one',
    primary: annaAlone,
    map: since(1, 7),
    secondary: claim(standby(anna, 7), { changedOutside: 'replaced' }),
    verdict: /is another file since Colo closed it/,
  },
  {
    name: 'there and back again: bert was promoted, anna came back, and was promoted',
    primary: alone(standby(bert, 20), 6, { host: 'anna' }),
    map: since(3, 20),
    secondary: claim({ ...bert, epoch: 20 }, { map: since(3, 20) }),
    verdict: 'changed',
  },
];

for (const { name, primary, map = NO_MAP, secondary, verdict } of CASES) {
  test(`judged: ${name}`, (t) => {
    const found = judgeDisk({ record: primary, map }, secondary);
    if (typeof verdict === 'string') {
      t.is(found.kind, verdict);
      return;
    }
    if (found.kind !== 'refuse') return t.fail(`not refused: ${found.kind}`);
    t.regex(found.reason, verdict);
    t.is(found.command, COMMAND);
    t.true(found.reason.includes(COMMAND), 'the message has the command');
    t.true(found.reason.includes('disk root'), 'and the disk');
    t.true(found.reason.includes(primary.generation), 'and our generation');
    t.true(found.reason.includes(primary.since), 'and its time');
  });
}

test('a fork is told with both generations and both times', (t) => {
  const found = judgeDisk({ record: annaAlone, map: NO_MAP }, claim(bert));
  if (found.kind !== 'refuse') return t.fail();
  for (const part of [generation(1), generation(2), generation(3), at(2), at(3)]) {
    t.true(found.reason.includes(part), part);
  }
});

test('one refused disk refuses all of them', (t) => {
  const good = { record: annaAlone, map: since(1, 7) };
  const ancestor = claim(standby(anna, 7));
  const unknown: ImageClaim = { kind: 'unknown' };
  t.deepEqual(judgeDisks([good, good], [ancestor, { kind: 'blank' }]), {
    kind: 'resync',
    disks: [{ kind: 'changed' }, { kind: 'all', why: 'the image is blank' }],
  });
  t.like(judgeDisks([good, good], [ancestor, unknown]), { kind: 'refuse', command: COMMAND });
  const both = judgeDisks([good, good], [unknown, unknown]);
  t.like(both, { kind: 'refuse', command: 'colo discard-image --vm web' });
  t.throws(() => judgeDisks([good], [ancestor, ancestor]), { instanceOf: ProtocolError });
});

test('what a peer claims is checked field by field', (t) => {
  const record = { vm: 'web', disk: 'root', ...lineageOf(bert) };
  const good = { record, map: since(1, 7) };
  t.deepEqual(parsePrimaryImages(JSON.parse(JSON.stringify([good]))), [good]);
  const wrong: unknown[] = [
    undefined,
    {},
    [{}],
    [{ ...good, state: 'busy' }],
    [{ ...good, record: { ...record, epoch: 2 ** 60 } }],
    [{ ...good, record: { ...record, vm: 'x'.repeat(65) } }],
    [{ ...good, record: { ...record, disk: 'x; reboot' } }],
    [{ ...good, record: { ...record, history: Array(33).fill(bert.history[0]) } }],
    [{ ...good, map: { trusted: true, base: { generation: 'x', epoch: 1 } } }],
    Array(DISKS_MAX + 1).fill(good),
  ];
  for (const value of wrong) {
    t.throws(() => parsePrimaryImages(value), { instanceOf: ProtocolError });
  }
  const verdicts = [{ kind: 'changed' }, { kind: 'all', why: 'the image is blank' }];
  t.deepEqual(parseAcceptedImages(verdicts), verdicts);
  for (const value of [{}, [{ kind: 'refuse' }], [{ kind: 'all' }], [{ kind: 'changed', x: 1 }]]) {
    t.throws(() => parseAcceptedImages(value), { instanceOf: ProtocolError });
  }
});
