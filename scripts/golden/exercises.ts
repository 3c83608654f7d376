/**
 * What is done with the guest while it is captured: little, so that the captures stay small, and
 * nothing that two copies of a guest answer differently, but for those that are to diverge.
 */
import { GUEST_ADDRESS, GUEST_ADDRESS_6 } from '../harness/lab.js';

export interface Exercise {
  /** The folder of its capture; one that ends with `-diverges` must have a mismatch. */
  readonly name: string;
  /** One after the other, in the client's namespace; `ask` stands for ask.ts in it. */
  readonly commands: readonly (readonly string[])[];
}

const CURL = ['curl', '--silent', '--show-error', '--output', '/dev/null'];
const HTTP = `http://${GUEST_ADDRESS}`;
const HTTP_6 = `http://[${GUEST_ADDRESS_6}]`;
const TLS = [...CURL, '--insecure', `https://${GUEST_ADDRESS}/index.html`];

export const EXERCISES: readonly Exercise[] = [
  {
    name: 'nginx',
    commands: [
      // Three requests on one connection, then each on its own.
      [...CURL, `${HTTP}/index.html`, ...next(`${HTTP}/file.sha256`), ...next(`${HTTP}/missing`)],
      [...CURL, `${HTTP}/index.html`],
      [...CURL, '--head', `${HTTP}/file`],
      [...CURL, '--range', '0-9999', `${HTTP}/file`],
    ],
  },
  { name: 'redis', commands: [['ask', 'redis', GUEST_ADDRESS]] },
  { name: 'tls', commands: [TLS] },
  { name: 'dns', commands: [['ask', 'dns', GUEST_ADDRESS]] },
  { name: 'ping', commands: [ping('-4', 56, 5, GUEST_ADDRESS)] },
  {
    name: 'ipv6',
    commands: [
      ping('-6', 56, 3, GUEST_ADDRESS_6),
      [...CURL, `${HTTP_6}/index.html`, ...next(`${HTTP_6}/file.sha256`)],
      ['ask', 'dns', GUEST_ADDRESS_6],
    ],
  },
  {
    name: 'fragments',
    commands: [
      ...[ping('-4', 4000, 1, GUEST_ADDRESS), ping('-6', 4000, 1, GUEST_ADDRESS_6)],
      ...[ping('-4', 1600, 1, GUEST_ADDRESS), ping('-6', 1600, 1, GUEST_ADDRESS_6)],
    ],
  },
  // dropbear makes the numbers of its key exchange from its own clock, too.
  { name: 'ssh-diverges', commands: [['ask', 'ssh', GUEST_ADDRESS]] },
  {
    name: 'random-diverges',
    commands: [ping('-4', 56, 2, GUEST_ADDRESS), ['ask', 'random', GUEST_ADDRESS]],
  },
];

function next(url: string): string[] {
  return ['--output', '/dev/null', url];
}

function ping(family: '-4' | '-6', bytes: number, count: number, address: string): string[] {
  return ['ping', family, '-q', '-i', '0.2', '-s', `${bytes}`, '-c', `${count}`, address];
}
