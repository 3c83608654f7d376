/** docs/operating/commands.md says what the code does, where a test can tell. */
import { readFileSync } from 'node:fs';
import test from 'ava';
import { EXIT } from '../../../src/cli/index.js';
import { fullStatus } from '../../support/fake-node.js';

const DOCUMENT = readFileSync(
  new URL('../../../../docs/operating/commands.md', import.meta.url),
  'utf8',
);

test('every exit code has its row', (t) => {
  const codes = Object.values(EXIT).filter((code) => code !== EXIT.interrupted);
  for (const code of [...codes, '130, 143']) {
    t.true(DOCUMENT.includes(`\n| ${code} | `), String(code));
  }
});

test('every field of the status is described', (t) => {
  for (const field of Object.keys(fullStatus())) {
    t.regex(DOCUMENT, new RegExp(`\\| [^|]*\`${field}[\`.[]`), field);
  }
});
