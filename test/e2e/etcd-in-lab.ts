/** etcd in the client's namespace of a lab: on the LAN, and not on the replication link. */
import type { Cleanup } from '../../scripts/harness/cleanup.js';
import type { Namespace } from '../../scripts/harness/lab.js';
import { Etcd } from '../support/etcd.js';
import { run } from './lab-harness.js';

export const CLIENT_ADDRESS = '10.77.0.1';
const CLIENT_PORT = 2379;
/** For `witness`. */
export const ETCD_WITNESS = `etcd://${CLIENT_ADDRESS}:${CLIENT_PORT}`;
/** Exits with 0 if the etcd that its argument names is well. */
const ASK_HEALTH =
  'fetch(process.argv[1] + "/health").then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))';

/** Resolves once it answers; the cleanup ends it. */
export async function startEtcd(client: Namespace, cleanup: Cleanup): Promise<Etcd> {
  const etcd = await Etcd.start({
    enter: client.enter,
    address: CLIENT_ADDRESS,
    clientPort: CLIENT_PORT,
    peerPort: CLIENT_PORT + 1,
    probe: (endpoint) =>
      run('ip', [...client.enter.slice(1), process.execPath, '-e', ASK_HEALTH, endpoint])
        .then(() => true)
        .catch(() => false),
  });
  cleanup.add('etcd', () => etcd.stop());
  return etcd;
}
