import { readFileSync } from 'node:fs';
import test from 'ava';
import {
  AssertionFailed,
  assert,
  ColoError,
  OperatorError,
  ProtocolError,
} from '../../../src/lib/index.js';
import { duplicateDescriptor, SystemCallError } from '../../../src/linux/index.js';
import { LinkError, packError, unpackError } from '../../../src/transport/index.js';

/** The way between two threads. */
function cross(thrown: unknown): Error {
  return unpackError(structuredClone(packError(thrown)));
}

function thrownBy(act: () => unknown): unknown {
  try {
    act();
  } catch (error) {
    return error;
  }
  throw new Error('Nothing was thrown');
}

test('an error of ours arrives as one of the same class, with code, fields and cause', (t) => {
  const cause = new LinkError('timeout', 'No answer');
  const error = cross(new OperatorError('COLO_E_TEST', 'Not so', { cause }));
  t.true(error instanceof OperatorError);
  t.like(error, { name: 'OperatorError', code: 'COLO_E_TEST', message: 'Not so' });
  t.true(error.cause instanceof LinkError);
  t.like(error.cause, { code: 'COLO_E_LINK_TIMEOUT', kind: 'timeout', message: 'No answer' });
});

test('each class that crosses threads keeps its own', (t) => {
  const errors = [
    new ProtocolError('A byte is wrong'),
    new ColoError('COLO_E_TEST', 'Something'),
    thrownBy(() => assert(false, 'One is two')) as AssertionFailed,
    thrownBy(() => duplicateDescriptor(-1)) as SystemCallError,
  ];
  t.true(errors[2] instanceof AssertionFailed);
  t.true(errors[3] instanceof SystemCallError);
  for (const error of errors) {
    const arrived = cross(error);
    t.is(Object.getPrototypeOf(arrived), Object.getPrototypeOf(error));
    t.deepEqual({ ...arrived }, { ...error });
    t.is(arrived.name, error.name);
    t.is(arrived.message, error.message);
    t.is(arrived.stack, error.stack);
  }
});

test('a foreign class with a code of ours is a ColoError that keeps its name', (t) => {
  class OddError extends ColoError {}
  const arrived = cross(new OddError('COLO_E_ODD', 'Odd'));
  t.true(arrived instanceof ColoError);
  t.like(arrived, { name: 'OddError', code: 'COLO_E_ODD' });
});

test("Node's own errors keep name and code; what is no error becomes text", (t) => {
  const missing = cross(thrownBy(() => readFileSync('/proc/no-such-file')));
  t.like(missing, { code: 'ENOENT', syscall: 'open' });
  t.false(missing instanceof ColoError);
  const type = cross(new TypeError('Not a function'));
  t.is(type.name, 'TypeError');
  t.is(cross('only a text').message, 'only a text');
});

test('an error that causes itself ends', (t) => {
  const error = new Error('Round');
  error.cause = error;
  t.is(cross(error).message, 'Round');
});
