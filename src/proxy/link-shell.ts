/**
 * Configures a TAP's host side through iproute2: into the bridge, queue length, up. All of it is
 * start-up work, done before the guest runs; at a failover nothing here is needed, because a port
 * that joins a bridge then would wait out the bridge's forward delay.
 */
import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { OperatorError } from '../lib/index.js';
import { TAP_QUEUE_FRAMES } from './limits.js';

const run = promisify(execFile);

/** Sets the TAP up with our queue length. */
export async function bringUp(tapName: string, mtu?: number): Promise<void> {
  await silenceHostIpv6(tapName);
  const settings = mtu === undefined ? [] : ['mtu', String(mtu)];
  await ip(['link', 'set', 'dev', tapName, 'txqueuelen', String(TAP_QUEUE_FRAMES), ...settings]);
  await ip(['link', 'set', 'dev', tapName, 'up']);
}

/** Makes the TAP a port of `bridge`. Throws `OperatorError` unless that is an existing bridge. */
export async function attachToBridge(tapName: string, bridge: string): Promise<void> {
  const kind = await linkKind(bridge);
  if (kind !== 'bridge') {
    throw new OperatorError(
      'COLO_E_BRIDGE',
      kind === undefined
        ? `Bridge ${bridge} does not exist: create it with "ip link add ${bridge} type bridge", or name another`
        : `Interface ${bridge} is no bridge but ${kind}: name the bridge that leads to the clients`,
    );
  }
  await ip(['link', 'set', 'dev', tapName, 'master', bridge]);
}

/** The kind of an interface (`bridge`, `veth`, ...; `plain` for hardware), undefined if missing. */
async function linkKind(name: string): Promise<string | undefined> {
  let text: string;
  try {
    text = await ip(['-json', '-details', 'link', 'show', 'dev', name]);
  } catch (error) {
    if (error instanceof OperatorError && error.code === 'COLO_E_IP') return undefined;
    throw error;
  }
  const [link] = JSON.parse(text) as { linkinfo?: { info_kind?: string } }[];
  return link?.linkinfo?.info_kind ?? 'plain';
}

/** The host has no business of its own on a guest's wire: no link-local address, no solicitations. */
async function silenceHostIpv6(tapName: string): Promise<void> {
  try {
    await writeFile(`/proc/sys/net/ipv6/conf/${tapName}/disable_ipv6`, '1');
  } catch {
    // A kernel without IPv6 has nothing to silence, and in a container the file may be read-only;
    // then the host's solicitations reach the guest, which ignores them.
  }
}

async function ip(args: string[]): Promise<string> {
  try {
    return (await run('ip', args)).stdout;
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') {
      throw new OperatorError(
        'COLO_E_NO_IPROUTE',
        'The command "ip" is missing: install the package iproute2',
        { cause },
      );
    }
    const said = String((cause as { stderr?: string }).stderr ?? '').trim();
    throw new OperatorError('COLO_E_IP', `"ip ${args.join(' ')}" failed: ${said}`, { cause });
  }
}
