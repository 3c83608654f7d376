/** What the parts of the grammar of `colo` share. */
import type { Role } from '../config/index.js';
import type { Command } from './control-wire.js';
import type { PkiWish } from './pki/pki-arguments.js';

/** Which agent is meant. */
export interface AgentChoice {
  readonly socket: string | undefined;
  readonly vm: string | undefined;
  readonly runDir: string;
}

/** Two captures to be compared, without any agent. */
export interface CompareWish {
  readonly primary: string;
  readonly secondary: string;
  readonly inbound: string | undefined;
  /** Of the capture; undefined: the one beside `primary` if there is one, `none`: not even that. */
  readonly verdicts: string | undefined;
  readonly compareTimeoutUs: number;
  readonly split: boolean;
  readonly json: boolean;
}

/** Configuration files to be checked on this host. */
export interface CheckConfigWish {
  /** None: all of /etc/colo. */
  readonly files: readonly string[];
  /** Undefined: the one that the file fits. */
  readonly role: Role | undefined;
  readonly json: boolean;
}

/** Images of this host whose data is given up. */
export interface DiscardWish {
  readonly vm: string;
  /** Undefined: all of the VM's on this host. */
  readonly disk: string | undefined;
  /** Undefined: the configuration's. */
  readonly stateDir: string | undefined;
  /** Configuration file; undefined: the one in /etc/colo that is this VM's. */
  readonly config: string | undefined;
  /** Instead of a configuration. */
  readonly image: string | undefined;
  /** Do not ask. */
  readonly yes: boolean;
  readonly json: boolean;
}

/** What every command takes. */
export interface CommonArguments {
  readonly socket?: string | undefined;
  readonly vm?: string | undefined;
  readonly 'run-dir': string;
  readonly json: boolean;
}

/** What the grammar needs to know beside the arguments. */
export interface ColoPlace {
  readonly version: string;
  /** The absolute path of a capture's folder; without a name, of a new one. */
  readonly captureFolder: (dir: string | undefined) => string;
  /** Of a file that the agent is to read. */
  readonly absolute: (path: string) => string;
}

/** Where a command puts what was asked. */
export interface Hands {
  readonly call: (args: CommonArguments, command: Command, watch?: boolean) => void;
  readonly compare: (wish: CompareWish) => void;
  readonly checkConfig: (wish: CheckConfigWish) => void;
  readonly discardImage: (wish: DiscardWish) => void;
  readonly pki: (wish: PkiWish) => void;
}
