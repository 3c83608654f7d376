import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { TokenFile } from '../../../../src/failover/index.js';
import { temporaryFolder } from '../../../support/temporary.js';

test('a token survives, the last of several saved at once', async (t) => {
  const path = join(temporaryFolder(t), 'state', 'web.token');
  const file = await TokenFile.open(path);
  t.is(file.token, 0);
  await Promise.all([file.save(5), file.save(900), file.save(17)]);
  t.is(file.token, 17);
  t.is((await TokenFile.open(path)).token, 17);
  t.is(readFileSync(path, 'utf8'), '17\n');
});

test('a file with anything else is told by name', async (t) => {
  const path = join(temporaryFolder(t), 'web.token');
  for (const text of ['', 'x', '-1', '1e3', '99999999999999999', '7\n7\n']) {
    writeFileSync(path, text);
    const error = await t.throwsAsync(TokenFile.open(path), { code: 'COLO_E_TOKEN_FILE' }, text);
    t.true(error?.message.includes(path));
  }
});
