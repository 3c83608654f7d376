/** From the configured text to a witness. */
import type { WitnessSetting } from '../../config/index.js';
import { CommandWitness } from './command-witness-shell.js';
import { EtcdWitness } from './etcd-witness-shell.js';
import { FileWitness } from './file-witness-shell.js';
import type { Witness, WitnessIdentity } from './witness.js';

export interface OpenWitnessOptions {
  readonly identity: WitnessIdentity;
  readonly setting: WitnessSetting;
  /** `witness-ttl`. */
  readonly ttlUs: number;
  /** `witness-timeout`. */
  readonly timeoutUs: number;
}

/** For the log of a node that starts with `none`; by `on-peer-loss`. */
export const NO_WITNESS_WARNING = {
  failover:
    'No witness: if the hosts lose sight of each other while both live, both will speak for the ' +
    'guest. Set witness, or on-peer-loss = wait (docs/witness.md)',
  wait:
    'No witness: if the hosts lose sight of each other, only a person can know which one may ' +
    'speak (docs/witness.md)',
} as const;

/** Undefined for `none`: then only the operator decides. Asks nothing yet. */
export function openWitness(options: OpenWitnessOptions): Witness | undefined {
  const { identity, setting, ttlUs } = options;
  const common = { identity, ttlUs, timeoutMs: Math.ceil(options.timeoutUs / 1000) };
  switch (setting.kind) {
    case 'none':
      return undefined;
    case 'etcd':
      return new EtcdWitness({ ...common, endpoints: setting.endpoints });
    case 'file':
      return new FileWitness({ ...common, folder: setting.folder });
    case 'command':
      return new CommandWitness({ ...common, command: setting.command });
  }
}
