/** The grammar of `witness` and `heartbeat-path`. */
import { WITNESS_ENDPOINTS_MAX } from './limits.js';
import { ValueError } from './problem.js';
import { parseAddress, parseIpAddress } from './values.js';

/** Who is asked which node may be alone. */
export type WitnessSetting =
  | { readonly kind: 'none' }
  /** `http://host:port`, at least one. */
  | { readonly kind: 'etcd'; readonly endpoints: readonly string[] }
  /** An absolute path. */
  | { readonly kind: 'file'; readonly folder: string }
  /** An absolute path. */
  | { readonly kind: 'command'; readonly command: string };

/** A second way for heartbeats: this host's address on it, and the peer's. */
export interface HeartbeatPath {
  readonly local: string;
  readonly peer: string;
}

/** etcd's client port when an end point names none. */
const ETCD_PORT = 2379;
const EXPECTED = 'etcd://HOST[:PORT],..., file:///FOLDER, command:/PROGRAM or none';

/** Throws `ValueError`. */
export function parseWitness(text: string): WitnessSetting {
  if (text === 'none') return { kind: 'none' };
  const [, scheme, rest = ''] = /^(etcd:\/\/|file:\/\/|command:)(.+)$/.exec(text) ?? [];
  switch (scheme) {
    case 'etcd://':
      return { kind: 'etcd', endpoints: parseEndpoints(text, rest) };
    case 'file://':
      if (rest.startsWith('/')) return { kind: 'file', folder: rest };
      throw new ValueError(text, EXPECTED, 'write the folder with three slashes: file:///srv/colo');
    case 'command:':
      if (rest.startsWith('/')) return { kind: 'command', command: rest };
      throw new ValueError(text, EXPECTED, 'write the absolute path of the program');
    default:
      throw new ValueError(text, EXPECTED, 'choose one of these');
  }
}

/** The text that `parseWitness` reads back. */
export function formatWitness(setting: WitnessSetting): string {
  switch (setting.kind) {
    case 'none':
      return 'none';
    case 'etcd': {
      const hosts = setting.endpoints.map((endpoint) => endpoint.replace(/^http:\/\//, ''));
      return `etcd://${hosts.join(',')}`;
    }
    case 'file':
      return `file://${setting.folder}`;
    case 'command':
      return `command:${setting.command}`;
  }
}

function parseEndpoints(whole: string, list: string): string[] {
  const parts = list.split(',');
  if (parts.length > WITNESS_ENDPOINTS_MAX) {
    const expected = `at most ${WITNESS_ENDPOINTS_MAX} end points`;
    throw new ValueError(whole, expected, 'remove some; the cluster forwards requests');
  }
  const endpoints = parts.map((part) => {
    // A bracket or a single colon says where the port is; without one there is none.
    const hasPort = /\]:\d+$/.test(part) || /^[^:]+:\d+$/.test(part);
    const { host, port } = parseAddress(part);
    const name = host.includes(':') ? `[${host}]` : host;
    return `http://${name}:${hasPort ? port : ETCD_PORT}`;
  });
  if (new Set(endpoints).size < endpoints.length) {
    throw new ValueError(whole, 'each end point once', 'remove the second');
  }
  return endpoints;
}

/** Throws `ValueError`. */
export function parseHeartbeatPath(text: string): HeartbeatPath {
  const [, local, peer] = /^local=([^,]*),peer=([^,]*)$/.exec(text) ?? [];
  if (local === undefined || peer === undefined) {
    const advice = 'write it such as local=10.9.0.1,peer=10.9.0.2';
    throw new ValueError(text, 'local=ADDRESS,peer=ADDRESS', advice);
  }
  const path = { local: parseIpAddress(local), peer: parseIpAddress(peer) };
  if (path.local.includes(':') !== path.peer.includes(':')) {
    throw new ValueError(text, 'two addresses of one family', 'use IPv4 or IPv6 for both');
  }
  return path;
}
