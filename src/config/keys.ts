/**
 * The table of all keys: who takes a key, its grammar, its default, and the words for `--help` and
 * docs/operating/configuration.md. A file and the flags have the same keys; adding one is one entry
 * here, its use in resolve.ts, and its row in the document (a test compares the two).
 */
import { parseDisk, parseNic } from './devices.js';
import { parseDuration } from './duration.js';
import * as limits from './limits.js';
import { GUEST_PANIC_ACTIONS, MODES, parsePeriod } from './mode.js';
import * as values from './values.js';
import { parseHeartbeatPath, parseWitness } from './witness.js';

/** How the hosts may talk to each other. */
export const TRANSPORT_SECURITIES = ['tls', 'plain-trusted'] as const;
export type TransportSecurity = (typeof TRANSPORT_SECURITIES)[number];

/** Where `colo pki` puts what the hosts know each other by. */
export const PKI_DIR = '/etc/colo/pki';

/** What an agent is when it starts. */
export type Role = 'primary' | 'secondary';

/** One key: its grammar and what is said about it. */
export interface KeyDefinition {
  readonly roles: readonly Role[];
  readonly parse: (text: string) => unknown;
  /** What kind of value, in a word or two, with its unit. */
  readonly value: string;
  /** As it would stand in a file; undefined when there is none. */
  readonly default: string | undefined;
  /** Said instead of `default` where the default is made from other keys. */
  readonly defaultFrom?: string;
  readonly example: string;
  readonly purpose: string;
  readonly repeatable?: true;
  /** A flag without a value means yes. */
  readonly boolean?: true;
  /** Part of the machine definition, which a secondary gets from its primary. */
  readonly machine?: true;
}

const BOTH = ['primary', 'secondary'] as const;
const PRIMARY = ['primary'] as const;
const SECONDARY = ['secondary'] as const;

const duration = (minUs: number, maxUs: number) => (text: string) =>
  parseDuration(text, { minUs, maxUs });

const parseRate = (text: string) =>
  values.parseSize(text, {
    minBytes: limits.RESYNC_RATE_BYTES_MIN,
    maxBytes: limits.RESYNC_RATE_BYTES_MAX,
  });

/** In the order in which `--check-config` and the document show them. */
export const KEYS = {
  vm: {
    roles: BOTH,
    parse: values.parseName,
    value: 'name',
    default: 'guest',
    example: 'web',
    purpose: 'Name of the VM; in the socket, file and TAP names. The same on both hosts.',
  },
  host: {
    roles: BOTH,
    parse: values.parseHostLabel,
    value: 'name',
    default: undefined,
    defaultFrom: "the machine's host name",
    example: 'rack1-a',
    purpose: 'Name of this host in logs and status.',
  },
  peer: {
    roles: BOTH,
    parse: values.parseAddress,
    value: 'host[:port]',
    default: undefined,
    defaultFrom: 'primary: required; secondary: where its last primary listened',
    example: '10.0.0.2:7800',
    purpose:
      'Where the other host listens; port 7800 unless given. Who runs the guest connects to it.',
  },
  'allow-peer': {
    roles: BOTH,
    parse: values.parseIpAddress,
    value: 'IP address',
    default: undefined,
    defaultFrom: 'any host that reaches the port',
    example: '10.0.0.1',
    purpose: 'The only host that may become the primary for this one.',
  },
  listen: {
    roles: BOTH,
    parse: values.parseAddress,
    value: 'host[:port]',
    default: '0.0.0.0:7800',
    example: '10.0.0.2:7800',
    purpose: 'Where to wait for the other host.',
  },
  'both-roles': {
    roles: BOTH,
    parse: values.parseBoolean,
    value: 'yes or no',
    default: 'no',
    example: 'yes',
    purpose:
      "This file is for both agents of the host: what is only the other one's is left out, not " +
      'refused. For a host whose agent is started in either role, as by Pacemaker.',
    boolean: true,
  },
  memory: {
    roles: PRIMARY,
    parse: values.parseMemory,
    value: 'size, MiB or GiB',
    default: '512MiB',
    example: '2GiB',
    purpose: 'Guest memory.',
    machine: true,
  },
  vcpus: {
    roles: PRIMARY,
    parse: values.integerParser(1, limits.VCPUS_MAX),
    value: 'count, 1 to 255',
    default: '1',
    example: '2',
    purpose: 'Guest CPUs.',
    machine: true,
  },
  accel: {
    roles: PRIMARY,
    parse: values.choiceParser(['auto', 'kvm', 'tcg']),
    value: 'auto, kvm or tcg',
    default: 'auto',
    example: 'kvm',
    purpose: 'How the guest is executed; auto takes KVM where it is real, else TCG.',
    machine: true,
  },
  machine: {
    roles: PRIMARY,
    parse: values.parseWord,
    value: 'QEMU machine type',
    default: 'pc',
    example: 'pc-i440fx-7.2',
    purpose: 'QEMU machine type; name a version when the hosts differ in QEMU.',
    machine: true,
  },
  cpu: {
    roles: PRIMARY,
    parse: values.parseWord,
    value: 'QEMU CPU model',
    default: undefined,
    defaultFrom: "QEMU's own",
    example: 'qemu64',
    purpose: 'QEMU CPU model.',
    machine: true,
  },
  kernel: {
    roles: BOTH,
    parse: values.parsePath,
    value: 'path',
    default: undefined,
    defaultFrom: 'boot from disk',
    example: '/var/lib/colo/vmlinuz',
    purpose:
      "Guest kernel. On the secondary: its place there, where it differs from the primary's.",
  },
  initrd: {
    roles: BOTH,
    parse: values.parsePath,
    value: 'path',
    default: undefined,
    example: '/var/lib/colo/initrd.img',
    purpose: 'Initial RAM disk for `kernel`. On the secondary: its place there.',
  },
  append: {
    roles: PRIMARY,
    parse: values.parseText,
    value: 'text',
    default: undefined,
    example: 'root=/dev/vda rw console=ttyS0',
    purpose: 'Command line for `kernel`.',
    machine: true,
  },
  disk: {
    roles: BOTH,
    parse: parseDisk,
    value: 'path, name=path or name=,path=,format=,readonly=,shared=',
    default: undefined,
    defaultFrom: 'primary: none; secondary: `disk-dir`/VM-NAME.img',
    example: 'data=/var/lib/colo/web-data.img',
    purpose:
      'Disk image. On the primary it makes a guest disk, named disk0, disk1, ... unless named. On ' +
      'the secondary it says where the image of that name is. format= is raw or qcow2, each ' +
      "host's own; readonly=on keeps the guest from writing and is the primary's to say. With " +
      'shared=on on both hosts they see the same image (NFS, a cluster file system, a LUN): `colo ' +
      'migrate` hands it over instead of moving its content, and the guest has no secondary.',
    repeatable: true,
  },
  'disk-dir': {
    roles: SECONDARY,
    parse: values.parsePath,
    value: 'path',
    default: undefined,
    defaultFrom: '`state-dir`',
    example: '/var/lib/colo/images',
    purpose: 'Folder for the images of disks that no `disk` key names.',
  },
  nic: {
    roles: BOTH,
    parse: parseNic,
    value: 'name=,mac=,tap=,bridge=',
    default: undefined,
    defaultFrom: 'primary: one NIC when `bridge` is given, else none',
    example: 'name=lan,mac=52:54:00:12:34:56,tap=web0,bridge=br0',
    purpose:
      'Guest NIC, named nic0, nic1, ... unless named. On the secondary, name= says which NIC of ' +
      'the primary, tap= and bridge= what it is connected to there; mac= is refused.',
    repeatable: true,
  },
  bridge: {
    roles: BOTH,
    parse: values.parseInterfaceName,
    value: 'interface',
    default: undefined,
    defaultFrom: 'the TAP is left unconnected',
    example: 'br0',
    purpose: 'Bridge for every NIC that names none.',
  },
  'qemu-arg': {
    roles: BOTH,
    parse: values.parseText,
    value: 'text',
    default: undefined,
    example: '-no-user-config',
    purpose: 'One more argument for QEMU, as it stands. The same on both hosts, or they refuse.',
    repeatable: true,
  },
  mode: {
    roles: PRIMARY,
    parse: values.choiceParser(MODES),
    value: 'checkpoint or colo',
    default: 'colo',
    example: 'checkpoint',
    purpose:
      'Output policy: colo lets out what both guests say, the rest with the next checkpoint; ' +
      'checkpoint holds all output until its epoch is committed.',
  },
  period: {
    roles: PRIMARY,
    parse: parsePeriod,
    value: 'duration, 10ms to 60s, or auto',
    default: undefined,
    defaultFrom: '200ms in mode checkpoint, 1s in mode colo',
    example: '150ms',
    purpose:
      'Longest time from a resume to the next checkpoint; auto: shorter while the guests diverge ' +
      'often, longer while they agree (mode colo).',
  },
  'min-interval': {
    roles: PRIMARY,
    parse: duration(limits.MIN_INTERVAL_US_MIN, limits.MIN_INTERVAL_US_MAX),
    value: 'duration, 1ms to 60s',
    default: '100ms',
    example: '50ms',
    purpose: 'Shortest time from a resume to the next checkpoint; at most `period`.',
  },
  'compare-timeout': {
    roles: PRIMARY,
    parse: duration(limits.COMPARE_TIMEOUT_US_MIN, limits.COMPARE_TIMEOUT_US_MAX),
    value: 'duration, 1ms to 60s',
    default: '200ms',
    example: '100ms',
    purpose:
      'How long output waits for the SVM to say the same before it asks for a checkpoint; two round ' +
      'trips of the replication link come on top.',
  },
  'peer-timeout': {
    roles: BOTH,
    parse: duration(limits.PEER_TIMEOUT_US_MIN, limits.PEER_TIMEOUT_US_MAX),
    value: 'duration, 50ms to 60s',
    default: '500ms',
    example: '300ms',
    purpose: 'Silence after which the peer is lost. The same on both hosts.',
  },
  'hold-limit': {
    roles: BOTH,
    parse: duration(limits.HOLD_LIMIT_US_MIN, limits.HOLD_LIMIT_US_MAX),
    value: 'duration, 200ms to 10min',
    default: undefined,
    defaultFrom: 'ten times `peer-timeout`, 15s at most',
    example: '2s',
    purpose:
      'How long a checkpoint may take and hold output up; then the guest goes on without this ' +
      'secondary, and looks for it later.',
  },
  'heartbeat-interval': {
    roles: BOTH,
    parse: duration(limits.HEARTBEAT_INTERVAL_US_MIN, limits.HEARTBEAT_INTERVAL_US_MAX),
    value: 'duration, 1ms to 10s',
    default: '50ms',
    example: '20ms',
    purpose: 'Time between heartbeats; less than a third of `peer-timeout`.',
  },
  'heartbeat-path': {
    roles: BOTH,
    parse: parseHeartbeatPath,
    value: 'local=,peer=',
    default: undefined,
    defaultFrom: 'the replication link only',
    example: 'local=10.9.0.1,peer=10.9.0.2',
    purpose:
      'Second way for heartbeats: addresses of this host and of the peer on another network.',
  },
  gateway: {
    roles: BOTH,
    parse: values.parseIpAddress,
    value: 'IP address',
    default: undefined,
    defaultFrom: 'not asked',
    example: '10.0.0.254',
    purpose:
      "A host on the guest's LAN that answers pings: without an answer no take-over, and a guest " +
      'that the peer could serve goes there.',
  },
  witness: {
    roles: BOTH,
    parse: parseWitness,
    value: 'etcd://, file://, command: or none',
    default: 'none',
    example: 'etcd://10.0.0.3:2379',
    purpose: 'Who decides which host may be alone. The same on both hosts.',
  },
  'witness-ttl': {
    roles: BOTH,
    parse: duration(limits.WITNESS_TTL_US_MIN, limits.WITNESS_TTL_US_MAX),
    value: 'duration, 2s to 60s',
    default: '5s',
    example: '10s',
    purpose: 'Life of a grant of the witness. The same on both hosts.',
  },
  'witness-timeout': {
    roles: BOTH,
    parse: duration(limits.WITNESS_TIMEOUT_US_MIN, limits.WITNESS_TIMEOUT_US_MAX),
    value: 'duration, 100ms to 30s',
    default: '1s',
    example: '500ms',
    purpose: 'Longest wait for an answer of the witness; at most half of `witness-ttl`.',
  },
  'on-peer-loss': {
    roles: BOTH,
    parse: values.choiceParser(['failover', 'wait']),
    value: 'failover or wait',
    default: 'failover',
    example: 'wait',
    purpose: 'What a lost primary means: take over, or wait for `colo failover`.',
  },
  'on-guest-panic': {
    roles: PRIMARY,
    parse: values.choiceParser(GUEST_PANIC_ACTIONS),
    value: 'reset, poweroff or none',
    default: 'reset',
    example: 'poweroff',
    purpose:
      'What becomes of a guest whose kernel reports a panic (pvpanic): it is reset; ends, as if it ' +
      'had powered off; or is left to itself.',
  },
  'resync-rate': {
    roles: BOTH,
    parse: parseRate,
    value: 'size per second, from 1MiB',
    default: undefined,
    defaultFrom: 'no limit',
    example: '50MiB',
    purpose:
      'Most disk data that is sent in a second while a secondary is synchronised; of the host ' +
      'that runs the guest.',
  },
  'keep-ram': {
    roles: BOTH,
    parse: values.parseKeptRam,
    value: 'size, 1MiB to 1024GiB, or off',
    default: '8GiB',
    example: '2GiB',
    purpose:
      'Most disk space for the memory of a guest that was moved to another host: when it comes ' +
      'back, only what differs is sent. In `state-dir`, readable by root only. And most memory ' +
      'that stays in use while the host waits to be the secondary again of a guest that it has ' +
      'had; for the same end. off keeps none.',
  },
  'keep-ram-age': {
    roles: BOTH,
    parse: duration(limits.KEEP_RAM_AGE_US_MIN, limits.KEEP_RAM_AGE_US_MAX),
    value: 'duration, 1s to 2592000s',
    default: '86400s',
    example: '7200s',
    purpose: 'How long that memory is kept; by default a day.',
  },
  verify: {
    roles: PRIMARY,
    parse: values.parseBoolean,
    value: 'yes or no',
    default: 'no',
    example: 'yes',
    purpose: 'Compare digests of all guest RAM at checkpoints and when it moves; slow, for tests.',
    boolean: true,
  },
  tracker: {
    roles: BOTH,
    parse: values.choiceParser(['auto', 'userfaultfd', 'soft-dirty', 'compare']),
    value: 'auto, userfaultfd, soft-dirty or compare',
    default: 'auto',
    example: 'userfaultfd',
    purpose: 'How written pages are found; auto takes the first that this kernel can.',
  },
  'lan-announce': {
    roles: BOTH,
    parse: values.parseBoolean,
    value: 'yes or no',
    default: 'yes',
    example: 'no',
    purpose: 'Tell the LAN where the guest is after a failover (gratuitous ARP, unsolicited NA).',
    boolean: true,
  },
  'console-log': {
    roles: BOTH,
    parse: values.parsePath,
    value: 'path',
    default: undefined,
    defaultFrom: 'not kept',
    example: '/var/log/colo/web-console.log',
    purpose: "File for the output of the guest's serial console on this host.",
  },
  'transport-security': {
    roles: BOTH,
    parse: values.choiceParser(TRANSPORT_SECURITIES),
    value: 'tls or plain-trusted',
    default: 'tls',
    example: 'plain-trusted',
    purpose:
      'How the hosts talk: by mutual TLS 1.3; or plainly, on a link that nobody else can reach. ' +
      'The same on both hosts.',
  },
  'tls-ca': {
    roles: BOTH,
    parse: values.parsePath,
    value: 'path',
    default: `${PKI_DIR}/ca.crt`,
    example: '/etc/ssl/pair/ca.pem',
    purpose: 'Certificates of the CAs of which one has signed those of both hosts.',
  },
  'tls-certificate': {
    roles: BOTH,
    parse: values.parsePath,
    value: 'path',
    default: undefined,
    defaultFrom: `${PKI_DIR}/HOST.crt, HOST as \`host\` says`,
    example: '/etc/ssl/pair/hosta.pem',
    purpose: 'Certificate of this host.',
  },
  'tls-key': {
    roles: BOTH,
    parse: values.parsePath,
    value: 'path',
    default: undefined,
    defaultFrom: `${PKI_DIR}/HOST.key, HOST as \`host\` says`,
    example: '/etc/ssl/pair/hosta.key',
    purpose: 'Its key; a file that only its owner may read.',
  },
  'tls-peer-names': {
    roles: BOTH,
    parse: values.parsePeerNames,
    value: 'names with commas between them, or *',
    default: undefined,
    defaultFrom: 'the hosts of `peer` and `allow-peer`; without either *',
    example: 'hostb,10.0.0.2',
    purpose:
      "Names and addresses, one of which the other host's certificate must have; *: any that " +
      'the CA has signed.',
  },
  'run-dir': {
    roles: BOTH,
    parse: values.parsePath,
    value: 'path',
    default: '/run/colo',
    example: '/run/colo-test',
    purpose: 'Folder for sockets.',
  },
  socket: {
    roles: BOTH,
    parse: values.parsePath,
    value: 'path',
    default: undefined,
    defaultFrom: '`run-dir`/VM.sock',
    example: '/run/colo/web.sock',
    purpose: 'Control socket, at most 107 bytes.',
  },
  'state-dir': {
    roles: BOTH,
    parse: values.parsePath,
    value: 'path',
    default: '/var/lib/colo',
    example: '/srv/colo',
    purpose: 'Folder for what must outlive the agent.',
  },
  'log-level': {
    roles: BOTH,
    parse: values.choiceParser(['debug', 'info', 'warn', 'error']),
    value: 'debug, info, warn or error',
    default: 'info',
    example: 'debug',
    purpose: 'Least important line that is logged.',
  },
  'log-format': {
    roles: BOTH,
    parse: values.choiceParser(['text', 'json']),
    value: 'text or json',
    default: 'text',
    example: 'json',
    purpose: 'Form of the log lines on stderr.',
  },
} as const satisfies Record<string, KeyDefinition>;

/** The name of a key. */
export type Key = keyof typeof KEYS;

/** What the grammar of a key gives. */
export type KeyValue<K extends Key> = ReturnType<(typeof KEYS)[K]['parse']>;

/** All key names, in the order of the table. */
export const KEY_NAMES = Object.keys(KEYS) as readonly Key[];

/** The entry of a key in its general form. */
export function keyDefinition(key: Key): KeyDefinition {
  return KEYS[key];
}

/** Whether `name` is a key at all; which role takes it is another question. */
export function isKey(name: string): name is Key {
  return Object.hasOwn(KEYS, name);
}

/** The key that was probably meant by a wrong name: two edits away, one if it is short. */
export function nearestKey(name: string, role: Role): Key | undefined {
  if (name.length > 30) return undefined;
  const candidates = KEY_NAMES.filter((key) => keyDefinition(key).roles.includes(role))
    .map((key) => ({ key, distance: editDistance(name, key) }))
    .sort((a, b) => a.distance - b.distance);
  const best = candidates[0];
  const distanceMax = Math.min(2, Math.floor(name.length / 2));
  return best !== undefined && best.distance <= distanceMax ? best.key : undefined;
}

/** Levenshtein's distance, one row at a time. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
