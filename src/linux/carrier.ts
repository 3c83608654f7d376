/**
 * Whether a cable is plugged in: the carrier of the interface that a host of the own network is
 * reached by; of a bridge, that of its ports. What leads into a guest is no cable.
 *
 * Source: Documentation/ABI/testing/sysfs-class-net of Linux. It shows the network namespace in
 * which it was mounted, which a container may have gone without: an interface of another one, with
 * another hardware address, is not looked at.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { BlockList, isIPv6 } from 'node:net';
import { networkInterfaces } from 'node:os';

const CLASS_NET = '/sys/class/net';

export interface UplinkOptions {
  readonly interfaces?: typeof networkInterfaces;
  readonly classNet?: string;
}

export class Uplink {
  readonly name: string;
  readonly #classNet: string;

  /** Undefined if no interface of this host has the address in its subnet. */
  static towards(
    address: string,
    { interfaces = networkInterfaces, classNet = CLASS_NET }: UplinkOptions = {},
  ): Uplink | undefined {
    let best: { name: string; mac: string; bits: number } | undefined;
    for (const [name, addresses = []] of Object.entries(interfaces())) {
      for (const { cidr, mac, internal } of addresses) {
        if (internal || cidr === null || !isWithin(address, cidr)) continue;
        const bits = Number(cidr.split('/')[1]);
        if (best === undefined || bits > best.bits) best = { name, mac, bits };
      }
    }
    if (best === undefined) return undefined;
    const isSame = read(`${classNet}/${best.name}/address`) === best.mac;
    return isSame ? new Uplink(best.name, classNet) : undefined;
  }

  private constructor(name: string, classNet: string) {
    this.name = name;
    this.#classNet = classNet;
  }

  /** False only if surely nothing is plugged in; undefined if it can't be told. */
  hasCarrier(): boolean | undefined {
    const states = this.#ports().map((port) => this.#carrierOf(port));
    if (states.includes(true)) return true;
    return states.includes(undefined) || states.length === 0 ? undefined : false;
  }

  #ports(): string[] {
    const ports = `${this.#classNet}/${this.name}/brif`;
    if (!existsSync(ports)) return [this.name];
    return readdirSync(ports).filter((port) => !existsSync(`${this.#classNet}/${port}/tun_flags`));
  }

  #carrierOf(port: string): boolean | undefined {
    try {
      return readFileSync(`${this.#classNet}/${port}/carrier`, 'latin1').trim() !== '0';
    } catch (error) {
      // So the kernel answers for an interface that is switched off.
      return (error as NodeJS.ErrnoException).code === 'EINVAL' ? false : undefined;
    }
  }
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'latin1').trim();
  } catch {
    return undefined;
  }
}

function isWithin(address: string, cidr: string): boolean {
  const [network = '', bits = ''] = cidr.split('/');
  if (isIPv6(address) !== isIPv6(network)) return false;
  const family = isIPv6(network) ? 'ipv6' : 'ipv4';
  const list = new BlockList();
  list.addSubnet(network, Number(bits), family);
  return list.check(address, family);
}
