/**
 * The grammars of single values. Each parser takes the text of one setting and gives back its
 * value or throws `ValueError`. Control characters never get here: settings.ts refuses them.
 */
import {
  INTERFACE_NAME_LENGTH_MAX,
  KEEP_RAM_BYTES_MAX,
  KEEP_RAM_BYTES_MIN,
  MEMORY_BYTES_MAX,
  MEMORY_BYTES_MIN,
  NAME_LENGTH_MAX,
  PEER_NAMES_MAX,
} from './limits.js';
import { ValueError } from './problem.js';

/** A TCP end point; `host` is a name, an IPv4 address, or an IPv6 address without brackets. */
export interface Address {
  readonly host: string;
  readonly port: number;
}

/** The replication port when an address names none. */
export const DEFAULT_PORT = 7800;

const NAME = /^[a-z0-9][a-z0-9_-]*$/;
const HOST_NAME = /^[A-Za-z0-9]([A-Za-z0-9.-]{0,252})$/;
/** Two colons at least: one is a missing host before a port. */
const IPV6 = /^(?=(?:[^:]*:){2})[0-9a-fA-F:.]{2,45}(%[A-Za-z0-9._-]{1,15})?$/;
const KEEP_NONE = 'off';
const SIZE = /^(\d{1,9})(?:\.(\d{1,3}))?(MiB|GiB)$/;

/** A VM, disk or NIC name: it becomes part of file names and QEMU ids. */
export function parseName(text: string): string {
  if (!NAME.test(text) || text.length > NAME_LENGTH_MAX) {
    const expected = `a name of at most ${NAME_LENGTH_MAX} of a-z, 0-9, "-" and "_"`;
    throw new ValueError(text, expected, 'start it with a letter or a digit');
  }
  return text;
}

/** A Linux network interface name. */
export function parseInterfaceName(text: string): string {
  if (!/^[A-Za-z0-9][A-Za-z0-9_.-]*$/.test(text) || text.length > INTERFACE_NAME_LENGTH_MAX) {
    const expected = `an interface name of at most ${INTERFACE_NAME_LENGTH_MAX} characters`;
    throw new ValueError(text, expected, 'use letters, digits, ".", "-" and "_" only');
  }
  return text;
}

/** An IPv4 or IPv6 address as the kernel prints it, without port. */
export function parseIpAddress(text: string): string {
  const octets = text.split('.');
  const isIpv4 = octets.length === 4 && octets.every((o) => /^\d{1,3}$/.test(o) && Number(o) < 256);
  if (isIpv4 || IPV6.test(text)) return text;
  throw new ValueError(text, 'an IP address', 'write it such as 10.0.0.1 or fd00::1');
}

/** A host's name or address, as it may stand in a certificate. */
export function parsePeerName(text: string): string {
  const looksLikeAddress = /^[0-9.]+$/.test(text) || text.includes(':');
  const isName = HOST_NAME.test(text) && !/\.\.|\.$/.test(text);
  if (looksLikeAddress ? text.includes('%') : !isName) {
    throw new ValueError(
      text,
      'a host name or an IP address',
      'write it such as hostb or 10.0.0.2',
    );
  }
  return looksLikeAddress ? parseIpAddress(text) : text;
}

/** Names and addresses with commas between them, each once; or "*" alone, for any. */
export function parsePeerNames(text: string): readonly string[] {
  if (text === '*') return [text];
  const names = text.split(',');
  if (names.length > PEER_NAMES_MAX) {
    const expected = `at most ${PEER_NAMES_MAX} names`;
    throw new ValueError(text, expected, 'remove some, or write "*" for any of your CA');
  }
  return [...new Set(names.map(parsePeerName))];
}

/** `host`, `host:port`, `[v6]:port` or a bare IPv6 address. */
export function parseAddress(text: string): Address {
  const expected = 'host, host:port or [IPv6]:port';
  const bracketed = /^\[([^\]]*)\](?::(\d{1,5}))?$/.exec(text);
  const plain = /^([^:[\]]+)(?::(\d{1,5}))?$/.exec(text);
  const [host, port] = bracketed?.slice(1) ?? plain?.slice(1) ?? [text, undefined];
  const hostIsValid =
    host !== undefined && (plain === null ? IPV6.test(host) : HOST_NAME.test(host));
  if (!hostIsValid) {
    throw new ValueError(text, expected, 'write it such as 10.0.0.2:7800 or [fd00::2]:7800');
  }
  const number = port === undefined ? DEFAULT_PORT : Number(port);
  if (number < 1 || number > 65535) {
    throw new ValueError(text, expected, 'choose a port from 1 to 65535');
  }
  return { host, port: number };
}

/** The text that `parseAddress` reads back. */
export function formatAddress(address: Address): string {
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  return `${host}:${address.port}`;
}

/** Guest memory in bytes, a whole number of MiB. */
export function parseMemory(text: string): number {
  return parseSize(text, { minBytes: MEMORY_BYTES_MIN, maxBytes: MEMORY_BYTES_MAX });
}

/** A size in bytes, a whole number of MiB within the bounds. */
export function parseSize(text: string, bounds: { minBytes: number; maxBytes: number }): number {
  const { minBytes, maxBytes } = bounds;
  const range = `from ${formatMemory(minBytes)} to ${formatMemory(maxBytes)}`;
  const expected = `a size ${range} in whole MiB`;
  const [, whole, fraction = '', unit] = SIZE.exec(text) ?? [];
  if (whole === undefined) {
    throw new ValueError(text, expected, 'write a number and MiB or GiB, such as 512MiB');
  }
  const mebibytes = Number(`${whole}.${fraction}`) * (unit === 'GiB' ? 1024 : 1);
  const bytes = mebibytes * 1024 ** 2;
  if (!Number.isInteger(mebibytes) || bytes < minBytes || bytes > maxBytes) {
    throw new ValueError(text, expected, 'choose a value in that range');
  }
  return bytes;
}

/** The text that `parseMemory` and `parseSize` read back. */
export function formatMemory(bytes: number): string {
  return bytes % 1024 ** 3 === 0 ? `${bytes / 1024 ** 3}GiB` : `${bytes / 1024 ** 2}MiB`;
}

/** Bytes for the RAM of a guest that has left; `off`: 0. */
export function parseKeptRam(text: string): number {
  if (text === KEEP_NONE) return 0;
  try {
    return parseSize(text, { minBytes: KEEP_RAM_BYTES_MIN, maxBytes: KEEP_RAM_BYTES_MAX });
  } catch (error) {
    if (!(error instanceof ValueError)) throw error;
    const range = `${formatMemory(KEEP_RAM_BYTES_MIN)} to ${formatMemory(KEEP_RAM_BYTES_MAX)}`;
    const expected = `a size from ${range} in whole MiB, or ${KEEP_NONE}`;
    throw new ValueError(text, expected, `write a size such as 8GiB, or ${KEEP_NONE}`);
  }
}

/** The text that `parseKeptRam` reads back. */
export function formatKeptRam(bytes: number): string {
  return bytes === 0 ? KEEP_NONE : formatMemory(bytes);
}

/** A decimal integer within [min, max]. */
export function integerParser(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
    if (!(value >= min && value <= max)) {
      throw new ValueError(text, `a whole number from ${min} to ${max}`, 'choose one of those');
    }
    return value;
  };
}

/** Exactly one of the listed words. */
export function choiceParser<const Choice extends string>(
  choices: readonly Choice[],
): (text: string) => Choice {
  return (text) => {
    const choice = choices.find((candidate) => candidate === text);
    if (choice === undefined) {
      throw new ValueError(text, choices.join(' or '), 'write it exactly so');
    }
    return choice;
  };
}

/** `yes` or `no`, also as `true` and `false`. */
export function parseBoolean(text: string): boolean {
  if (text === 'yes' || text === 'true') return true;
  if (text === 'no' || text === 'false') return false;
  throw new ValueError(text, 'yes or no', 'write one of these');
}

/** A host name as it stands in logs and status; not resolved. */
export function parseHostLabel(text: string): string {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(text)) {
    const advice = 'use letters, digits, ".", "-" and "_" only';
    throw new ValueError(text, 'a host name of at most 64 characters', advice);
  }
  return text;
}

/** A QEMU machine type or CPU model: one word. */
export function parseWord(text: string): string {
  if (!/^[A-Za-z0-9][A-Za-z0-9._,=+-]*$/.test(text)) {
    throw new ValueError(text, 'one word that QEMU knows', 'look it up in the -help of QEMU');
  }
  return text;
}

/** Any text, as it stands. */
export function parseText(text: string): string {
  return text;
}

/** An absolute path: a daemon's working directory is nobody's business. */
export function parsePath(text: string): string {
  if (!text.startsWith('/')) {
    throw new ValueError(text, 'an absolute path', 'start it with "/"');
  }
  return text;
}
