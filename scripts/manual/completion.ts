/** Bash completion of the agents from the table of keys; that of `colo` is yargs' own. Pure. */
import { KEY_NAMES, type Key, keyDefinition, type Role } from '../../src/config/index.js';

const ACTIONS = ['--config', '--check-config', '--version', '--help'];

/** The script for one agent: flags, words where a key takes one of a few, files where paths. */
export function agentCompletion(role: Role): string {
  const keys = KEY_NAMES.filter((key) => keyDefinition(key).roles.includes(role));
  const flags = [...ACTIONS, ...keys.map((key) => `--${key}`)].join(' ');
  const named = keys
    .map((key) => ({ key, words: wordsOf(key) }))
    .filter(({ words }) => words !== '');
  const paths = keys.filter((key) => /\bpath\b/.test(keyDefinition(key).value));
  return [
    `# bash completion for colo-${role}, made from its table of keys`,
    `_colo_${role}() {`,
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the shell's own
    '  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}',
    '  case $before in',
    ...named.map(
      ({ key, words }) =>
        `  --${key}) mapfile -t COMPREPLY < <(compgen -W '${words}' -- "$word") ;;`,
    ),
    `  --config | ${paths.map((key) => `--${key}`).join(' | ')})`,
    '    mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;',
    `  *) mapfile -t COMPREPLY < <(compgen -W '${flags}' -- "$word") ;;`,
    '  esac',
    '}',
    `complete -o filenames -F _colo_${role} colo-${role}`,
    '',
  ].join('\n');
}

/** `auto, kvm or tcg` as `auto kvm tcg`; empty for a key with values of another kind. */
function wordsOf(key: Key): string {
  const { value, boolean } = keyDefinition(key);
  // Such a flag stands alone.
  if (boolean === true) return '';
  const isChoice = /^[a-z-]+(?:, [a-z-]+)* or [a-z-]+$/.test(value);
  const words = value.split(/, | or /);
  return isChoice && !/path|name/.test(value) ? words.join(' ') : '';
}
