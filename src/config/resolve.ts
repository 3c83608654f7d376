/**
 * From arguments, a file and the defaults to one checked `Configuration`.
 *
 *   argv -> readArguments ----.
 *   file -> readSettingsFile -+-> flags win, key by key -> grammar of each value -> checks between
 *   defaults -----------------'   keys -> Configuration, or a ConfigurationError with all problems
 *
 * Flags replace a file's values key by key; for a repeatable key they replace the whole list.
 */
import { assert, describeError } from '../lib/index.js';
import type {
  CommonConfiguration,
  Configuration,
  NicPlace,
  PrimaryConfiguration,
  SecondaryConfiguration,
  SecuritySettings,
} from './configuration.js';
import { type DiskSetting, defaultMac, defaultTap, type NicSetting } from './devices.js';
import { formatDuration } from './duration.js';
import { KEYS, type Key, type KeyValue, keyDefinition, PKI_DIR, type Role } from './keys.js';
import {
  DISKS_MAX,
  HOLD_LIMIT_PEER_TIMEOUTS,
  HOLD_LIMIT_US_DEFAULT_MAX,
  NICS_MAX,
  SOCKET_PATH_BYTES_MAX,
} from './limits.js';
import { DEFAULT_PERIOD_US } from './mode.js';
import { ConfigurationError, type Problem, quote, ValueError } from './problem.js';
import { readArguments, readSettingsFile, type Setting } from './settings.js';
import type { Address } from './values.js';

/** Everything a configuration is made from; the caller does the reading. */
export interface ConfigurationSource {
  readonly role: Role;
  /** Without node and script. */
  readonly argv: readonly string[];
  /** Only COLO_CONFIG is looked at: the file to read when no `--config` is given. */
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly hostname: string;
  /** The file's bytes, at most CONFIG_FILE_BYTES_MAX + 1 of them; undefined when there is none. */
  readonly readFile: (path: string) => Uint8Array | undefined;
}

/** The file that is read when nothing names one; it may be missing. */
export function defaultConfigFile(role: Role): string {
  return `/etc/colo/${role}.conf`;
}

/** The effective configuration. Throws `ConfigurationError`, never anything else for bad input. */
export function resolveConfiguration(source: ConfigurationSource): Configuration {
  const invocation = readArguments(source.argv, source.role);
  const problems: Problem[] = [...invocation.problems];
  const flagKeys = new Set(invocation.settings.map((setting) => setting.key));
  const fromFile = readFileSettings(source, invocation.configFile, problems);
  const settings = [
    ...invocation.settings,
    ...fromFile.settings.filter((setting) => !flagKeys.has(setting.key)),
  ];
  const reader = new ValueReader(settings, problems, fromFile.path);
  const configuration =
    source.role === 'primary'
      ? buildPrimary(reader, source.hostname)
      : buildSecondary(reader, source.hostname);
  if (problems.length > 0) throw new ConfigurationError(problems);
  assert(configuration !== undefined, 'A configuration without problems is complete');
  return configuration;
}

function readFileSettings(
  source: ConfigurationSource,
  flagFile: string | undefined,
  problems: Problem[],
): { settings: Setting[]; path: string | undefined } {
  const named = flagFile ?? source.env['COLO_CONFIG'];
  const path = named ?? defaultConfigFile(source.role);
  let bytes: Uint8Array | undefined;
  try {
    bytes = source.readFile(path);
  } catch (error) {
    const found = `found ${describeError(error)}`;
    const line = `${quote(path)}: ${found}, expected a readable file; correct it`;
    problems.push({ from: 'file', line });
    return { settings: [], path };
  }
  if (bytes === undefined) {
    if (named === undefined) return { settings: [], path: undefined };
    const from = flagFile === undefined ? 'COLO_CONFIG' : '--config';
    const line = `${from}: found no file ${quote(path)}, expected one; create it or name another`;
    problems.push({ from: 'file', line });
    return { settings: [], path };
  }
  const read = readSettingsFile(path, bytes, source.role);
  problems.push(...read.problems);
  return { settings: read.settings, path };
}

/** Gives out typed values of settings and collects what is wrong with them. */
class ValueReader {
  readonly #settings: readonly Setting[];
  readonly #problems: Problem[];
  readonly #file: string | undefined;

  constructor(settings: readonly Setting[], problems: Problem[], file: string | undefined) {
    this.#settings = settings;
    this.#problems = problems;
    this.#file = file;
  }

  /** Every value of a key, each with its place; wrong ones are left out. */
  list<K extends Key>(key: K): { value: KeyValue<K>; setting: Setting }[] {
    const found: { value: KeyValue<K>; setting: Setting }[] = [];
    for (const setting of this.settings(key)) {
      const value = this.#parse(key, setting);
      if (value !== undefined) found.push({ value, setting });
    }
    return found;
  }

  /** The value of a key, its default, or undefined. */
  optional<K extends Key>(key: K): KeyValue<K> | undefined {
    const setting = this.settings(key)[0];
    const value = setting === undefined ? undefined : this.#parse(key, setting);
    const fallback = keyDefinition(key).default;
    if (value !== undefined || fallback === undefined) return value;
    return KEYS[key].parse(fallback) as KeyValue<K>;
  }

  /** The value of a key that has a default; the default also stands in for a wrong value. */
  defaulted<K extends Key>(key: K): KeyValue<K> {
    const value = this.optional(key);
    assert(value !== undefined, `The key ${key} has no default`);
    return value;
  }

  settings(key: Key): Setting[] {
    return this.#settings.filter((setting) => setting.key === key);
  }

  /** A problem with a setting as it stands. */
  complain(setting: Setting, text: string): void {
    const line = `${setting.place}: ${text}`;
    this.#problems.push({ from: setting.from, line, key: setting.key });
  }

  /** A problem between keys: told at the first of them that was written at all. */
  complainAbout(keys: readonly [Key, ...Key[]], text: string): void {
    const setting = keys.flatMap((key) => this.settings(key))[0];
    if (setting !== undefined) this.complain(setting, text);
    else this.missing(keys, text);
  }

  /**
   * A problem with a key that is not there, named by the first of `keys`, any of which would do;
   * none if one of them is there and was complained about.
   */
  missing(keys: readonly [Key, ...Key[]], text: string): void {
    if (this.#problems.some((problem) => keys.some((key) => problem.key === key))) return;
    const [key] = keys;
    const from = this.#file === undefined ? 'flag' : 'file';
    const place = this.#file === undefined ? `--${key}` : `${this.#file}: ${key}`;
    this.#problems.push({ from, line: `${place}: ${text}`, key });
  }

  #parse<K extends Key>(key: K, setting: Setting): KeyValue<K> | undefined {
    try {
      return KEYS[key].parse(setting.text) as KeyValue<K>;
    } catch (error) {
      if (!(error instanceof ValueError)) throw error;
      this.complain(setting, error.message);
      return undefined;
    }
  }
}

function buildCommon(
  reader: ValueReader,
  hostname: string,
  peer: Address | undefined,
): CommonConfiguration {
  const vm = reader.defaulted('vm');
  const runDir = reader.defaulted('run-dir');
  const socketPath = reader.optional('socket') ?? `${runDir}/${vm}.sock`;
  if (Buffer.byteLength(socketPath) > SOCKET_PATH_BYTES_MAX) {
    const expected = `expected at most ${SOCKET_PATH_BYTES_MAX} bytes`;
    const text = `found the socket path ${quote(socketPath)}, ${expected}; choose a shorter one`;
    reader.complainAbout(['socket', 'run-dir', 'vm'], text);
  }
  const peerTimeoutUs = reader.defaulted('peer-timeout');
  const heartbeatIntervalUs = reader.defaulted('heartbeat-interval');
  if (heartbeatIntervalUs * 3 >= peerTimeoutUs) {
    const found = `found a heartbeat every ${formatDuration(heartbeatIntervalUs)}`;
    const expected = `less than a third of peer-timeout ${formatDuration(peerTimeoutUs)}`;
    const text = `${found}, expected ${expected}; lower heartbeat-interval or raise peer-timeout`;
    reader.complainAbout(['heartbeat-interval', 'peer-timeout'], text);
  }
  const witnessTtlUs = reader.defaulted('witness-ttl');
  const witnessTimeoutUs = reader.defaulted('witness-timeout');
  if (witnessTimeoutUs * 2 > witnessTtlUs) {
    const found = `found a wait of ${formatDuration(witnessTimeoutUs)}`;
    const expected = `at most half of witness-ttl ${formatDuration(witnessTtlUs)}`;
    const text = `${found}, expected ${expected}; lower witness-timeout or raise witness-ttl`;
    reader.complainAbout(['witness-timeout', 'witness-ttl'], text);
  }
  const host = reader.optional('host') ?? hostname;
  const allowPeer = reader.optional('allow-peer');
  return {
    vm,
    host,
    runDir,
    stateDir: reader.defaulted('state-dir'),
    socketPath,
    listen: reader.defaulted('listen'),
    allowPeer,
    security: buildSecurity(reader, host, [peer?.host, allowPeer]),
    bridge: reader.optional('bridge'),
    tracker: reader.defaulted('tracker'),
    peerTimeoutUs,
    holdLimitUs:
      reader.optional('hold-limit') ??
      Math.min(HOLD_LIMIT_PEER_TIMEOUTS * peerTimeoutUs, HOLD_LIMIT_US_DEFAULT_MAX),
    heartbeatIntervalUs,
    heartbeatPath: reader.optional('heartbeat-path'),
    gateway: reader.optional('gateway'),
    witness: reader.defaulted('witness'),
    witnessTtlUs,
    witnessTimeoutUs,
    onPeerLoss: reader.defaulted('on-peer-loss'),
    resyncBytesPerSecond: reader.optional('resync-rate'),
    keepRamBytes: reader.defaulted('keep-ram'),
    keepRamAgeUs: reader.defaulted('keep-ram-age'),
    lanAnnounce: reader.defaulted('lan-announce'),
    bothRoles: reader.defaulted('both-roles'),
    consoleLog: reader.optional('console-log'),
    logLevel: reader.defaulted('log-level'),
    logFormat: reader.defaulted('log-format'),
  };
}

/** `expected`: what the configuration says of the peer elsewhere. */
function buildSecurity(
  reader: ValueReader,
  host: string,
  expected: readonly (string | undefined)[],
): SecuritySettings {
  // The zone of an address is this host's business, and stands in no certificate.
  const names = expected
    .filter((name) => name !== undefined)
    .map((name) => name.replace(/%.*/, ''));
  const fallback = names.length === 0 ? ['*'] : [...new Set(names)];
  return {
    transport: reader.defaulted('transport-security'),
    ca: reader.defaulted('tls-ca'),
    certificate: reader.optional('tls-certificate') ?? `${PKI_DIR}/${host}.crt`,
    key: reader.optional('tls-key') ?? `${PKI_DIR}/${host}.key`,
    peerNames: reader.optional('tls-peer-names') ?? fallback,
  };
}

function buildPrimary(reader: ValueReader, hostname: string): PrimaryConfiguration | undefined {
  const peer = reader.optional('peer');
  const common = buildCommon(reader, hostname, peer);
  if (reader.settings('peer').length === 0) {
    reader.missing(['peer'], 'found none, expected host[:port] of the secondary; add it');
  }
  const mode = reader.defaulted('mode');
  const periodUs = reader.optional('period');
  const longestUs = periodUs === 'auto' || periodUs === undefined ? undefined : periodUs;
  const minIntervalUs = reader.defaulted('min-interval');
  if (minIntervalUs > (longestUs ?? DEFAULT_PERIOD_US[mode])) {
    const found = `found min-interval ${formatDuration(minIntervalUs)}`;
    const period = formatDuration(longestUs ?? DEFAULT_PERIOD_US[mode]);
    const text = `${found}, expected at most period ${period}; lower it`;
    reader.complainAbout(['min-interval', 'period'], text);
  }
  const disks = primaryDisks(reader);
  const machine = {
    memoryBytes: reader.defaulted('memory'),
    vcpus: reader.defaulted('vcpus'),
    accelerator: reader.defaulted('accel'),
    machine: reader.defaulted('machine'),
    cpu: reader.optional('cpu'),
    kernel: reader.optional('kernel'),
    initrd: reader.optional('initrd'),
    append: reader.optional('append'),
    qemuArguments: reader.list('qemu-arg').map(({ value }) => value),
  };
  checkBoot(reader);
  const nics = primaryNics(reader, common);
  const compareTimeoutUs = reader.defaulted('compare-timeout');
  const onGuestPanic = reader.defaulted('on-guest-panic');
  const verify = reader.defaulted('verify');
  if (peer === undefined) return undefined;
  return {
    role: 'primary',
    ...common,
    peer,
    machine,
    disks,
    nics,
    mode,
    periodUs,
    minIntervalUs,
    compareTimeoutUs,
    verify,
    onGuestPanic,
  };
}

function checkBoot(reader: ValueReader): void {
  const given = (key: Key): boolean => reader.settings(key).length > 0;
  if (!given('kernel') && !given('disk')) {
    const text = 'found nothing to boot, expected a disk or a kernel; add one of them';
    reader.missing(['disk', 'kernel'], text);
  }
  for (const key of ['initrd', 'append'] as const) {
    if (given(key) && !given('kernel')) {
      reader.complainAbout([key], 'found it alone, expected kernel beside it; add kernel');
    }
  }
}

function buildSecondary(reader: ValueReader, hostname: string): SecondaryConfiguration {
  const peer = reader.optional('peer');
  const common = buildCommon(reader, hostname, peer);
  return {
    role: 'secondary',
    ...common,
    peer,
    qemuArguments: reader.list('qemu-arg').map(({ value }) => value),
    disks: secondaryDisks(reader, common.bothRoles),
    diskDir: reader.optional('disk-dir') ?? common.stateDir,
    nics: secondaryNics(reader, common.bothRoles),
    kernel: reader.optional('kernel'),
    initrd: reader.optional('initrd'),
  };
}

function primaryDisks(reader: ValueReader): DiskSetting[] {
  const listed = reader.list('disk').map(({ value, setting }, index) => ({
    setting,
    value: { ...value, name: value.name ?? `disk${index}` },
  }));
  refuseMoreThan(reader, 'disk', DISKS_MAX);
  refuseRepeats(reader, listed, 'name');
  refuseRepeats(reader, listed, 'path');
  return listed.map(({ value }) => value);
}

function secondaryDisks(reader: ValueReader, isShared: boolean): DiskSetting[] {
  const listed: { value: DiskSetting; setting: Setting }[] = [];
  for (const [index, { value, setting }] of reader.list('disk').entries()) {
    if (isShared) {
      const { readOnly: _, ...place } = value;
      listed.push({ value: { ...place, name: value.name ?? `disk${index}` }, setting });
    } else if (value.name === undefined) {
      const expected = 'expected name=PATH on the secondary; add the name the primary gives it';
      reader.complain(setting, `found ${quote(setting.text)}, ${expected}`);
    } else if (value.readOnly !== undefined) {
      const expected = 'expected no readonly=; the primary says it, remove it here';
      reader.complain(setting, `found ${quote(setting.text)}, ${expected}`);
    } else {
      listed.push({ value: { ...value, name: value.name }, setting });
    }
  }
  refuseMoreThan(reader, 'disk', DISKS_MAX);
  refuseRepeats(reader, listed, 'name');
  refuseRepeats(reader, listed, 'path');
  return listed.map(({ value }) => value);
}

function primaryNics(reader: ValueReader, common: CommonConfiguration): NicSetting[] {
  const complete = (text: Partial<NicSetting>, index: number): NicSetting => {
    const name = text.name ?? `nic${index}`;
    return {
      name,
      mac: text.mac ?? defaultMac(common.vm, name),
      tap: text.tap ?? defaultTap(common.vm, name),
      bridge: text.bridge ?? common.bridge,
    };
  };
  if (reader.settings('nic').length === 0) {
    return common.bridge === undefined ? [] : [complete({}, 0)];
  }
  const listed = reader.list('nic').map(({ value, setting }, index) => {
    const given = Object.fromEntries(
      Object.entries(value).filter(([, text]) => text !== undefined),
    ) as Partial<NicSetting>;
    return { setting, value: complete(given, index) };
  });
  refuseMoreThan(reader, 'nic', NICS_MAX);
  for (const attribute of ['name', 'mac', 'tap'] as const) {
    refuseRepeats(reader, listed, attribute);
  }
  return listed.map(({ value }) => value);
}

function secondaryNics(reader: ValueReader, isShared: boolean): NicPlace[] {
  const listed: { value: NicPlace; setting: Setting }[] = [];
  for (const [index, { value, setting }] of reader.list('nic').entries()) {
    const found = `found ${quote(setting.text)}`;
    if (isShared) {
      const { name = `nic${index}`, tap, bridge } = value;
      listed.push({ value: { name, tap, bridge }, setting });
    } else if (value.mac !== undefined) {
      reader.complain(setting, `${found}, expected no mac=; the primary sends it, remove it here`);
    } else if (value.name === undefined) {
      const advice = 'add the name the primary gives it, such as name=nic0';
      reader.complain(setting, `${found}, expected name= on the secondary; ${advice}`);
    } else {
      const { name, tap, bridge } = value;
      listed.push({ value: { name, tap, bridge }, setting });
    }
  }
  refuseMoreThan(reader, 'nic', NICS_MAX);
  refuseRepeats(reader, listed, 'name');
  refuseRepeats(reader, listed, 'tap');
  return listed.map(({ value }) => value);
}

function refuseMoreThan(reader: ValueReader, key: Key, limit: number): void {
  const extra = reader.settings(key)[limit];
  if (extra === undefined) return;
  const found = `found ${reader.settings(key).length} of them`;
  reader.complain(extra, `${found}, expected at most ${limit}; remove the others`);
}

function refuseRepeats<Attribute extends string>(
  reader: ValueReader,
  listed: readonly {
    readonly value: { readonly [A in Attribute]: string | undefined };
    readonly setting: Setting;
  }[],
  attribute: Attribute,
): void {
  const seen = new Set<string>();
  for (const { value, setting } of listed) {
    const text = value[attribute];
    if (text === undefined) continue;
    if (seen.has(text)) {
      const found = `found the ${attribute} ${quote(text)} again`;
      reader.complain(setting, `${found}, expected each one once; change or remove it`);
    }
    seen.add(text);
  }
}
