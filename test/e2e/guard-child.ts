/**
 * A node that has nothing but a guard: speaks when it may, claims when its peer is lost. One line
 * of JSON for each event on stdout, one for each order on stdin.
 *
 * Argument: the guard's settings, without what a process makes itself, and the address to bind.
 */
import { randomUUID } from 'node:crypto';
import { createInterface } from 'node:readline';
import {
  createLeaseMemory,
  GuardClient,
  type GuardInput,
  type GuardSettings,
  type HeartbeatPeer,
  OutputLease,
} from '../../src/failover/index.js';
import { bootTimeUs } from '../../src/linux/index.js';

export type GuardChildSettings = Omit<GuardSettings, 'alive' | 'lease' | 'identity'> & {
  readonly vm: string;
  readonly host: string;
  readonly address: string;
};

export type GuardChildOrder =
  | { readonly kind: 'connect'; readonly peer: HeartbeatPeer; readonly key: string }
  | { readonly kind: 'input'; readonly input: GuardInput }
  /** Answered with `spoke`: the time since when and until when the lease allowed output. */
  | { readonly kind: 'report' };

const settings = JSON.parse(process.argv[2] ?? '') as GuardChildSettings;
const lease = createLeaseMemory();
const output = new OutputLease(lease);
const spoke: { fromUs: number; untilUs: number }[] = [];
let speaks = false;

function say(event: object): void {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

/** What the TAP's thread does before it writes. */
function look(): void {
  const nowUs = bootTimeUs();
  const allowed = output.allows(nowUs);
  const last = spoke.at(-1);
  if (allowed && speaks && last !== undefined) last.untilUs = nowUs;
  else if (allowed) spoke.push({ fromUs: nowUs, untilUs: nowUs });
  if (allowed !== speaks) say({ kind: allowed ? 'speaks' : 'silent' });
  speaks = allowed;
}

const guard = new GuardClient({
  settings: {
    ...settings,
    lease,
    identity: {
      vm: settings.vm,
      host: settings.host,
      role: settings.role,
      instance: randomUUID(),
    },
  },
  log: { debug() {}, info() {}, warn() {}, error() {} },
  onNews(news) {
    say(news);
    const lost = news.kind === 'peer' && news.view.kind === 'lost';
    if (lost) guard.input({ kind: 'peerLost', proof: false });
  },
  onFailure: (error) => say({ kind: 'failed', error: error.stack }),
});

const [port] = await guard.listen([settings.address]);
say({ kind: 'port', port });
setInterval(look, 1);
for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line) as GuardChildOrder;
  if (order.kind === 'connect') {
    const side = settings.role === 'primary' ? 'offering' : 'accepting';
    guard.connect([order.peer], Buffer.from(order.key, 'hex'), side);
    guard.input({ kind: 'joined' });
  } else if (order.kind === 'input') {
    guard.input(order.input);
  } else {
    look();
    say({ kind: 'spoke', spoke });
  }
}
process.exit(0);
