/** The manual pages and completions say what the programs know, as man and bash take it. */
import { execFile, execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';
import { exampleConfiguration } from '../../../scripts/manual/example.js';
import { helpEntries } from '../../../scripts/manual/help-text.js';
import { formatPage, fromMarkdown, sectionOf } from '../../../scripts/manual/troff.js';
import { KEY_NAMES, keyDefinition } from '../../../src/config/index.js';
import { resolvePrimary, resolveSecondary } from '../../support/configuration.js';
import { temporaryFolder } from '../../support/temporary.js';

const MAKE = fileURLToPath(new URL('../../../scripts/manual/main.js', import.meta.url));

const page = (markdown: string): string =>
  formatPage({ name: 'x', section: 1, version: '1', blocks: fromMarkdown(markdown) });

test('text that troff would take for its own is escaped', (t) => {
  const text = page(".x \\n 'y' --z `a-b` **c** [d](e.md)");
  t.true(text.endsWith('.PP\n\\&.x \\en \\(aqy\\(aq \\-\\-z \\fBa\\-b\\fR \\fBc\\fR d\n'), text);
});

test('bullets, code and tables become their blocks', (t) => {
  const blocks = fromMarkdown(
    'a\nb\n- one\n  more\n- two\n\n    x = 1\n\n| k | m |\n|--|--|\n| `q` | r |',
  );
  t.deepEqual(blocks, [
    { kind: 'paragraph', text: 'a b' },
    { kind: 'bullet', text: 'one more' },
    { kind: 'bullet', text: 'two' },
    { kind: 'code', lines: ['x = 1'] },
    { kind: 'entry', term: 'q', text: 'r' },
  ]);
  t.throws(() => fromMarkdown('# a heading'), { message: /expected simpler Markdown/ });
});

test('a section ends at the next heading of its rank', (t) => {
  const document = '# t\n\n## a\nb\n### c\nd\n## e\nf\n';
  t.is(sectionOf(document, '## a'), 'b\n### c\nd');
  t.is(sectionOf('\n## a\n\n    code\n\n', '## a'), '    code');
  t.throws(() => sectionOf(document, '## g'));
});

test('help is read with its wrapped lines, choices and defaults', (t) => {
  const help =
    'x\n\nOptions:\n  --a  One\n       two  [string] [default: "q"]\n  --b  Yes  [boolean] [default: false]\n\n';
  t.deepEqual(helpEntries(help, 'Options:'), [
    { term: '--a', text: 'One two. Default: q.' },
    { term: '--b', text: 'Yes.' },
  ]);
  t.deepEqual(helpEntries(help, 'Commands:'), []);
});

test('every key and command is in its pages, and man has nothing to complain about', async (t) => {
  const folder = temporaryFolder(t);
  execFileSync(process.execPath, [MAKE, folder]);
  const read = (path: string): string => readFileSync(join(folder, path), 'utf8');
  const term = (text: string): string => `\n.TP\n\\fB${text.replaceAll('-', '\\-')} (`;
  for (const key of KEY_NAMES) {
    t.true(read('man/man5/colo.conf.5').includes(term(key)), key);
    for (const role of ['primary', 'secondary'] as const) {
      const takes = keyDefinition(key).roles.includes(role);
      t.is(read(`man/man8/colo-${role}.8`).includes(term(`--${key}`)), takes, key);
    }
  }
  const own = read('man/man1/colo.1');
  t.notRegex(own + read('man/man5/colo.conf.5') + read('man/man8/colo-primary.8'), /\.md\b/);
  for (const name of ['status', 'failover', 'capture', 'check\\-config', 'pki issue']) {
    t.regex(own, new RegExp(`^\\.SS "colo ${name.replace('\\', '\\\\')}`, 'm'));
  }
  const pages = ['1/colo.1', '5/colo.conf.5', '8/colo-primary.8', '8/colo-secondary.8'];
  const man = async (path: string): Promise<string> => {
    const args = ['-mandoc', '-Tutf8', '-ww', '-z', join(folder, 'man', `man${path}`)];
    return (await promisify(execFile)('groff', args)).stderr;
  };
  try {
    for (const path of pages) t.is(await man(path), '', path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    t.log('groff is not installed: the pages were not rendered');
  }
});

test('bash completes flags, words and files of the agents', (t) => {
  const folder = temporaryFolder(t);
  execFileSync(process.execPath, [MAKE, folder]);
  const script = join(folder, 'bash-completion/completions/colo-primary');
  const complete = (...words: string[]): string[] => {
    const run = `source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _colo_primary
      printf '%s\\n' "\${COMPREPLY[@]}"`;
    const args = ['-c', run, 'bash', script, 'colo-primary', ...words];
    return execFileSync('bash', args, { encoding: 'utf8' }).trim().split('\n');
  };
  t.deepEqual(complete('--mod'), ['--mode']);
  t.deepEqual(complete('--mode', ''), ['checkpoint', 'colo']);
  t.deepEqual(complete('--disk', script.slice(0, -3)), [script]);
  t.true(complete('--').includes('--check-config'));
});

test('the examples are accepted, also with every default uncommented', (t) => {
  for (const [role, resolve] of [
    ['primary', resolvePrimary],
    ['secondary', resolveSecondary],
  ] as const) {
    const example = exampleConfiguration(role);
    t.is(resolve([], example).vm, 'web');
    t.true(example.split('\n').every((line) => line.length <= 100));
    for (const key of KEY_NAMES) {
      const takes = keyDefinition(key).roles.includes(role);
      t.is(new RegExp(`^#?${key} = `, 'm').test(example), takes, key);
    }
    const defaults = KEY_NAMES.filter((key) => keyDefinition(key).default !== undefined);
    const uncommented = example.replace(
      /^#([a-z-]+)( = )/gm,
      (line, key: string, equals: string) =>
        defaults.some((known) => known === key) ? `${key}${equals}` : line,
    );
    t.deepEqual(resolve([], uncommented), resolve([], example));
  }
});
