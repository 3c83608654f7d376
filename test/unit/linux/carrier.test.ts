/** The way to the gateway and its cable, in a folder that looks like sysfs. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import type { NetworkInterfaceInfo } from 'node:os';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { Uplink } from '../../../src/linux/index.js';

const MAC = '02:00:00:00:00:01';

function address(cidr: string, mac = MAC): NetworkInterfaceInfo {
  const [text = ''] = cidr.split('/');
  const family = text.includes(':') ? 'IPv6' : 'IPv4';
  const rest = family === 'IPv6' ? { scopeid: 0 } : {};
  return { address: text, netmask: '', family, mac, internal: false, cidr, ...rest } as never;
}

/** Files by path below /sys/class/net. */
function sysfs(t: ExecutionContext, files: Readonly<Record<string, string>>) {
  const classNet = mkdtempSync(join(tmpdir(), 'colo-test-sysfs-'));
  t.teardown(() => rmSync(classNet, { recursive: true }));
  const write = (path: string, text: string): void => {
    const full = join(classNet, path);
    mkdirSync(join(full, '..'), { recursive: true });
    writeFileSync(full, text);
  };
  for (const [path, text] of Object.entries(files)) write(path, text);
  return { classNet, write };
}

test('the interface is the one with the narrowest subnet around the address', (t) => {
  const { classNet } = sysfs(t, { 'a/address': MAC, 'b/address': MAC, 'c/address': MAC });
  const interfaces = () => ({
    lo: [{ ...address('10.0.0.1/8'), internal: true }],
    a: [address('10.0.0.5/16'), address('fd00::5/64')],
    b: [address('10.0.7.5/24')],
    c: [address('192.168.0.5/24')],
  });
  const nameOf = (to: string) => Uplink.towards(to, { interfaces, classNet })?.name;
  t.is(nameOf('10.0.7.1'), 'b');
  t.is(nameOf('10.0.8.1'), 'a');
  t.is(nameOf('fd00::1'), 'a');
  t.is(nameOf('fd01::1'), undefined);
  t.is(nameOf('172.16.0.1'), undefined);
});

test('an interface of the same name in another namespace is not looked at', (t) => {
  const { classNet } = sysfs(t, { 'a/address': '02:00:00:00:00:02', 'a/carrier': '0' });
  const interfaces = () => ({ a: [address('10.0.0.5/24')], b: [address('10.0.1.5/24')] });
  t.is(Uplink.towards('10.0.0.1', { interfaces, classNet }), undefined);
  t.is(Uplink.towards('10.0.1.1', { interfaces, classNet }), undefined);
});

test('a plain interface has its own carrier', (t) => {
  const { classNet, write } = sysfs(t, { 'a/address': MAC, 'a/carrier': '1\n' });
  const interfaces = () => ({ a: [address('10.0.0.5/24')] });
  const uplink = Uplink.towards('10.0.0.1', { interfaces, classNet });
  t.true(uplink?.hasCarrier());
  write('a/carrier', '0\n');
  t.false(uplink?.hasCarrier());
  rmSync(join(classNet, 'a'), { recursive: true });
  t.is(uplink?.hasCarrier(), undefined);
});

test('a bridge has that of its ports, which are no TAPs', (t) => {
  const { classNet, write } = sysfs(t, {
    'br0/address': MAC,
    'br0/carrier': '1\n',
    'br0/brif/tap0': '',
    'tap0/tun_flags': '0x1002\n',
    'tap0/carrier': '1\n',
  });
  const interfaces = () => ({ br0: [address('10.0.0.5/24')] });
  const uplink = Uplink.towards('10.0.0.1', { interfaces, classNet });
  t.is(uplink?.hasCarrier(), undefined, 'it has none: it may be routed');
  for (const port of ['eth0', 'eth1']) {
    write(`br0/brif/${port}`, '');
    write(`${port}/carrier`, '1\n');
  }
  t.true(uplink?.hasCarrier());
  write('eth0/carrier', '0\n');
  t.true(uplink?.hasCarrier());
  write('eth1/carrier', '0\n');
  t.false(uplink?.hasCarrier());
});
