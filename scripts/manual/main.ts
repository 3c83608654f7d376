/**
 * Writes manual pages, shell completions and example configurations below a folder, where a Unix
 * system has them:
 *
 *   node build/scripts/manual/main.js FOLDER
 *   FOLDER/man/man{1,5,8}/, FOLDER/bash-completion/completions/, FOLDER/zsh/vendor-completions/,
 *   FOLDER/doc/colo/examples/
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseColoArguments } from '../../src/cli/index.js';
import { agentCompletion } from './completion.js';
import { exampleConfiguration } from './example.js';
import { makePages } from './pages.js';
import { formatPage } from './troff.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

const [folder, ...rest] = process.argv.slice(2);
if (folder === undefined || rest.length > 0) {
  process.stderr.write('Usage: node build/scripts/manual/main.js FOLDER\n');
  process.exit(64);
}

const version = (
  JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8')) as { version: string }
).version;
/** What `colo` prints for arguments that only print. */
async function printed(...argv: string[]): Promise<string> {
  const wish = await parseColoArguments(argv, {
    version,
    captureFolder: () => '',
    absolute: (path) => path,
  });
  if (wish.kind !== 'print') throw new Error(`colo ${argv.join(' ')} prints nothing`);
  return wish.text;
}

async function put(path: string, text: string): Promise<void> {
  const whole = join(folder as string, path);
  await mkdir(dirname(whole), { recursive: true });
  await writeFile(whole, text);
}

const document = (name: string): Promise<string> =>
  readFile(join(ROOT, 'docs/operating', `${name}.md`), 'utf8');
const pages = await makePages({
  version,
  commands: await document('commands'),
  configuration: await document('configuration'),
  help: (command) => printed(...(command === undefined ? [] : command.split(' ')), '--help'),
});
for (const page of pages) {
  await put(`man/man${page.section}/${page.name}.${page.section}`, formatPage(page));
}
const completions = 'bash-completion/completions';
for (const role of ['primary', 'secondary'] as const) {
  await put(`${completions}/colo-${role}`, agentCompletion(role));
  await put(`doc/colo/examples/${role}.conf`, exampleConfiguration(role));
}
// yargs looks at the shell that it runs in to tell which of the two is meant.
delete process.env['ZSH_NAME'];
process.env['SHELL'] = '/bin/bash';
await put(`${completions}/colo`, await printed('completion'));
process.env['SHELL'] = '/bin/zsh';
await put('zsh/vendor-completions/_colo', await printed('completion'));
