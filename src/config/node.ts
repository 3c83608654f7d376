/** How a daemon's main starts a node: the seam between src/cli and src/primary, src/secondary. */
import type { Logger } from '../lib/index.js';
import type { Configuration } from './configuration.js';
import type { NodeControl } from './status.js';

/** What every log line carries beside its own fields. */
export interface LogContext {
  readonly role: 'primary' | 'secondary';
  readonly epoch: number;
}

/** A log whose lines name the node's role and epoch; the node keeps both up to date. */
export interface NodeLogger extends Logger {
  setContext(context: Partial<LogContext>): void;
}

/** How a node ended; the daemon exits with the code. */
export interface NodeExit {
  readonly exitCode: number;
  readonly reason: string;
}

/** A node that runs. `finished` resolves once, after an orderly stop too, and never rejects. */
export interface RunningNode {
  readonly control: NodeControl;
  readonly finished: Promise<NodeExit>;
  /** Stops in order; idempotent. `finished` resolves before or with it. */
  stop(reason: string): Promise<void>;
}

/** `startPrimary` and `startSecondary`: resolves once the node can answer its operator. */
export type StartNode<C extends Configuration> = (
  configuration: C,
  logger: NodeLogger,
) => Promise<RunningNode>;
