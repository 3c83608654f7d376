/**
 * From text to settings: a configuration file, or the arguments of a daemon, becomes a list of
 * `key = value` with the place each stands at. What a value means is not looked at here.
 *
 * File grammar (UTF-8, one setting a line):
 *
 *   # a comment is a whole line; a "#" behind a value belongs to the value
 *   period = 200ms
 *   disk = /images/a.img
 *   disk = /images/b.img        keys that take lists are repeated
 *
 * Flag grammar: `--key value` or `--key=value`, yes-or-no keys also as `--key`. A value may start
 * with a dash (`--qemu-arg -device`), which is why this is not left to a general parser.
 */

import { isKey, type Key, keyDefinition, nearestKey, type Role } from './keys.js';
import { CONFIG_FILE_BYTES_MAX, PROBLEMS_MAX, REPEATS_MAX, VALUE_LENGTH_MAX } from './limits.js';
import { type Problem, quote } from './problem.js';

/** One setting as it was written. */
export interface Setting {
  readonly key: Key;
  readonly text: string;
  readonly from: 'file' | 'flag';
  /** `FILE:LINE: key` or `--key`: the start of every complaint about it. */
  readonly place: string;
}

/** What was read, and everything that was wrong; the caller goes on to find more. */
export interface SettingsRead {
  readonly settings: Setting[];
  readonly problems: Problem[];
}

/** What a daemon was asked to do. */
export interface Invocation extends SettingsRead {
  readonly action: 'run' | 'check-config' | 'help' | 'version';
  readonly configFile: string | undefined;
}

/** Reads a configuration file's bytes. Never throws; the problems name `path` and the line. */
export function readSettingsFile(path: string, bytes: Uint8Array, role: Role): SettingsRead {
  const settings: Setting[] = [];
  const problems: Problem[] = [];
  if (bytes.length > CONFIG_FILE_BYTES_MAX) {
    const found = `found more than ${CONFIG_FILE_BYTES_MAX} bytes`;
    const line = `${path}: ${found}, expected a configuration file; name another`;
    problems.push({ from: 'file', line });
    return { settings, problems };
  }
  const lines = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('utf8');
  const isShared = /^\s*both-roles\s*=\s*(?:yes|true)\s*$/m.test(lines);
  for (const [index, raw] of lines.split('\n').entries()) {
    // A wrong file is wrong in every line; reading on would tell nobody more.
    if (problems.length >= PROBLEMS_MAX) break;
    const line = raw.trim();
    if (line === '' || line.startsWith('#')) continue;
    const place = `${path}:${index + 1}`;
    const equals = line.indexOf('=');
    if (equals === -1) {
      const found = `found ${quote(line)}, expected key = value`;
      problems.push({ from: 'file', line: `${place}: ${found}; add "=" or remove the line` });
      continue;
    }
    const name = line.slice(0, equals).trim();
    const text = line.slice(equals + 1).trim();
    const isForeign = isKey(name) && !keyDefinition(name).roles.includes(role);
    if (isShared && isForeign) continue;
    addSetting({ settings, problems }, { role, name, text, from: 'file', place });
  }
  return { settings, problems };
}

/** Reads a daemon's arguments (without node and script). Never throws. */
export function readArguments(argv: readonly string[], role: Role): Invocation {
  const read: SettingsRead = { settings: [], problems: [] };
  let action: Invocation['action'] = 'run';
  let configFile: string | undefined;
  const complain = (line: string): void => {
    read.problems.push({ from: 'flag', line });
  };
  for (let index = 0; index < argv.length; index += 1) {
    const argument = argv[index] as string;
    const match = /^--([^=]*)(?:=(.*))?$/s.exec(argument);
    const name = argument === '-h' ? 'help' : match?.[1];
    if (name === undefined) {
      const advice = 'start it with "--", or see --help';
      complain(`found ${quote(argument)}, expected a flag; ${advice}`);
      continue;
    }
    if (name === 'help' || name === 'version' || name === 'check-config') {
      // Help wins over everything: whoever asks for it is lost.
      if (action !== 'help') action = name;
      continue;
    }
    const inline = match?.[2];
    const boolean = isKey(name) && keyDefinition(name).boolean === true;
    if (name !== 'config' && !isKey(name)) {
      complain(unknownKey(`--${quoteName(name)}`, name, role));
      // The word behind it is probably its value, and nothing to complain about on its own.
      if (inline === undefined && argv[index + 1]?.startsWith('-') === false) index += 1;
      continue;
    }
    const text = inline ?? (boolean ? 'yes' : argv[index + 1]);
    if (inline === undefined && !boolean) index += 1;
    if (text === undefined) {
      complain(`--${name}: found nothing behind it, expected a value; add one`);
    } else if (name !== 'config') {
      addSetting(read, { role, name, text, from: 'flag', place: `--${name}` });
    } else if (configFile !== undefined || text === '') {
      complain(`--config: found ${quote(text)}, expected one file; give it once`);
    } else {
      configFile = text;
    }
  }
  return { ...read, action, configFile };
}

interface RawSetting {
  readonly role: Role;
  readonly name: string;
  readonly text: string;
  readonly from: 'file' | 'flag';
  /** Without the key for a file, with it for a flag. */
  readonly place: string;
}

function addSetting(read: SettingsRead, raw: RawSetting): void {
  const place = raw.from === 'file' ? `${raw.place}: ${quoteName(raw.name)}` : raw.place;
  const complain = (line: string): void => {
    read.problems.push({ from: raw.from, line, key: raw.name });
  };
  if (!isKey(raw.name)) {
    complain(unknownKey(place, raw.name, raw.role));
    return;
  }
  const definition = keyDefinition(raw.name);
  if (!definition.roles.includes(raw.role)) {
    complain(`${place}: ${foreignKey(raw.name, raw.role)}`);
    return;
  }
  if (raw.text === '') {
    complain(`${place}: found nothing, expected ${definition.value}; add it or remove the key`);
    return;
  }
  if (raw.text.length > VALUE_LENGTH_MAX) {
    const found = `found ${raw.text.length} characters`;
    complain(`${place}: ${found}, expected at most ${VALUE_LENGTH_MAX}; shorten the value`);
    return;
  }
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  if (/[\u0000-\u001f\u007f\ufffd]/.test(raw.text)) {
    const expected = 'expected UTF-8 text without control characters';
    complain(`${place}: found ${quote(raw.text)}, ${expected}; remove them`);
    return;
  }
  const limit = definition.repeatable === true ? REPEATS_MAX : 1;
  const before = read.settings.filter((setting) => setting.key === raw.name).length;
  if (before >= limit) {
    complain(`${place}: found once more, expected at most ${limit}; remove the others`);
    return;
  }
  read.settings.push({ key: raw.name, text: raw.text, from: raw.from, place });
}

function unknownKey(place: string, name: string, role: Role): string {
  const nearest = nearestKey(name, role);
  const advice = nearest === undefined ? 'see --help for all of them' : `did you mean ${nearest}?`;
  return `${place}: found an unknown key, expected one that colo-${role} knows; ${advice}`;
}

function foreignKey(key: Key, role: Role): string {
  if (role === 'primary') {
    return 'found on colo-primary, expected only on colo-secondary; move it to the secondary host';
  }
  const found = 'found on colo-secondary, expected only on colo-primary';
  return keyDefinition(key).machine === true
    ? `${found}, which sends the machine definition; remove it here`
    : `${found}; move it to the primary host`;
}

function quoteName(name: string): string {
  return /^[A-Za-z0-9-]{1,40}$/.test(name) ? name : quote(name);
}
