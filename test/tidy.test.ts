/**
 * The rules of the house that a compiler doesn't check, held by a test instead of by memory:
 * who imports whom, which files may touch the outside world, sizes, names, leftovers.
 * Each test lists every break of one rule as `file: what`, so that one run shows all of them.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, dirname, join, posix, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { importsOf, readSource, type SourceText } from './support/source-text.js';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const LINES_MAX = 600;
const COLUMNS_MAX = 100;

/** The folders of src from the outermost to the innermost; one line is one layer. */
const LAYERS: readonly (readonly string[])[] = [
  ['cli'],
  ['node'],
  ['primary', 'secondary', 'source', 'destination'],
  ['guest'],
  ['proxy', 'blockrep', 'migration', 'emulator', 'failover', 'replication'],
  ['config'],
  ['transport'],
  ['linux'],
  ['lib'],
];

/** Folders whose files all may do I/O; elsewhere in src only `*-shell.ts` may. */
const IO_FOLDERS = ['src/transport/', 'src/linux/', 'src/cli/'];
const IO_MODULES = [
  ...['net', 'tls', 'dgram', 'dns', 'http', 'https', 'http2', 'fs', 'child_process', 'timers'],
  ...['crypto', 'os', 'worker_threads', 'process', 'perf_hooks', 'readline'],
];
const IO_GLOBALS: readonly (readonly [string, RegExp])[] = [
  ['process', /(?<![.\w$#])process\s*(?:\?\.|[.[])/],
  ['Date', /(?<![.\w$#])(?:new\s+Date\b|Date\s*[.(])/],
  ['performance', /(?<![.\w$#])performance\s*\./],
  ['Math.random', /(?<![.\w$#])Math\s*\.\s*random\b/],
  ['timers', /(?<![.\w$#])(?:set|clear)(?:Timeout|Interval|Immediate)\b/],
  // A Promise in a type is a promise of somebody else; making or joining one is doing.
  ['Promise', /(?<![.\w$#])(?:new\s+Promise\b|Promise\s*\.)/],
];

/** Written in parts, or this file would break its own rule. */
const LEFTOVERS = new RegExp(`\\b(?:${['TO' + 'DO', 'FIX' + 'ME', 'X' + 'XX'].join('|')})\\b`);
const MACHINE_PATHS = new RegExp(
  `(?<![\\w$.}\\]/-])/(?:${['wo' + 'rk', 'ho' + 'me'].join('|')})/\\w`,
);
const REGISTRIES = new RegExp(`\\b(?:${['regis' + 'try\\.', 'artifac' + 'tory'].join('|')})`, 'i');

/** What no line break can mend: a row of a table, a title or a message in quotes. */
const UNBREAKABLE = /^\s*\* \||["'`]/;

interface SourceFile extends SourceText {
  /** From the root, with "/". */
  readonly path: string;
  readonly text: string;
  readonly imports: readonly string[];
}

const FILES = ['src', 'test', 'scripts', 'docs', 'packaging', '.ci']
  .flatMap((folder) => listFiles(join(ROOT, folder)))
  .concat(readdirSync(ROOT).filter((name) => statSync(join(ROOT, name)).isFile()))
  // A worktree's pointer to its repository, not a tracked file.
  .filter((path) => path !== '.git');
const SOURCES: readonly SourceFile[] = FILES.filter((path) => path.endsWith('.ts')).map((path) => {
  const text = readFileSync(join(ROOT, path), 'utf8');
  const source = readSource(text);
  return { path, text, ...source, imports: importsOf(source) };
});
const PRODUCT = SOURCES.filter((file) => file.path.startsWith('src/'));

test('every folder of src has its place in the layers', (t) => {
  const known = LAYERS.flat();
  const unknown = readdirSync(join(ROOT, 'src')).filter((folder) => !known.includes(folder));
  t.deepEqual(unknown, []);
  t.true(PRODUCT.length > 50, 'The sources were not found');
});

test('imports point inwards, never to a folder of the same layer', (t) => {
  const breaks: string[] = [];
  for (const { from, to, file, specifier } of folderImports()) {
    if (layerOf(to) <= layerOf(from)) breaks.push(`${file.path}: ${specifier}`);
  }
  t.deepEqual(breaks, []);
});

test('a folder of src is imported through its index only', (t) => {
  const breaks = folderImports()
    .filter(({ specifier }) => !specifier.endsWith('/index.js'))
    .map(({ file, specifier }) => `${file.path}: ${specifier}`);
  const scripts = SOURCES.filter((file) => file.path.startsWith('scripts/')).flatMap((file) =>
    file.imports
      .filter((specifier) => /\/src\/(?!\w+\/index\.js$)/.test(specifier))
      .map((specifier) => `${file.path}: ${specifier}`),
  );
  t.deepEqual([...breaks, ...scripts], []);
});

test('product code imports no tests and no scripts', (t) => {
  const breaks = PRODUCT.flatMap((file) =>
    file.imports
      .filter((specifier) => specifier.startsWith('.'))
      .filter((specifier) => !resolveImport(file.path, specifier).startsWith('src/'))
      .map((specifier) => `${file.path}: ${specifier}`),
  );
  t.deepEqual(breaks, []);
});

test('no file imports itself by way of others', (t) => {
  const graph = new Map<string, string[]>();
  for (const file of SOURCES) {
    const targets = file.imports.filter((specifier) => specifier.startsWith('.'));
    graph.set(
      file.path,
      targets.map((specifier) => resolveImport(file.path, specifier)),
    );
  }
  t.deepEqual(findCycles(graph), []);
});

test('files keep to their length', (t) => {
  const breaks = SOURCES.map(({ path, text }) => ({ path, lines: text.split('\n').length - 1 }))
    .filter(({ lines }) => lines > LINES_MAX)
    .map(({ path, lines }) => `${path}: ${lines} lines`);
  t.deepEqual(breaks, []);
});

test('lines keep to their width', (t) => {
  const breaks: string[] = [];
  for (const { path, text } of SOURCES) {
    for (const [index, line] of text.split('\n').entries()) {
      const columns = [...line].length;
      if (columns <= COLUMNS_MAX || UNBREAKABLE.test(line)) continue;
      breaks.push(`${path}:${index + 1}: ${columns} columns`);
    }
  }
  t.deepEqual(breaks, []);
});

test('only src/linux calls C, and who tests the preload library', (t) => {
  const breaks = SOURCES.filter((file) => !/^(src\/linux|test\/unit\/native)\//.test(file.path))
    .filter((file) => file.imports.some((specifier) => /^koffi(?:\/|$)/.test(specifier)))
    .map((file) => file.path);
  t.deepEqual(breaks, []);
});

test('pure files import nothing that does I/O and use no global that does', (t) => {
  const breaks: string[] = [];
  for (const file of PRODUCT.filter(isPure)) {
    for (const specifier of file.imports) {
      if (importsIo(specifier)) breaks.push(`${file.path}: imports ${specifier}`);
    }
    for (const [index, line] of file.code.split('\n').entries()) {
      for (const [name, pattern] of IO_GLOBALS) {
        if (pattern.test(line)) breaks.push(`${file.path}:${index + 1}: uses ${name}`);
      }
    }
  }
  t.deepEqual(breaks, []);
});

test('files are named in kebab-case', (t) => {
  const breaks = SOURCES.filter(
    (file) => !/^[a-z0-9]+(?:-[a-z0-9]+)*(?:\.test|\.d)?\.ts$/.test(basename(file.path)),
  ).map((file) => file.path);
  t.deepEqual(breaks, []);
});

test('every folder of src explains itself at the head of its index', (t) => {
  const breaks: string[] = [];
  for (const folder of readdirSync(join(ROOT, 'src'))) {
    const index = PRODUCT.find((file) => file.path === `src/${folder}/index.ts`);
    if (index === undefined) breaks.push(`src/${folder}: no index.ts`);
    else if ((index.header?.length ?? 0) < 40) breaks.push(`${index.path}: no header comment`);
  }
  t.deepEqual(breaks, []);
});

test('nothing is left over: no notes to self, no paths of one machine, no package hosts', (t) => {
  const breaks: string[] = [];
  for (const path of FILES) {
    // The lock file is a tool's; its addresses are left out by .npmrc.
    if (statSync(join(ROOT, path)).size > 1024 ** 2) continue;
    const bytes = readFileSync(join(ROOT, path));
    if (bytes.includes(0)) continue;
    for (const [index, line] of bytes.toString('utf8').split('\n').entries()) {
      for (const pattern of [LEFTOVERS, MACHINE_PATHS, REGISTRIES]) {
        const found = pattern.exec(line)?.[0];
        if (found !== undefined) breaks.push(`${path}:${index + 1}: ${found}`);
      }
    }
  }
  t.deepEqual(breaks, []);
});

test('the scanner tells code from comments, strings, templates and regular expressions', (t) => {
  const { code, uncommented } = readSource(
    [
      // biome-ignore-start lint/suspicious/noTemplateCurlyInString: they are the source to scan
      'a(); // process.exit() "',
      "/* Date.now() */ b('it\\'s Date.now() // no');",
      'c(`x ${process.pid + `${Date.now()}` /* "*/} Math.random() }`);',
      "d(/['`/]Date.now()/, e / f, '`');",
      'g({ h: `${{ i: {} }}j` });',
      // biome-ignore-end lint/suspicious/noTemplateCurlyInString: see above
    ].join('\n'),
  );
  const lines = code.split('\n').map((line) => line.replace(/ +/g, ' ').trim());
  t.deepEqual(lines, [
    'a();',
    'b( );',
    'c( process.pid + Date.now() );',
    'd( , e / f, );',
    'g({ h: { i: {} } });',
  ]);
  t.is(code.length, uncommented.length);
});

test('the scanner finds imports of every form, and none in comments or strings', (t) => {
  const source = readSource(
    [
      "import a from './a.js';",
      "import type { B } from './b.js';",
      "export { c } from './c.js';",
      "import './d.js';",
      "import {\n  e,\n} from './e.js';",
      "const f = await import('./f.js');",
      "// import g from './g.js';",
      '"import h from \'./h.js\'";',
    ].join('\n'),
  );
  t.deepEqual(importsOf(source), ['./a.js', './b.js', './c.js', './d.js', './e.js', './f.js']);
});

test('each pattern of the purity rule meets what it is for and nothing else', (t) => {
  const hits = (line: string): string[] =>
    IO_GLOBALS.filter(([, pattern]) => pattern.test(line)).map(([name]) => name);
  t.deepEqual(hits('process.exit(1)'), ['process']);
  t.deepEqual(hits('new Date()'), ['Date']);
  t.deepEqual(hits('const at = Date.now();'), ['Date']);
  t.deepEqual(hits('performance.now()'), ['performance']);
  t.deepEqual(hits('Math.random()'), ['Math.random']);
  t.deepEqual(hits('setTimeout(f, 1)'), ['timers']);
  t.deepEqual(hits('return Promise.all(x)'), ['Promise']);
  t.deepEqual(hits('await new Promise((resolve) => f(resolve))'), ['Promise']);
  t.deepEqual(hits('apply(): Promise<void>; readonly process: QemuProcess;'), []);
  t.deepEqual(hits('this.process.kill(); this.#setTimeout(); options.Date.now()'), []);
});

function listFiles(folder: string): string[] {
  try {
    return readdirSync(folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)))
      .filter((path) => !/(?:^|\/)(?:node_modules|build)\//.test(path));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

/** Imports in src that leave their folder for another one of src. */
function folderImports() {
  return PRODUCT.flatMap((file) =>
    file.imports
      .filter((specifier) => specifier.startsWith('.'))
      .map((specifier) => ({
        file,
        specifier,
        from: folderOf(file.path),
        to: folderOf(resolveImport(file.path, specifier)),
      })),
  ).filter(({ from, to }) => from !== to);
}

function folderOf(path: string): string {
  return path.split('/')[1] ?? '';
}

/** The layer's number, from the outside; a folder that has none is outside everything. */
function layerOf(folder: string): number {
  return LAYERS.findIndex((layer) => layer.includes(folder));
}

function resolveImport(from: string, specifier: string): string {
  return posix.join(dirname(from), specifier).replace(/\.js$/, '.ts');
}

function isPure(file: SourceFile): boolean {
  return (
    !file.path.endsWith('-shell.ts') && !IO_FOLDERS.some((folder) => file.path.startsWith(folder))
  );
}

function importsIo(specifier: string): boolean {
  const module = specifier.replace(/^node:/, '').split('/')[0] as string;
  return IO_MODULES.includes(module);
}

/** Each cycle once, as `a -> b -> a`, by depth-first search. */
function findCycles(graph: ReadonlyMap<string, readonly string[]>): string[] {
  const cycles: string[] = [];
  const finished = new Set<string>();
  const visit = (node: string, path: string[]): void => {
    const start = path.indexOf(node);
    if (start !== -1) {
      cycles.push([...path.slice(start), node].join(' -> '));
      return;
    }
    if (finished.has(node)) return;
    for (const next of graph.get(node) ?? []) visit(next, [...path, node]);
    finished.add(node);
  };
  for (const node of graph.keys()) visit(node, []);
  return cycles;
}
