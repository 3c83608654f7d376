/** docs/operating/configuration.md says what the code does: its rows are compared with the keys. */
import { readFileSync } from 'node:fs';
import test from 'ava';
import {
  formatConfiguration,
  KEY_NAMES,
  type Key,
  keyDefinition,
} from '../../../src/config/index.js';
import { resolvePrimary, resolveSecondary } from '../../support/configuration.js';

const DOCUMENT = readFileSync(
  new URL('../../../../docs/operating/configuration.md', import.meta.url),
  'utf8',
);

/** The row that the document must have for a key. */
function documentRow(key: Key): string {
  const definition = keyDefinition(key);
  const role = definition.roles.length === 2 ? 'both' : `${definition.roles[0]}`;
  const repeated = definition.repeatable === true ? ', repeatable' : '';
  const fallback =
    definition.default === undefined
      ? (definition.defaultFrom ?? 'none')
      : `\`${definition.default}\``;
  const example = `\`${key} = ${definition.example}\``;
  const cells = [`\`${key}\``, role, `${definition.value}${repeated}`, fallback, example];
  return `| ${[...cells, definition.purpose].join(' | ')} |`;
}

test('the document has exactly the row of each key, in the order of the table', (t) => {
  const rows = DOCUMENT.split('\n').filter((line) =>
    /^\| `[a-z-]+` \| (?:both|prim|sec)/.test(line),
  );
  t.deepEqual(rows, KEY_NAMES.map(documentRow));
});

test('the example files of the document are accepted', (t) => {
  const files = [...DOCUMENT.matchAll(/```ini\n([\s\S]*?)```/g)].map((match) => match[1] as string);
  const primary = files.find((file) => file.includes('peer ='));
  const secondary = files.find((file) => file.includes('listen ='));
  t.is(files.length, 2);
  t.regex(formatConfiguration(resolvePrimary([], primary)), /^peer = 10\.0\.0\.2:7800$/m);
  t.regex(formatConfiguration(resolveSecondary([], secondary)), /^listen = 10\.0\.0\.2:7800$/m);
});
