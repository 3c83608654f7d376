/**
 * The four manual pages, from what the programs themselves go by: the table of keys, the grammar of
 * `colo`, and docs/operating for the prose. Pure.
 */
import { KEY_NAMES, type Key, keyDefinition, type Role } from '../../src/config/index.js';
import { type HelpEntry, helpEntries } from './help-text.js';
import { type Block, fromMarkdown, type Page, sectionOf } from './troff.js';

export interface Sources {
  readonly version: string;
  /** docs/operating/commands.md and configuration.md. */
  readonly commands: string;
  readonly configuration: string;
  /** `colo --help`, and the help of each of its commands. */
  readonly help: (command: string | undefined) => Promise<string>;
}

const paragraph = (text: string): Block => ({ kind: 'paragraph', text });
const section = (text: string): Block => ({ kind: 'section', text });
const entry = (term: string, text: string): Block => ({ kind: 'entry', term, text });

/** All pages. */
export async function makePages(given: Sources): Promise<Page[]> {
  const commands = namePages(given.commands);
  const sources = { ...given, commands, configuration: namePages(given.configuration) };
  return [
    await coloPage(sources),
    agentPage(sources, 'primary'),
    agentPage(sources, 'secondary'),
    configurationPage(sources),
  ];
}

/** A manual has no links to files of the sources. */
function namePages(markdown: string): string {
  return markdown
    .replaceAll('[configuration.md](configuration.md)', 'colo.conf(5)')
    .replaceAll('[commands.md](commands.md)', 'colo(1)');
}

async function coloPage({ version, commands, help }: Sources): Promise<Page> {
  const overview = await help(undefined);
  const common = helpEntries(overview, 'Options:');
  const names = await allCommands(overview, help);
  const blocks: Block[] = [
    section('Name'),
    paragraph('colo - look at and direct the agent of a protected VM'),
    section('Synopsis'),
    { kind: 'code', lines: names.map(({ term }) => `${term} [OPTION]...`) },
    section('Description'),
    paragraph('Asks and directs an agent of this host over its control socket.'),
    // Its overview of the commands is the synopsis above.
    ...fromMarkdown(introOf(sectionOf(commands, '## colo'))).filter(({ kind }) => kind !== 'code'),
    section('Options'),
    paragraph('Of all commands:'),
    ...common.map(({ term, text }) => entry(term, text)),
    section('Commands'),
  ];
  for (const { term, text } of names) {
    const name = nameOf(term);
    const own = await help(name);
    const options = helpEntries(own, 'Options:').filter(
      (option) => !common.some((other) => other.term === option.term),
    );
    blocks.push({ kind: 'subsection', text: term }, paragraph(text));
    for (const one of [...helpEntries(own, 'Positionals:'), ...options]) {
      blocks.push(entry(one.term, one.text));
    }
    if (commands.includes(`\n### colo ${name}\n`)) {
      blocks.push(...fromMarkdown(sectionOf(commands, `### colo ${name}`)));
    }
  }
  const seeAlso = 'colo-primary(8), colo-secondary(8), colo.conf(5)';
  const last = [...exitStatus(commands), section('See also'), paragraph(seeAlso)];
  return { name: 'colo', section: 1, version, blocks: [...blocks, ...last] };
}

/** Those below a command that has some instead of itself. */
async function allCommands(overview: string, help: Sources['help']): Promise<HelpEntry[]> {
  const all: HelpEntry[] = [];
  for (const entry of helpEntries(overview, 'Commands:')) {
    const below = helpEntries(await help(nameOf(entry.term)), 'Commands:');
    all.push(...(below.length === 0 ? [entry] : below));
  }
  return all;
}

/** `pki issue` of `colo pki issue <name>`. */
function nameOf(term: string): string {
  const words = term.split(' ').slice(1);
  const end = words.findIndex((word) => /^[<[]/.test(word));
  return words.slice(0, end === -1 ? undefined : end).join(' ');
}

function agentPage({ version, commands }: Sources, role: Role): Page {
  const guest = role === 'primary' ? 'PVM, which serves the clients' : 'SVM, which follows it';
  const name = `colo-${role}`;
  const other = role === 'primary' ? 'colo-secondary' : 'colo-primary';
  const keys = KEY_NAMES.filter((key) => keyDefinition(key).roles.includes(role));
  const blocks: Block[] = [
    section('Name'),
    paragraph(`${name} - the agent of one protected VM on its ${role} host`),
    section('Synopsis'),
    { kind: 'code', lines: [`${name} [--config FILE] [--KEY VALUE]...`, `${name}@VM.service`] },
    section('Description'),
    paragraph(`Runs the ${guest}, in the foreground, until it is stopped. One agent for each VM.`),
    ...fromMarkdown(sectionOf(commands, '## colo-primary and colo-secondary')),
    section('Options'),
    entry('--config FILE', `Read KEY = VALUE lines, see colo.conf(5); flags win over the file.`),
    entry('--check-config', 'Print the effective configuration and exit.'),
    entry('--version', 'Print the version and exit.'),
    entry('--help', 'Print all keys and exit.'),
    ...keys.map((key) => keyEntry(key, `--${key}`)),
    ...exitStatus(commands),
    section('Environment'),
    entry('COLO_CONFIG', 'The configuration file when no --config is given.'),
    entry('COLO_NODE', 'The node program, for the installed package; else the one in PATH.'),
    entry('NOTIFY_SOCKET, WATCHDOG_USEC', 'Set by systemd: see sd_notify(3).'),
    section('Files'),
    entry('/etc/colo/VM.conf', 'What the unit of that VM is configured by.'),
    entry('/etc/colo/pki', 'CA, certificate and key for the links between the hosts.'),
    entry('/etc/default/colo', 'Environment of the units.'),
    entry('/run/colo/VM.sock', 'Control socket, for colo(1).'),
    entry('/var/lib/colo', 'What must outlive the agent.'),
    section('See also'),
    paragraph(`colo(1), colo.conf(5), ${other}(8), systemctl(1)`),
  ];
  return { name, section: 8, version, blocks };
}

function configurationPage({ version, configuration }: Sources): Page {
  const blocks: Block[] = [
    section('Name'),
    paragraph('colo.conf - configuration of colo-primary and colo-secondary'),
    section('Synopsis'),
    { kind: 'code', lines: ['/etc/colo/VM.conf'] },
    section('Description'),
    ...fromMarkdown(sectionOf(configuration, '## The file')),
    section('Keys'),
    ...KEY_NAMES.map((key) => keyEntry(key, key)),
    section('Between keys'),
    ...fromMarkdown(sectionOf(configuration, '## Between keys')),
    section('Examples'),
    ...fromMarkdown(sectionOf(configuration, '## Examples')),
    section('Diagnostics'),
    ...fromMarkdown(sectionOf(configuration, '## When something is wrong')),
    section('See also'),
    paragraph('colo(1), colo-primary(8), colo-secondary(8)'),
  ];
  return { name: 'colo.conf', section: 5, version, blocks };
}

function exitStatus(commands: string): Block[] {
  return [section('Exit status'), ...fromMarkdown(sectionOf(commands, '## Exit codes'))];
}

function keyEntry(key: Key, term: string): Block {
  const { roles, value, repeatable, purpose, example, ...given } = keyDefinition(key);
  const fallback = given.default ?? given.defaultFrom ?? 'none';
  const only = roles.length === 2 ? '' : ` Only on the ${roles[0]}.`;
  const repeat = repeatable === true ? ' May be repeated.' : '';
  const text = `${purpose}${only}${repeat} Default: ${fallback}. Example: \`${key} = ${example}\``;
  return entry(`${term} (${value})`, text);
}

/** What stands before the first heading below. */
function introOf(markdown: string): string {
  return markdown.split(/^### /m)[0] ?? '';
}
