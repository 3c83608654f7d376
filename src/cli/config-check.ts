/**
 * `colo check-config`: everything about a configuration file that can be known without starting.
 * The grammar first (src/config); a file without mistakes is then held against this host.
 *
 *   file -> resolveConfiguration -> Configuration -> rules below, each asks `Host` -> findings
 *
 * A finding is one line: `FILE:LINE: KEY: found X, expected Y; advice`. An error would keep the
 * agent from starting, or the pair from its work; a warning would not. While an agent of this VM
 * runs, what it has taken (TAPs, the port, its images' locks) is not held against it.
 */
import {
  type Configuration,
  ConfigurationError,
  defaultTap,
  formatAddress,
  formatMemory,
  type Key,
  quote,
  type Role,
  readSettingsFile,
  resolveConfiguration,
} from '../config/index.js';
import type { Host, PathFacts } from './config-check-host.js';

export interface Finding {
  readonly level: 'error' | 'warning';
  /** The key it is about; null when it is about the file or the host as a whole. */
  readonly key: string | null;
  /** The whole line. */
  readonly line: string;
}

/** What is to be said of one file. */
export interface FileReport {
  readonly file: string;
  readonly role: Role;
  readonly findings: readonly Finding[];
}

const QEMU = 'qemu-system-x86_64';
/** `snapshot-load` is QEMU 6.0's; nothing below is of use to us. */
const QEMU_MAJOR_MIN = 6;
const SECTOR_BYTES = 512;
const QCOW2_MAGIC = 'QFI\xfb';

/** Checks one file. Without a role the one that the file fits better is taken. */
export async function checkConfigFile(
  file: string,
  wanted: Role | undefined,
  host: Host,
): Promise<FileReport> {
  const readings = (wanted === undefined ? (['primary', 'secondary'] as const) : [wanted])
    .map((role) => readAs(file, role, host))
    .sort((a, b) => a.findings.length - b.findings.length);
  const [reading] = readings as [Reading, ...Reading[]];
  const { role, configuration } = reading;
  if (configuration === undefined) return { file, role, findings: reading.findings };
  const check = new HostCheck(file, configuration, host);
  await check.run();
  return { file, role, findings: check.findings };
}

interface Reading {
  readonly role: Role;
  readonly configuration: Configuration | undefined;
  readonly findings: readonly Finding[];
}

function readAs(file: string, role: Role, host: Host): Reading {
  const source = { role, argv: ['--config', file], env: {}, hostname: host.hostname };
  try {
    const configuration = resolveConfiguration({ ...source, readFile: host.readFile });
    return { role, configuration, findings: [] };
  } catch (error) {
    if (!(error instanceof ConfigurationError)) throw error;
    const findings = error.problems.map(
      ({ line, key = null }) => ({ level: 'error', key, line }) as const,
    );
    return { role, configuration: undefined, findings };
  }
}

/** One right configuration against one host. */
class HostCheck {
  readonly findings: Finding[] = [];
  readonly #file: string;
  readonly #configuration: Configuration;
  readonly #host: Host;
  #running = false;

  constructor(file: string, configuration: Configuration, host: Host) {
    this.#file = file;
    this.#configuration = configuration;
    this.#host = host;
  }

  async run(): Promise<void> {
    const configuration = this.#configuration;
    this.#running = await this.#host.agentRuns(configuration.socketPath);
    await this.#checkRights();
    await this.#checkFolders();
    await this.#checkNetwork();
    await this.#checkPeer();
    this.#checkSecurity();
    await this.#checkDisks();
    for (const key of ['kernel', 'initrd'] as const) {
      const path =
        configuration.role === 'primary' ? configuration.machine[key] : configuration[key];
      if (path !== undefined) await this.#mustBeReadable(key, path);
    }
    await this.#checkQemu();
    this.#checkMemory();
    this.#checkTracker();
  }

  /** `text` is `found ..., expected ...; advice`; `value` tells one of a repeated key's. */
  #tell(level: Finding['level'], key: Key | null, text: string, value?: string): void {
    const place = key === null ? this.#file : this.#place(key, value);
    this.findings.push({ level, key, line: `${place}: ${text}` });
  }

  #place(key: Key, value: string | undefined): string {
    const bytes = this.#host.readFile(this.#file) ?? new Uint8Array();
    const settings = readSettingsFile(this.#file, bytes, this.#configuration.role).settings;
    const of = settings.filter((setting) => setting.key === key);
    const meant = of.find(({ text }) => value !== undefined && text.includes(value)) ?? of[0];
    return meant?.place ?? `${this.#file}: ${key}`;
  }

  async #checkRights(): Promise<void> {
    if (this.#host.userId !== 0) {
      const found = `found user id ${this.#host.userId}, expected root`;
      this.#tell('warning', null, `${found}; what follows holds for this user, not for the agent`);
    }
    if (!(await this.#host.preloadExists())) {
      const advice = 'install colo again, or build it with make -C native';
      this.#tell('error', null, `found no preload library, expected one beside colo; ${advice}`);
    }
  }

  async #checkFolders(): Promise<void> {
    const { runDir, stateDir, consoleLog, role } = this.#configuration;
    await this.#mustTakeFiles('run-dir', runDir);
    await this.#mustTakeFiles('state-dir', stateDir);
    if (consoleLog !== undefined) {
      await this.#mustTakeFiles('console-log', parentOf(consoleLog), 'existing');
    }
    if (role === 'secondary' && this.#configuration.diskDir !== stateDir) {
      await this.#mustTakeFiles('disk-dir', this.#configuration.diskDir);
    }
  }

  async #checkNetwork(): Promise<void> {
    const { vm, nics, bridge, role } = this.#configuration;
    if (role === 'primary' && nics.length === 0) return;
    if (!(await this.#host.inspect('/dev/net/tun'))?.writable) {
      const expected = 'expected a device to read and write';
      this.#tell('error', 'nic', `found no usable /dev/net/tun, ${expected}; run modprobe tun`);
    }
    const bridges = new Map<string, Key>();
    if (bridge !== undefined) bridges.set(bridge, 'bridge');
    for (const nic of nics) {
      if (nic.bridge !== undefined && !bridges.has(nic.bridge)) bridges.set(nic.bridge, 'nic');
      await this.#mustBeFree(nic.tap ?? defaultTap(vm, nic.name));
    }
    for (const [name, key] of bridges) await this.#mustBeBridge(key, name);
    if (bridges.size > 0 && (await this.#host.run('ip', ['-V'])) === undefined) {
      this.#tell('error', null, 'found no command ip, expected it; install iproute2');
    }
  }

  async #mustBeFree(tap: string): Promise<void> {
    if (this.#running || (await this.#host.interfaceKind(tap)) === undefined) return;
    const text = `found an interface ${quote(tap)}, expected none of that name`;
    this.#tell('error', 'nic', `${text}; stop what uses it or choose another tap=`, tap);
  }

  async #mustBeBridge(key: Key, name: string): Promise<void> {
    const kind = await this.#host.interfaceKind(name);
    if (kind === 'bridge') return;
    const found = kind === undefined ? `no interface ${quote(name)}` : `${quote(name)}, no bridge`;
    const advice = `name the bridge that leads to the clients, or make it`;
    this.#tell('error', key, `found ${found}, expected a bridge; ${advice}`, name);
  }

  async #checkPeer(): Promise<void> {
    const configuration = this.#configuration;
    const own = this.#host.addresses();
    if (configuration.role === 'primary') {
      await this.#mustBeElsewhere('peer', configuration.peer.host, own);
      return;
    }
    const { listen, allowPeer } = configuration;
    if (allowPeer !== undefined) await this.#mustBeElsewhere('allow-peer', allowPeer, own);
    if (this.#running) return;
    const reason = await this.#host.listenError(listen);
    if (reason !== undefined) {
      const text = `found ${formatAddress(listen)} (${reason}), expected an address to listen on`;
      this.#tell('error', 'listen', `${text}; use one of this host, or end what has the port`);
    }
  }

  #checkSecurity(): void {
    for (const { level, key, text } of this.#host.securityFindings(this.#configuration)) {
      this.#tell(level, key, text);
    }
  }

  async #mustBeElsewhere(key: Key, name: string, own: readonly string[]): Promise<void> {
    const addresses = await this.#host.resolve(name);
    if (addresses.length === 0) {
      const advice = 'correct it, or add it to /etc/hosts';
      this.#tell('error', key, `found ${quote(name)}, expected a name with an address; ${advice}`);
    } else if (addresses.some((address) => own.includes(address))) {
      const text = `found ${quote(name)}, which is this host, expected the other one`;
      this.#tell('error', key, `${text}; name the peer`);
    }
  }

  async #checkDisks(): Promise<void> {
    const { disks, role } = this.#configuration;
    for (const { path, shared } of disks) {
      const facts = await this.#host.inspect(path);
      // The first synchronisation makes the secondary's images, but not what is the other host's.
      if (facts === undefined && role === 'secondary' && shared !== true) {
        await this.#mustTakeFiles('disk', parentOf(path), 'existing', path);
        continue;
      }
      const wrong = wrongWithImage(facts);
      if (wrong !== undefined) this.#tell('error', 'disk', `found ${quote(path)} ${wrong}`, path);
    }
  }

  async #mustBeReadable(key: Key, path: string): Promise<void> {
    const facts = await this.#host.inspect(path);
    if (facts?.kind === 'file' && facts.readable && facts.sizeBytes > 0) return;
    const wrong =
      facts === undefined
        ? 'that is not there'
        : facts.kind !== 'file'
          ? `that is a ${facts.kind}`
          : facts.sizeBytes === 0
            ? 'that is empty'
            : 'that can not be read';
    const text = `found ${quote(path)} ${wrong}, expected a readable file; correct it`;
    this.#tell('error', key, text);
  }

  /** A folder, or, unless it must be `existing`, a place where one can be made. */
  async #mustTakeFiles(key: Key, folder: string, must?: 'existing', value?: string): Promise<void> {
    let place = folder;
    let facts = await this.#host.inspect(place);
    while (facts === undefined && must === undefined && place !== '/') {
      place = parentOf(place);
      facts = await this.#host.inspect(place);
    }
    if (facts?.kind === 'folder' && facts.writable) return;
    const wrong =
      facts === undefined
        ? 'is not there'
        : facts.kind !== 'folder'
          ? 'is no folder'
          : 'can not be written to';
    const text = `found ${quote(place)}, which ${wrong}, expected a folder for files`;
    this.#tell('error', key, `${text}; make it, or name another`, value);
  }

  async #checkQemu(): Promise<void> {
    const configuration = this.#configuration;
    const text = await this.#host.run(QEMU, ['--version']);
    const version = /version (\d+)\.[\d.]+/.exec(text ?? '');
    if (version === null || Number(version[1]) < QEMU_MAJOR_MIN) {
      const found = version === null ? `no ${QEMU} that runs` : `QEMU ${version[0].slice(8)}`;
      const expected = `expected ${QEMU_MAJOR_MIN}.0 or newer; install qemu-system-x86`;
      this.#tell('error', null, `found ${found}, ${expected}`);
      return;
    }
    if (configuration.role === 'secondary') return;
    const { accelerator, machine, cpu } = configuration.machine;
    const kvm = (await this.#host.inspect('/dev/kvm'))?.writable === true;
    if (accelerator === 'kvm' && !kvm) {
      const expected = 'expected it for accel kvm';
      this.#tell('error', 'accel', `found no usable /dev/kvm, ${expected}; use auto or tcg`);
    }
    const machines = (await this.#host.run(QEMU, ['-machine', 'help'])) ?? '';
    if (!machines.split('\n').some((line) => line.split(/\s/, 1)[0] === machine)) {
      const advice = `see ${QEMU} -machine help`;
      const expected = 'expected a machine type of this QEMU';
      this.#tell('error', 'machine', `found ${quote(machine)}, ${expected}; ${advice}`);
    }
    const model = cpu?.split(',', 1)[0];
    const models = (await this.#host.run(QEMU, ['-cpu', 'help'])) ?? '';
    if (model !== undefined && !models.split('\n').some((line) => isModel(line, model))) {
      const advice = `see ${QEMU} -cpu help`;
      this.#tell('error', 'cpu', `found ${quote(model)}, expected a CPU of this QEMU; ${advice}`);
    }
  }

  #checkMemory(): void {
    const configuration = this.#configuration;
    if (configuration.role === 'secondary') return;
    const { memoryBytes } = configuration.machine;
    const total = this.#host.memoryBytes;
    if (memoryBytes < total) return;
    const has = `less than the ${formatMemory(Math.floor(total / 1024 ** 2) * 1024 ** 2)} of this`;
    const found = `found ${formatMemory(memoryBytes)}`;
    this.#tell('error', 'memory', `${found}, expected ${has} host; lower it`);
  }

  #checkTracker(): void {
    const { tracker } = this.#configuration;
    if (tracker === 'compare') return;
    const userfaultfd = this.#host.trackerReason('userfaultfd');
    if (tracker !== 'soft-dirty' && userfaultfd === undefined) return;
    const softDirty = this.#host.trackerReason('soft-dirty');
    if (tracker === 'soft-dirty' && softDirty === undefined) return;
    const reason = tracker === 'soft-dirty' ? softDirty : userfaultfd;
    const found = `found no ${tracker === 'auto' ? 'userfaultfd' : tracker} (${reason})`;
    if (tracker !== 'auto') {
      this.#tell('error', 'tracker', `${found}, expected a kernel that has it; use auto`);
      return;
    }
    const second = softDirty === undefined ? 'soft-dirty' : 'compare';
    const expected = 'expected it for short pauses';
    this.#tell('warning', 'tracker', `${found}, ${expected}; ${second} is used, Linux 6.7 has it`);
  }
}

function wrongWithImage(facts: PathFacts | undefined): string | undefined {
  const expected = 'expected a raw image to read and write';
  if (facts === undefined) return `that is not there, ${expected}; make it or correct the path`;
  if (facts.kind !== 'file' && facts.kind !== 'block device') {
    return `that is a ${facts.kind}, ${expected}; correct the path`;
  }
  if (!facts.readable || !facts.writable) {
    return `that can not be ${facts.readable ? 'written' : 'read'}, ${expected}; change its mode`;
  }
  if (facts.head.startsWith(QCOW2_MAGIC)) {
    return `in qcow2, ${expected}; convert it with qemu-img convert -O raw`;
  }
  if (facts.sizeBytes === 0 || facts.sizeBytes % SECTOR_BYTES !== 0) {
    const size = `of ${facts.sizeBytes} bytes`;
    return `${size}, expected whole sectors of ${SECTOR_BYTES}; set it with truncate -s`;
  }
  return undefined;
}

/** A line is `x86 qemu64  (alias ...)`; model `host` is shown only under KVM. */
function isModel(line: string, model: string): boolean {
  return model === 'host' || model === 'max' || line.split(/\s+/)[1] === model;
}

function parentOf(path: string): string {
  return path.replace(/\/+[^/]*\/*$/, '') || '/';
}

/** The files to check when none is named. */
export function filesToCheck(named: readonly string[], listed: readonly string[]): string[] {
  if (named.length > 0) return [...named];
  return listed.filter((name) => name.endsWith('.conf')).map((name) => `/etc/colo/${name}`);
}
