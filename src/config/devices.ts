/**
 * Disks and NICs in the configuration.
 *
 *   disk = /images/web.img                 primary: named disk0, disk1, ... by its place
 *   disk = data=/images/web-data.img       both: named; on the secondary the name is required
 *   disk = name=data,path=/images/d.qcow2,format=qcow2,readonly=on
 *   disk = name=root,path=/mnt/nfs/web.img,shared=on
 *   nic  = bridge=br0,mac=52:54:00:01:02:03,tap=web0,name=lan
 *
 * A device is known to both hosts by its name. Paths, TAPs and bridges belong to one host; the MAC
 * belongs to the guest and so comes from the primary alone.
 */
import { crc32c } from '../lib/index.js';
import { INTERFACE_NAME_LENGTH_MAX } from './limits.js';
import { ValueError } from './problem.js';
import { choiceParser, parseInterfaceName, parseName, parsePath } from './values.js';

/** How the bytes of a disk lie in its image. */
export type DiskFormat = 'raw' | 'qcow2';

/** One guest disk on this host. */
export interface DiskSetting {
  readonly name: string;
  readonly path: string;
  /** Not given: raw, and an image that looks like something else is refused. */
  readonly format?: DiskFormat;
  /** The guest may not write to it. Belongs to the guest and so comes from the primary alone. */
  readonly readOnly?: boolean;
  /** The host that the guest may move to sees the same image: its content is not moved. */
  readonly shared?: boolean;
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
export interface DiskText extends Omit<DiskSetting, 'name'> {
  readonly name: string | undefined;
}

/** What a `nic` value says. */
export interface NicText {
  readonly name: string | undefined;
  readonly mac: string | undefined;
  readonly tap: string | undefined;
  readonly bridge: string | undefined;
}

const DISK_ATTRIBUTES = ['name', 'path', 'format', 'readonly', 'shared'] as const;
const NIC_ATTRIBUTES = ['name', 'mac', 'tap', 'bridge'] as const;

const parseFormat = choiceParser(['raw', 'qcow2']);
const parseOnOff = choiceParser(['on', 'off']);

/**
 * Reads `PATH`, `name=PATH`, or attributes, which are told by the first one's name: a disk with such
 * a name has to be given by attributes. A path with a comma in it can not.
 */
export function parseDisk(text: string): DiskText {
  if (text.startsWith('/')) return { name: undefined, path: text };
  const [first, rest] = splitOnce(text, '=');
  if (rest === undefined) {
    throw new ValueError(text, 'PATH or name=PATH', 'start the path with "/"');
  }
  if (!isOneOf(DISK_ATTRIBUTES, first)) return { name: parseName(first), path: parsePath(rest) };
  const found = parsePairs(text, DISK_ATTRIBUTES);
  const { name, path, format, readonly, shared } = Object.fromEntries(found);
  if (path === undefined) {
    throw new ValueError(text, 'path= beside the other attributes', 'add the path of the image');
  }
  if (shared === 'on') checkShared(text, format, readonly);
  return {
    name: name === undefined ? undefined : parseName(name),
    path: parsePath(path),
    ...(format === undefined ? {} : { format: parseFormat(format) }),
    ...(readonly === undefined ? {} : { readOnly: parseOnOff(readonly) === 'on' }),
    ...(shared === undefined ? {} : { shared: parseOnOff(shared) === 'on' }),
  };
}

/** The image is opened in the guest's pause, for which the way to a qcow2 image is too long. */
function checkShared(text: string, format: string | undefined, readonly: string | undefined): void {
  if (format === 'qcow2') {
    throw new ValueError(text, 'a raw image for shared=on', 'use format=raw or remove shared=on');
  }
  if (readonly !== 'on') return;
  const advice = 'remove shared=on: a read-only image is never moved';
  throw new ValueError(text, 'either readonly=on or shared=on', advice);
}

/** The text that `parseDisk` reads back. */
export function formatDisk(disk: DiskSetting): string {
  const { name, path, format, readOnly, shared } = disk;
  const isShort = [format, readOnly, shared].every((value) => value === undefined);
  if (isShort && !isOneOf(DISK_ATTRIBUTES, name)) return `${name}=${path}`;
  const words = [`name=${name}`, `path=${path}`];
  if (format !== undefined) words.push(`format=${format}`);
  if (readOnly !== undefined) words.push(`readonly=${readOnly ? 'on' : 'off'}`);
  if (shared !== undefined) words.push(`shared=${shared ? 'on' : 'off'}`);
  return words.join(',');
}

/** Reads `attribute=value` pairs joined by commas, each attribute at most once. */
export function parseNic(text: string): NicText {
  const found = parsePairs(text, NIC_ATTRIBUTES);
  const take = (attribute: keyof NicText, parse: (value: string) => string): string | undefined => {
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

function parsePairs<const Attribute extends string>(
  text: string,
  attributes: readonly Attribute[],
): Map<Attribute, string> {
  const listed = attributes.map((attribute) => `${attribute}=`);
  const expected = `${listed.slice(0, -1).join(', ')} and ${listed.at(-1)} joined by commas`;
  const found = new Map<Attribute, string>();
  for (const part of text.split(',')) {
    const [attribute, value] = splitOnce(part, '=');
    if (!isOneOf(attributes, attribute) || value === undefined) {
      throw new ValueError(part, expected, 'correct or remove that part');
    }
    if (found.has(attribute)) throw new ValueError(text, expected, `give ${attribute}= once`);
    found.set(attribute, value);
  }
  return found;
}

function isOneOf<const Word extends string>(words: readonly Word[], text: string): text is Word {
  return words.some((word) => word === text);
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
