/** etcd in a namespace of a lab. */
import { run } from './child.js';
import type { Cleanup } from './cleanup.js';
import { Etcd } from './etcd.js';
import type { Namespace } from './lab.js';

/** The client's: on the LAN, and not on the replication link. */
export const CLIENT_ADDRESS = '10.77.0.1';
const CLIENT_PORT = 2379;
/** For `witness`. */
export const ETCD_WITNESS = witnessAt(CLIENT_ADDRESS);
/** Exits with 0 if the etcd that its argument names is well. */
const ASK_HEALTH =
  'fetch(process.argv[1] + "/health").then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))';

/** For `witness`, of an etcd that was started at this address. */
export function witnessAt(address: string): string {
  return `etcd://${address}:${CLIENT_PORT}`;
}

/** Resolves once it answers; the cleanup ends it. */
export async function startEtcd(
  { enter }: Namespace,
  cleanup: Cleanup,
  address = CLIENT_ADDRESS,
): Promise<Etcd> {
  const etcd = await Etcd.start({
    enter,
    address,
    clientPort: CLIENT_PORT,
    peerPort: CLIENT_PORT + 1,
    probe: (endpoint) =>
      run([...enter, process.execPath, '-e', ASK_HEALTH, endpoint])
        .then(() => true)
        .catch(() => false),
  });
  cleanup.add('etcd', () => etcd.stop());
  return etcd;
}
