/** Whatever stands in a file or on a command line, only `ConfigurationError` comes out. */
import test from 'ava';
import fc from 'fast-check';
import {
  ConfigurationError,
  formatConfiguration,
  formatDuration,
  KEY_NAMES,
  keyDefinition,
  parseDuration,
  type Role,
  resolveConfiguration,
} from '../../../src/config/index.js';

const role = fc.constantFrom<Role>('primary', 'secondary');
const word = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.constantFrom(
    '=',
    ',',
    '--',
    '/a',
    '1s',
    '200',
    'name=',
    'path=/a,',
    'mac=',
    '[::1]:1',
    'yes',
    '\0',
  ),
  fc.constantFrom(...KEY_NAMES.map((key) => keyDefinition(key).example)),
);
const setting = fc
  .tuple(fc.oneof(fc.constantFrom(...KEY_NAMES), fc.string({ maxLength: 12 })), word)
  .map(([key, value]) => [key, value] as const);

/** Resolves; gives the effective configuration as text, or the problems. */
function attempt(of: Role, argv: string[], file: Uint8Array): string {
  try {
    const configuration = resolveConfiguration({
      role: of,
      argv,
      env: { COLO_CONFIG: '/c' },
      hostname: 'testhost',
      readFile: () => file,
    });
    return formatConfiguration(configuration);
  } catch (error) {
    if (!(error instanceof ConfigurationError)) throw error;
    if (![64, 78].includes(error.exitCode)) throw error;
    for (const { line } of error.problems) {
      // biome-ignore lint/suspicious/noControlCharactersInRegex: they must not reach a terminal
      if (/[\u0000-\u001f\u007f]/.test(line)) throw new Error(`Unprintable: ${line}`);
      if (line.length > 1000) throw new Error(`Too long: ${line.length}`);
    }
    return error.message;
  }
}

test('random bytes as a file never crash', (t) => {
  fc.assert(
    fc.property(role, fc.uint8Array({ maxLength: 2000 }), (of, bytes) => {
      t.is(typeof attempt(of, [], bytes), 'string');
    }),
    { numRuns: 500 },
  );
});

test('files of almost right lines never crash', (t) => {
  fc.assert(
    fc.property(role, fc.array(setting, { maxLength: 30 }), (of, settings) => {
      const text = settings.map(([key, value]) => `${key} = ${value}`).join('\n');
      t.is(typeof attempt(of, [], Buffer.from(text)), 'string');
    }),
    { numRuns: 1000 },
  );
});

test('almost right arguments never crash', (t) => {
  const argument = fc.oneof(
    word,
    setting.map(([key, value]) => `--${key}=${value}`),
    fc.constantFrom(...KEY_NAMES).map((key) => `--${key}`),
  );
  fc.assert(
    fc.property(role, fc.array(argument, { maxLength: 30 }), (of, argv) => {
      t.is(typeof attempt(of, argv, Buffer.alloc(0)), 'string');
    }),
    { numRuns: 1000 },
  );
});

test('what is shown of an accepted configuration is accepted and shows the same', (t) => {
  let accepted = 0;
  const valid = KEY_NAMES.filter((key) => keyDefinition(key).roles.includes('secondary'));
  fc.assert(
    fc.property(fc.subarray([...valid]), (keys) => {
      const file = keys.map((key) => `${key} = ${keyDefinition(key).example}`);
      const text = attempt('secondary', [], Buffer.from(file.join('\n')));
      if (!text.startsWith('vm = ')) return;
      accepted += 1;
      t.is(attempt('secondary', [], Buffer.from(text)), text);
    }),
    { numRuns: 300 },
  );
  t.true(accepted > 50, `only ${accepted} were accepted`);
});

test('every whole number of microseconds survives its text', (t) => {
  const bounds = { minUs: 0, maxUs: 10 ** 12 };
  fc.assert(
    fc.property(fc.nat({ max: 10 ** 12 }), (us) => {
      t.is(parseDuration(formatDuration(us), bounds), us);
    }),
  );
});
