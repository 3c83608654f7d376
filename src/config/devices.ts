/**
 * Disks and NICs in the configuration.
 *
 *   disk = /images/web.img                 primary: named disk0, disk1, ... by its place
 *   disk = data=/images/web-data.img       both: named; on the secondary the name is required
 *   nic  = bridge=br0,mac=52:54:00:01:02:03,tap=web0,name=lan
 *
 * A device is known to both hosts by its name. Paths, TAPs and bridges belong to one host; the MAC
 * belongs to the guest and so comes from the primary alone.
 */
import { crc32c } from '../lib/index.js';
import { INTERFACE_NAME_LENGTH_MAX } from './limits.js';
import { ValueError } from './problem.js';
import { parseInterfaceName, parseName, parsePath } from './values.js';

/** One guest disk on this host. */
export interface DiskSetting {
  readonly name: string;
  readonly path: string;
}

/** One guest NIC on the primary. Without a bridge the TAP is left for the operator to connect. */
export interface NicSetting {
  readonly name: string;
  /** Lower case, colons. */
  readonly mac: string;
  readonly tap: string;
  readonly bridge: string | undefined;
}

/** What a `disk` value says; a name left out is given by its place in the list. */
export interface DiskText {
  readonly name: string | undefined;
  readonly path: string;
}

/** What a `nic` value says. */
export interface NicText {
  readonly name: string | undefined;
  readonly mac: string | undefined;
  readonly tap: string | undefined;
  readonly bridge: string | undefined;
}

const NIC_EXPECTED = 'name=, mac=, tap= and bridge= joined by commas';

/** Reads `PATH` or `name=PATH`. */
export function parseDisk(text: string): DiskText {
  if (text.startsWith('/')) return { name: undefined, path: text };
  const equals = text.indexOf('=');
  if (equals === -1) {
    throw new ValueError(text, 'PATH or name=PATH', 'start the path with "/"');
  }
  return { name: parseName(text.slice(0, equals)), path: parsePath(text.slice(equals + 1)) };
}

/** Reads `attribute=value` pairs joined by commas, each attribute at most once. */
export function parseNic(text: string): NicText {
  const found = new Map<string, string>();
  for (const part of text.split(',')) {
    const [attribute = '', value] = splitOnce(part, '=');
    const known = ['name', 'mac', 'tap', 'bridge'].includes(attribute);
    if (!known || value === undefined) {
      throw new ValueError(part, NIC_EXPECTED, 'correct or remove that part');
    }
    if (found.has(attribute)) {
      throw new ValueError(text, NIC_EXPECTED, `give ${attribute}= once`);
    }
    found.set(attribute, value);
  }
  const take = (attribute: string, parse: (value: string) => string): string | undefined => {
    const value = found.get(attribute);
    return value === undefined ? undefined : parse(value);
  };
  return {
    name: take('name', parseName),
    mac: take('mac', parseMac),
    tap: take('tap', parseInterfaceName),
    bridge: take('bridge', parseInterfaceName),
  };
}

/** The text that `parseNic` reads back. */
export function formatNic(nic: Partial<NicText>): string {
  const pairs: [string, string | undefined][] = [
    ['name', nic.name],
    ['mac', nic.mac],
    ['tap', nic.tap],
    ['bridge', nic.bridge],
  ];
  return pairs
    .filter(([, value]) => value !== undefined)
    .map(([attribute, value]) => `${attribute}=${value}`)
    .join(',');
}

/** A MAC that stays the same for a VM's NIC wherever it runs: 52:54 and a hash of both names. */
export function defaultMac(vm: string, nic: string): string {
  const hash = crc32c(Buffer.from(`${vm}/${nic}`))
    .toString(16)
    .padStart(8, '0');
  return ['52', '54', ...(hash.match(/../g) ?? [])].join(':');
}

/** The TAP of a NIC that names none: `vm-nic` when that fits, else `colo-` and a hash. */
export function defaultTap(vm: string, nic: string): string {
  const readable = `${vm}-${nic}`;
  if (readable.length <= INTERFACE_NAME_LENGTH_MAX) return readable;
  return `colo-${crc32c(Buffer.from(readable)).toString(16).padStart(8, '0')}`;
}

function parseMac(text: string): string {
  const octets = /^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$/.test(text);
  const first = Number.parseInt(text.slice(0, 2), 16);
  if (!octets || (first & 1) === 1 || /^[0:]+$/.test(text)) {
    const advice = 'write six octets such as 52:54:00:12:34:56, the first one even';
    throw new ValueError(text, 'a unicast MAC address', advice);
  }
  return text.toLowerCase();
}

function splitOnce(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator);
  return at === -1 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}
