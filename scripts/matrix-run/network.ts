/**
 * What the fault matrix does to the lab's networks: a third network for the witness, links that are
 * cut, and a second way between the hosts on which frames are lost or late. A host's frames take
 * that way by a route of its own, so that weather has a direction.
 */
import { join } from 'node:path';
import { Child, run } from '../harness/child.js';
import { type Cleanup, withDeadline } from '../harness/cleanup.js';
import { type HostName, type Namespace, REPLICATION_ADDRESS } from '../harness/lab.js';
import type { PairLab } from '../harness/pair-lab.js';
import type { Weather } from './bad-link.js';

/** In the LAN's namespace, where etcd runs: a machine of its own. */
export const WITNESS_ADDRESS = '10.99.0.1';
const HOSTS = { hosta: 2, hostb: 3 } as const;
const HOST_NAMES = ['hosta', 'hostb'] as const;
const BAD = 'bad0';
const START_DEADLINE_MS = 20_000;

/** Wires of a host: replication link, LAN, the way to the witness. */
export type Wire = 'repl0' | 'lan0' | 'witness0';
export const WIRES: readonly Wire[] = ['repl0', 'lan0', 'witness0'];

export class MatrixNetwork {
  readonly #pair: PairLab;
  readonly #relay: Child;

  private constructor(pair: PairLab, relay: Child) {
    this.#pair = pair;
    this.#relay = relay;
  }

  static async up(pair: PairLab, cleanup: Cleanup, seed: number): Promise<MatrixNetwork> {
    await addWitnessNetwork(pair);
    return new MatrixNetwork(pair, await startRelay(pair, cleanup, seed));
  }

  /** A wire that comes back has its addresses, and its routes to neighbours. */
  async setWire(host: HostName, wire: Wire, state: 'up' | 'down'): Promise<void> {
    await ip(this.#pair.lab[host], 'link', 'set', wire, state);
  }

  /** What is behind the host's plug on the LAN: nothing, or the others. The plug stays in. */
  async setLan(host: HostName, state: 'silent' | 'connected'): Promise<void> {
    const bridge = state === 'silent' ? ['nomaster'] : ['master', 'br-lan'];
    await ip(this.#pair.lab.lan, 'link', 'set', `p-${host}`, ...bridge);
  }

  /** From now on the host's frames to the other one have this weather. */
  async spoil(host: HostName, weather: Weather): Promise<void> {
    this.#relay.writeLine(JSON.stringify(weather));
    const [from, to] = [REPLICATION_ADDRESS[host], REPLICATION_ADDRESS[otherOf(host)]];
    await ip(this.#pair.lab[host], 'route', 'replace', `${to}/32`, 'dev', BAD, 'src', from);
  }

  /** All of both hosts is as it was at the beginning. */
  async mend(): Promise<void> {
    for (const host of HOST_NAMES) {
      for (const wire of WIRES) await this.setWire(host, wire, 'up');
      await this.setLan(host, 'connected');
      const namespace = this.#pair.lab[host];
      const to = `${REPLICATION_ADDRESS[otherOf(host)]}/32`;
      // There is none but after `spoil`.
      await ip(namespace, 'route', 'del', to, 'dev', BAD).catch(() => undefined);
    }
  }
}

export function otherOf(host: HostName): HostName {
  return host === 'hosta' ? 'hostb' : 'hosta';
}

async function addWitnessNetwork({ lab }: PairLab): Promise<void> {
  await ip(lab.lan, 'link', 'add', 'br-witness', 'type', 'bridge', 'forward_delay', '0');
  await ip(lab.lan, 'address', 'add', `${WITNESS_ADDRESS}/24`, 'dev', 'br-witness');
  await ip(lab.lan, 'link', 'set', 'br-witness', 'up');
  for (const host of HOST_NAMES) {
    const [port, wire] = [`w-${host}`, 'witness0'];
    const veth = ['type', 'veth', 'peer', 'name', wire, 'netns', lab[host].name];
    await ip(lab.lan, 'link', 'add', port, ...veth);
    await ip(lab.lan, 'link', 'set', port, 'master', 'br-witness', 'up');
    await ip(lab[host], 'address', 'add', `10.99.0.${HOSTS[host]}/24`, 'dev', wire);
    await ip(lab[host], 'link', 'set', wire, 'up');
  }
}

async function startRelay(pair: PairLab, cleanup: Cleanup, seed: number): Promise<Child> {
  const { lab } = pair;
  let tellReady: () => void = () => undefined;
  const ready = new Promise<void>((resolve) => {
    tellReady = resolve;
  });
  const taps = { hosta: 'bad-hosta', hostb: 'bad-hostb' } as const;
  const relay = new Child({
    name: 'bad link',
    command: [
      ...lab.lan.enter,
      ...[process.execPath, join(pair.buildDir, 'scripts/matrix-run/bad-link.js')],
      ...[taps.hosta, taps.hostb, String(seed)],
    ],
    logPath: join(pair.directory, 'bad-link.log'),
    onLine: () => tellReady(),
  });
  cleanup.add(relay.name, async () => void (await relay.stop()));
  await withDeadline(ready, START_DEADLINE_MS, 'The bad link');
  for (const host of HOST_NAMES) {
    await ip(lab.lan, 'link', 'set', taps[host], 'netns', lab[host].name, 'name', BAD);
    await ip(lab[host], 'link', 'set', BAD, 'address', hardwareAddress(host), 'up');
  }
  // An answer of the other host's could be lost like anything else.
  for (const host of HOST_NAMES) {
    const neighbour = [
      REPLICATION_ADDRESS[otherOf(host)],
      'lladdr',
      hardwareAddress(otherOf(host)),
    ];
    await ip(lab[host], 'neighbour', 'replace', ...neighbour, 'dev', BAD, 'nud', 'permanent');
  }
  return relay;
}

function hardwareAddress(host: HostName): string {
  return `02:c0:10:bb:00:0${HOSTS[host]}`;
}

async function ip(namespace: Namespace, ...command: readonly string[]): Promise<void> {
  await run(['ip', '-n', namespace.name, ...command]);
}
