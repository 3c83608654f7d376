/**
 * What src/failover/witness/witness.ts promises, for any kind of witness. Each test has a VM of its
 * own; `open` gives the witness of one process on one host.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { ExecutionContext, TestFn } from 'ava';
import {
  ANY_TOKEN,
  type Witness,
  type WitnessAnswer,
  type WitnessIdentity,
} from '../../src/failover/index.js';
import { bootTimeUs } from '../../src/linux/index.js';

export interface WitnessSubject {
  /** May throw to say why it can't be tried here. */
  open(t: ExecutionContext, identity: WitnessIdentity): Witness;
  readonly ttlUs: number;
}

let vms = 0;
let instances = 0;

interface Pair {
  readonly a: Witness;
  readonly b: Witness;
  /** A new process on host a. */
  restartA(): Witness;
}

export function testWitness(test: TestFn, name: string, subject: WitnessSubject): void {
  const pair = (t: ExecutionContext): Pair => {
    const vm = `vm${vms++}`;
    const open = (host: string, role: 'primary' | 'secondary'): Witness => {
      const instance = `${process.pid}-${instances++}`;
      const witness = subject.open(t, { vm, host, role, instance });
      t.teardown(() => witness.close());
      return witness;
    };
    return {
      a: open('host-a', 'primary'),
      b: open('host-b', 'secondary'),
      restartA: () => open('host-a', 'primary'),
    };
  };

  test(`${name}: one has the grant, the other is told who`, async (t) => {
    const { a, b } = pair(t);
    const before = bootTimeUs();
    const first = granted(t, await a.ask({ purpose: 'insure', knownToken: 0 }));
    t.true(first.askedAtUs >= before && first.askedAtUs <= bootTimeUs());
    t.true(first.ttlUs >= subject.ttlUs);
    t.deepEqual(await b.ask({ purpose: 'alone', knownToken: 0 }), held('host-a'));
    const second = granted(t, await a.ask({ purpose: 'alone', knownToken: 0 }));
    t.true(second.token > first.token);
  });

  test(`${name}: what is released is free at once, and tokens grow`, async (t) => {
    const { a, b } = pair(t);
    const first = granted(t, await a.ask({ purpose: 'insure', knownToken: 0 }));
    await b.release();
    t.deepEqual(await b.ask({ purpose: 'insure', knownToken: 0 }), held('host-a'));
    await a.release();
    const second = granted(t, await b.ask({ purpose: 'insure', knownToken: 0 }));
    t.true(second.token > first.token);
  });

  test(`${name}: who knows only an older alone token is refused, but for an operator`, async (t) => {
    const { a, b } = pair(t);
    const first = granted(t, await a.ask({ purpose: 'alone', knownToken: 0 }));
    await a.release();
    const stale = { kind: 'denied', holder: 'host-a', stale: true };
    t.deepEqual(await b.ask({ purpose: 'alone', knownToken: first.token - 1 }), stale);
    t.deepEqual(await b.ask({ purpose: 'insure', knownToken: 0 }), stale);
    granted(t, await b.ask({ purpose: 'insure', knownToken: first.token }));
    await b.release();
    const forced = granted(t, await b.ask({ purpose: 'alone', knownToken: ANY_TOKEN }));
    t.like(await a.ask({ purpose: 'alone', knownToken: first.token }), { stale: true });
    t.true(forced.token > first.token);
  });

  test(`${name}: a host whose answer was lost is not refused for its own token`, async (t) => {
    const { a, restartA } = pair(t);
    const first = granted(t, await a.ask({ purpose: 'alone', knownToken: 0 }));
    const again = granted(t, await a.ask({ purpose: 'insure', knownToken: 0 }));
    t.true(again.token >= first.token);
    await a.release();
    granted(t, await restartA().ask({ purpose: 'alone', knownToken: 0 }));
  });

  test(`${name}: a grant ends by itself, not sooner than told; renewed, it does not`, async (t) => {
    const { a, b, restartA } = pair(t);
    let last = granted(t, await a.ask({ purpose: 'alone', knownToken: 0 }));
    const renewUntilUs = last.askedAtUs + 1.3 * last.ttlUs;
    while (bootTimeUs() < renewUntilUs) {
      await delay(subject.ttlUs / 4000);
      last = granted(t, await a.ask({ purpose: 'insure', knownToken: last.token }));
      t.like(await b.ask({ purpose: 'insure', knownToken: ANY_TOKEN }), held('host-a'));
    }
    // The process that had it is gone; a new one on its host is another.
    const heir = restartA();
    t.deepEqual(await heir.ask({ purpose: 'insure', knownToken: last.token }), held('host-a'));
    for (;;) {
      const answer = await b.ask({ purpose: 'alone', knownToken: ANY_TOKEN });
      if (answer.kind === 'granted') break;
      t.deepEqual(answer, held('host-a'));
      t.true(bootTimeUs() < last.askedAtUs + 10 * last.ttlUs, 'The grant never ends');
      await delay(subject.ttlUs / 20_000);
    }
    t.true(bootTimeUs() >= last.askedAtUs + last.ttlUs, 'The grant ended too soon');
  });

  test(`${name}: of many who ask at once, one has it`, async (t) => {
    const { a, b, restartA } = pair(t);
    const all = [a, b, ...Array.from({ length: 4 }, restartA)];
    const answers = await Promise.all(
      all.map((witness) => witness.ask({ purpose: 'insure', knownToken: 0 })),
    );
    const count = answers.filter(({ kind }) => kind === 'granted').length;
    t.is(count, 1, JSON.stringify(answers));
  });
}

function held(holder: string) {
  return { kind: 'denied', holder, stale: false } as const;
}

function granted(
  t: ExecutionContext,
  answer: WitnessAnswer,
): Extract<WitnessAnswer, { kind: 'granted' }> {
  if (answer.kind === 'granted') return answer;
  t.log(answer);
  throw new Error(`Not granted: ${JSON.stringify(answer)}`);
}
