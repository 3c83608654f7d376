/** The commented example configuration of each agent, from the table of keys. Pure. */
import { KEY_NAMES, type Key, keyDefinition, type Role } from '../../src/config/index.js';

const WIDTH = 96;

/** What a small pair is made of; all other keys stand in comments. */
const CHOSEN: Readonly<Record<Role, Partial<Record<Key, string>>>> = {
  primary: {
    vm: 'web',
    peer: '10.0.0.2',
    memory: '2GiB',
    vcpus: '2',
    disk: 'root=/var/lib/colo/web.img',
    bridge: 'br0',
  },
  secondary: { vm: 'web', 'allow-peer': '10.0.0.1', listen: '10.0.0.2', bridge: 'br0' },
};

/** The whole file; the agent takes it as it is, on a host that has what it names. */
export function exampleConfiguration(role: Role): string {
  const lines = [
    `# Configuration of one protected VM on its ${role} host: copy it to /etc/colo/VM.conf, change what`,
    '# must be changed, and look at what "colo check-config" says. colo.conf(5) explains the form.',
    '# Keys in comments show their default, or an example where there is none.',
  ];
  for (const key of KEY_NAMES) {
    const definition = keyDefinition(key);
    if (!definition.roles.includes(role)) continue;
    const given = CHOSEN[role][key];
    const fallback = definition.default ?? definition.defaultFrom ?? 'none';
    const repeat = definition.repeatable === true ? ' May be repeated.' : '';
    const text = `${definition.purpose}${repeat} Value: ${definition.value}. Default: ${fallback}.`;
    lines.push('', ...wrap(text).map((line) => `# ${line}`));
    const shown = given ?? definition.default ?? definition.example;
    lines.push(`${given === undefined ? '#' : ''}${key} = ${shown}`);
  }
  return `${lines.join('\n')}\n`;
}

function wrap(text: string): string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last === undefined || last.length + 1 + word.length > WIDTH) lines.push(word);
    else lines[lines.length - 1] = `${last} ${word}`;
  }
  return lines;
}
