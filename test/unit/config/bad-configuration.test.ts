/**
 * Bad configuration of every kind, for every key of the table: one line that names file, line, key,
 * what was found and what was expected; exit 78. The cases are made from the table itself, so that
 * a new key without them fails here.
 */
import test from 'ava';
import {
  ConfigurationError,
  KEY_NAMES,
  type Key,
  keyDefinition,
  quote,
  type Role,
  resolveConfiguration,
} from '../../../src/config/index.js';
import { sourceOf } from '../../support/configuration.js';

const VALUE_LENGTH_MAX = 4096;
/** Keys whose grammar takes any text: no value is of a wrong type. */
const ANY_TEXT: readonly Key[] = ['append', 'qemu-arg'];
/** What no grammar of a key with values of its own takes. */
const WRONG_TYPE = '?';

/** Just outside of the range; a key with a range in its words needs an entry. */
const OUT_OF_RANGE: Partial<Record<Key, readonly string[]>> = {
  vm: ['x'.repeat(33)],
  host: ['x'.repeat(65)],
  peer: ['10.0.0.2:0', '10.0.0.2:65536'],
  'allow-peer': ['10.0.0.256', '10.0.0.1:7800'],
  listen: ['0.0.0.0:0', '0.0.0.0:65536'],
  memory: ['15MiB', '1025GiB'],
  vcpus: ['0', '256'],
  bridge: ['sixteen-letters-'],
  nic: ['tap=sixteen-letters-', `name=${'x'.repeat(33)}`],
  disk: [`${'x'.repeat(33)}=/a`],
  period: ['9999us', '60001ms'],
  'min-interval': ['999us', '60001ms'],
  'compare-timeout': ['999us', '60001ms'],
  'peer-timeout': ['49999us', '60001ms'],
  'hold-limit': ['199ms', '601s'],
  'heartbeat-interval': ['999us', '10001ms'],
  gateway: ['10.0.0.256', '10.0.0.1:7800'],
  'tls-peer-names': ['10.0.0.256', 'a,', 'a,*', '10.0.0.1:7800', Array(17).fill('a').join()],
  'witness-ttl': ['1999ms', '60001ms'],
  'witness-timeout': ['99ms', '30001ms'],
  'keep-ram': ['0MiB', '1025GiB'],
  'keep-ram-age': ['999ms', '2592001s'],
};

/** A file that is right but for what a case adds. */
const BASE: Readonly<Record<Role, Partial<Record<Key, string>>>> = {
  primary: { peer: '10.0.0.2', kernel: '/k' },
  secondary: {},
};

/** The base without `key`, then these lines; `firstLine` is the number of the first of them. */
function fileWith(role: Role, key: Key, lines: readonly string[]) {
  const base = Object.entries(BASE[role])
    .filter(([name]) => name !== key)
    .map(([name, value]) => `${name} = ${value}`);
  return { text: [...base, ...lines, ''].join('\n'), firstLine: base.length + 1 };
}

function complaints(role: Role, text: string): { exitCode: number; lines: string[] } {
  try {
    resolveConfiguration(sourceOf(role, [], text));
  } catch (error) {
    if (!(error instanceof ConfigurationError)) throw error;
    return { exitCode: error.exitCode, lines: error.message.split('\n') };
  }
  return { exitCode: 0, lines: [] };
}

/** Every key of every role that takes it. */
function* cases(): Generator<{ role: Role; key: Key }> {
  for (const key of KEY_NAMES) {
    for (const role of keyDefinition(key).roles) yield { role, key };
  }
}

/** Asserts that the case has one complaint, about that line and key, in the form of the house. */
function refused(
  t: { deepEqual: (a: unknown, b: unknown, message?: string) => unknown },
  { role, key, lines, at = 0 }: { role: Role; key: Key; lines: readonly string[]; at?: number },
  found: string,
): void {
  const { text, firstLine } = fileWith(role, key, lines);
  const { exitCode, lines: told } = complaints(role, text);
  const about = `/c:${firstLine + at}: ${key}: found ${found}`;
  const fits = told.filter((line) => line.startsWith(about) && line.includes(', expected '));
  t.deepEqual({ exitCode, told }, { exitCode: 78, told: fits.slice(0, 1) }, `${role} ${key}`);
}

test('a right value of every key is taken', (t) => {
  for (const { role, key } of cases()) {
    const example = keyDefinition(key).example;
    // The example of a NIC has a MAC, which the secondary refuses.
    const value = role === 'secondary' ? example.replace(/mac=[^,]*,/, '') : example;
    const { text } = fileWith(role, key, [`${key} = ${value}`]);
    const extra = key === 'initrd' || key === 'append' ? 'kernel = /k\n' : '';
    const whole = role === 'secondary' ? extra + text : text;
    t.deepEqual(complaints(role, whole), { exitCode: 0, lines: [] }, `${role} ${key}`);
  }
});

test('a value of a wrong type is refused for every key', (t) => {
  for (const { role, key } of cases()) {
    if (ANY_TEXT.includes(key)) continue;
    refused(t, { role, key, lines: [`${key} = ${WRONG_TYPE}`] }, '"?"');
  }
});

test('a value out of range is refused for every key that has a range', (t) => {
  for (const { role, key } of cases()) {
    const values = OUT_OF_RANGE[key] ?? [];
    const hasRange = / to |^name$|interface|IP address|host\[/.test(keyDefinition(key).value);
    t.true(values.length > 0 || !hasRange, `${key} needs cases out of its range`);
    for (const value of values) {
      refused(t, { role, key, lines: [`${key} = ${value}`] }, '');
    }
  }
});

test('a key that takes one value is refused twice, at the second place', (t) => {
  for (const { role, key } of cases()) {
    const { example, repeatable } = keyDefinition(key);
    if (repeatable === true) continue;
    const line = `${key} = ${example}`;
    refused(t, { role, key, lines: [line, line], at: 1 }, 'once more');
  }
});

test('an empty value, too long a one, and control characters are refused for every key', (t) => {
  for (const { role, key } of cases()) {
    const long = 'x'.repeat(VALUE_LENGTH_MAX + 1);
    refused(t, { role, key, lines: [`${key} =`] }, 'nothing');
    refused(t, { role, key, lines: [`${key} = ${long}`] }, `${VALUE_LENGTH_MAX + 1} characters`);
    refused(t, { role, key, lines: [`${key} = a\u0007b`] }, quote('a\u0007b'));
  }
});

test('a misspelt key is refused with the one that was meant', (t) => {
  for (const { role, key } of cases()) {
    for (const wrong of misspellings(key)) {
      const { text, firstLine } = fileWith(role, key, [`${wrong} = x`]);
      const about = `/c:${firstLine}: ${wrong}: found an unknown key, expected one that`;
      const told = complaints(role, text).lines.filter((line) => line.startsWith(about));
      t.is(told.length, 1, `${role} ${wrong}`);
      t.regex(told[0] ?? '', /; did you mean [a-z-]+\?$/, `${role} ${wrong}`);
    }
  }
});

test('a name that is near to nothing gets no suggestion', (t) => {
  for (const name of ['x', 'q', 'nonsense', 'x'.repeat(1000)]) {
    const [line] = complaints('secondary', `${name} = 1\n`).lines;
    t.regex(line ?? '', /; see --help for all of them$/, name);
  }
});

test('a key of the other role is refused with where it belongs', (t) => {
  for (const key of KEY_NAMES) {
    const { roles, example } = keyDefinition(key);
    for (const role of ['primary', 'secondary'] as const) {
      if (roles.includes(role)) continue;
      refused(t, { role, key, lines: [`${key} = ${example}`] }, `on colo-${role}`);
    }
  }
});

test('a line that is no setting is refused with its number', (t) => {
  for (const line of ['peer', '[primary]', '{', 'key: value', '"']) {
    const { exitCode, lines } = complaints('secondary', `vm = web\n# a comment\n\n${line}\n`);
    const found = `/c:4: found ${quote(line)}, expected key = value; add "=" or remove the line`;
    t.deepEqual({ exitCode, lines }, { exitCode: 78, lines: [found] });
  }
});

/** One letter changed, one doubled: what fingers do. */
function misspellings(key: Key): string[] {
  const doubled = `${key}${key.at(-1)}`;
  const changed = `${key.slice(0, -1)}0`;
  return [doubled, changed].filter((name) => !KEY_NAMES.some((known) => known === name));
}
