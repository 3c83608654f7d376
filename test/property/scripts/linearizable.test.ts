/** The checker of histories, against those of a real register and against all orders there are. */
import test from 'ava';
import fc from 'fast-check';
import {
  checkRegister,
  type Operation,
} from '../../../scripts/linearizability-run/linearizable.js';

const KINDS = ['read', 'write', 'swap'] as const;

/** A call, the moment at which it happens, and the answer, that much later each. */
const drawn = fc.record({
  kind: fc.constantFrom(...KINDS),
  client: fc.nat(4),
  pauseUs: fc.nat(20),
  untilDoneUs: fc.nat(30),
  untilAnswerUs: fc.nat(30),
  /** Of those without an answer some happen, late, and some never. */
  fate: fc.constantFrom('answered', 'answered', 'answered', 'late', 'never'),
  lateUs: fc.nat(500),
});
type Drawn = Readonly<
  ReturnType<typeof drawn.generate> extends { readonly value: infer T } ? T : never
>;

/** What clients see of one register, each doing one thing at a time. */
function historyOf(draws: readonly Drawn[]): Operation[] {
  const freeAtUs = new Map<number, number>();
  const moments = draws.map((draw, index) => {
    const calledUs = (freeAtUs.get(draw.client) ?? 0) + draw.pauseUs;
    const late = draw.fate === 'answered' ? 0 : draw.lateUs;
    const doneUs = calledUs + draw.untilDoneUs + late;
    const answeredUs = doneUs + draw.untilAnswerUs;
    freeAtUs.set(draw.client, draw.fate === 'answered' ? answeredUs : calledUs + 30);
    return { ...draw, index, calledUs, doneUs, answeredUs };
  });
  const operations: Operation[] = [];
  let value: string | null = null;
  for (const moment of moments.toSorted((a, b) => a.doneUs - b.doneUs || a.index - b.index)) {
    const { kind, fate, calledUs, index, answeredUs } = moment;
    const writes = kind === 'read' ? null : `v${index}`;
    const before = value;
    if (fate !== 'never' && writes !== null) value = writes;
    const called = { kind, writes, calledUs };
    if (fate !== 'answered') operations.push(called);
    else operations.push({ ...called, answeredUs, ...(kind === 'write' ? {} : { reads: before }) });
  }
  return operations;
}

/** By trying every order; unanswered operations may be left out. */
function isLinearizable(operations: readonly Operation[], value: string | null = null): boolean {
  if (operations.every(({ answeredUs }) => answeredUs === undefined)) return true;
  const firstUs = Math.min(
    ...operations.map(({ answeredUs }) => answeredUs ?? Number.POSITIVE_INFINITY),
  );
  return operations.some((operation) => {
    const { kind, writes, reads, calledUs } = operation;
    if (calledUs > firstUs || (reads !== undefined && reads !== value)) return false;
    const rest = operations.filter((each) => each !== operation);
    return isLinearizable(rest, kind === 'read' ? value : writes);
  });
}

test('what a register has answered is linearizable', (t) => {
  t.notThrows(() =>
    fc.assert(
      fc.property(fc.array(drawn, { maxLength: 120 }), (draws) => {
        return checkRegister(historyOf(draws)).kind === 'linearizable';
      }),
      { numRuns: 300 },
    ),
  );
});

test('an answer that was changed is found wherever all orders say that it is wrong', (t) => {
  let violations = 0;
  t.notThrows(() =>
    fc.assert(
      fc.property(fc.array(drawn, { maxLength: 7 }), fc.nat(), fc.nat(), (draws, which, other) => {
        const operations = historyOf(draws);
        const readers = operations.filter(({ reads }) => reads !== undefined);
        const victim = readers[which % Math.max(1, readers.length)];
        const values = [null, ...operations.map(({ writes }) => writes)];
        const reads = values[other % values.length] ?? null;
        const changed = operations.map((each) => (each === victim ? { ...each, reads } : each));
        const expected = isLinearizable(changed);
        if (!expected) violations += 1;
        return (checkRegister(changed).kind === 'linearizable') === expected;
      }),
      { numRuns: 3000 },
    ),
  );
  t.true(violations > 300, `${violations} histories were wrong`);
});

test('a write that was acknowledged and is gone is a violation, in a long history too', (t) => {
  t.notThrows(() =>
    fc.assert(
      fc.property(fc.array(drawn, { minLength: 20, maxLength: 200 }), (draws) => {
        const operations = historyOf(draws);
        const endUs = 1 + Math.max(...operations.map((each) => each.answeredUs ?? each.calledUs));
        const write = (writes: string, atUs: number): Operation => {
          return { kind: 'write', writes, calledUs: atUs, answeredUs: atUs + 1 };
        };
        const lost = [...operations, write('older', endUs), write('newer', endUs + 2)];
        const read = { kind: 'read', writes: null, calledUs: endUs + 4, answeredUs: endUs + 5 };
        const verdict = checkRegister([...lost, { ...read, kind: 'read', reads: 'older' }]);
        return verdict.kind === 'violation' && verdict.stuck.reads === 'older';
      }),
      { numRuns: 100 },
    ),
  );
});

test('what was not answered may happen late, once, or never', (t) => {
  const lost: Operation = { kind: 'write', writes: 'x', calledUs: 0 };
  const read = (reads: string | null, atUs: number): Operation => {
    return { kind: 'read', writes: null, reads, calledUs: atUs, answeredUs: atUs + 1 };
  };
  const write: Operation = { kind: 'write', writes: 'y', calledUs: 20, answeredUs: 21 };
  const verdict = (...rest: Operation[]) => checkRegister([lost, ...rest]).kind;
  t.is(verdict(read(null, 10), read(null, 30)), 'linearizable');
  t.is(verdict(read(null, 10), write, read('x', 30)), 'linearizable');
  t.is(verdict(read('x', 10), write, read('x', 30)), 'violation');
});
