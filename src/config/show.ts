/**
 * The configuration in words: what `--check-config` prints, which is itself a configuration file
 * that gives the same configuration again, and what `--help` prints.
 */
import type { Configuration } from './configuration.js';
import { formatDisk, formatNic } from './devices.js';
import { formatDuration } from './duration.js';
import { KEY_NAMES, type Key, keyDefinition, type Role } from './keys.js';
import { formatPeriod } from './mode.js';
import { formatAddress, formatKeptRam, formatMemory } from './values.js';
import { formatWitness } from './witness.js';

const HELP_WIDTH = 96;

/** The effective configuration as a file; keys without a value stand in comments. */
export function formatConfiguration(configuration: Configuration): string {
  const shown = showValues(configuration);
  const lines: string[] = [];
  for (const key of KEY_NAMES) {
    if (!keyDefinition(key).roles.includes(configuration.role)) continue;
    const value = shown[key];
    const values = Array.isArray(value) ? value : value === undefined ? [] : [value];
    if (values.length === 0) lines.push(`# ${key} is not set`);
    for (const text of values) lines.push(`${key} = ${text}`);
  }
  return `${lines.join('\n')}\n`;
}

/** The whole `--help` of a daemon. */
export function formatHelp(role: Role): string {
  const lines = [
    `colo-${role}: runs the ${role === 'primary' ? 'PVM' : 'SVM'} of one protected VM on this host`,
    '',
    `Usage: colo-${role} [--config FILE] [--KEY VALUE]...`,
    '',
    '  --config FILE   read KEY = VALUE lines; flags win over the file',
    `                  default: $COLO_CONFIG, else /etc/colo/${role}.conf if it is there`,
    '  --check-config  print the effective configuration and exit; "colo check-config FILE" also',
    '                  looks at what it names on this host',
    '  --version       print the version and exit',
    '  --help          print this and exit',
    '',
    'Keys, as flags or in the file:',
  ];
  for (const key of KEY_NAMES) {
    const definition = keyDefinition(key);
    if (!definition.roles.includes(role)) continue;
    const fallback = definition.default ?? definition.defaultFrom ?? 'none';
    const repeat = definition.repeatable === true ? '; may be repeated' : '';
    lines.push(`  --${key} (${definition.value}${repeat})`);
    const text = `${definition.purpose} Default: ${fallback}.`;
    lines.push(...wrap(text, HELP_WIDTH).map((line) => `      ${line}`));
  }
  lines.push('', `As a service: systemctl start colo-${role}@VM, which reads /etc/colo/VM.conf.`);
  lines.push(`Manual: colo-${role}(8), colo.conf(5); exit codes are in the former.`);
  return `${lines.join('\n')}\n`;
}

function showValues(c: Configuration): Partial<Record<Key, string | string[] | undefined>> {
  const common = {
    vm: c.vm,
    host: c.host,
    peer: c.peer === undefined ? undefined : formatAddress(c.peer),
    listen: formatAddress(c.listen),
    'allow-peer': c.allowPeer,
    bridge: c.bridge,
    tracker: c.tracker,
    'peer-timeout': formatDuration(c.peerTimeoutUs),
    'hold-limit': formatDuration(c.holdLimitUs),
    'heartbeat-interval': formatDuration(c.heartbeatIntervalUs),
    'heartbeat-path':
      c.heartbeatPath && `local=${c.heartbeatPath.local},peer=${c.heartbeatPath.peer}`,
    gateway: c.gateway,
    witness: formatWitness(c.witness),
    'witness-ttl': formatDuration(c.witnessTtlUs),
    'witness-timeout': formatDuration(c.witnessTimeoutUs),
    'on-peer-loss': c.onPeerLoss,
    'resync-rate':
      c.resyncBytesPerSecond === undefined ? undefined : formatMemory(c.resyncBytesPerSecond),
    'keep-ram': formatKeptRam(c.keepRamBytes),
    'keep-ram-age': formatDuration(c.keepRamAgeUs),
    'lan-announce': c.lanAnnounce ? 'yes' : 'no',
    'both-roles': c.bothRoles ? 'yes' : 'no',
    'console-log': c.consoleLog,
    'transport-security': c.security.transport,
    'tls-ca': c.security.ca,
    'tls-certificate': c.security.certificate,
    'tls-key': c.security.key,
    'tls-peer-names': c.security.peerNames.join(','),
    'run-dir': c.runDir,
    socket: c.socketPath,
    'state-dir': c.stateDir,
    'log-level': c.logLevel,
    'log-format': c.logFormat,
    disk: c.disks.map(formatDisk),
    nic: c.nics.map(formatNic),
  };
  if (c.role === 'secondary') {
    return {
      ...common,
      'qemu-arg': [...c.qemuArguments],
      'disk-dir': c.diskDir,
      kernel: c.kernel,
      initrd: c.initrd,
    };
  }
  return {
    ...common,
    memory: formatMemory(c.machine.memoryBytes),
    vcpus: String(c.machine.vcpus),
    accel: c.machine.accelerator,
    machine: c.machine.machine,
    cpu: c.machine.cpu,
    kernel: c.machine.kernel,
    initrd: c.machine.initrd,
    append: c.machine.append,
    'qemu-arg': [...c.machine.qemuArguments],
    mode: c.mode,
    period: c.periodUs === undefined ? undefined : formatPeriod(c.periodUs),
    'min-interval': formatDuration(c.minIntervalUs),
    'compare-timeout': formatDuration(c.compareTimeoutUs),
    'on-guest-panic': c.onGuestPanic,
    verify: c.verify ? 'yes' : 'no',
  };
}

function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else {
      line = line === '' ? word : `${line} ${word}`;
    }
  }
  return [...lines, line];
}
