/** What an operator sees of a node that waits for its peer before it boots the guest. */
import {
  type CommandResult,
  type Configuration,
  DEFAULT_PERIOD_US,
  formatAddress,
  type NodeControl,
  type NodeStatus,
  type VerifyAnswer,
} from '../config/index.js';
import { describeError } from '../lib/index.js';
import { monotonicUs } from '../linux/index.js';

export interface JoiningOptions {
  readonly configuration: Configuration;
  /** Boots the guest here, whatever the peer has. */
  readonly force: () => Promise<void>;
}

/** It knows nothing of the guest, and does one thing: `colo failover --force`. */
export class Joining implements NodeControl {
  readonly #options: JoiningOptions;
  readonly #startedAtUs = monotonicUs();
  /** What it waits for. */
  reason = 'The peer is asked';

  constructor(options: JoiningOptions) {
    this.#options = options;
  }

  async failover({ force }: { force: boolean }): Promise<CommandResult> {
    if (!force) return this.#refusal();
    try {
      await this.#options.force();
    } catch (error) {
      return { ok: false, code: 'COLO_E_FAILOVER', reason: describeError(error) };
    }
    return { ok: true, detail: 'The guest boots on this node' };
  }

  async switchover(): Promise<CommandResult> {
    return this.#refusal();
  }

  setPeriod(): CommandResult {
    return this.#refusal();
  }

  async setMode(): Promise<CommandResult> {
    return this.#refusal();
  }

  async capture(): Promise<CommandResult> {
    return this.#refusal();
  }

  async checkpoint(): Promise<CommandResult> {
    return this.#refusal();
  }

  async verify(): Promise<VerifyAnswer> {
    return this.#refusal();
  }

  status(): NodeStatus {
    const { configuration } = this.#options;
    const { vm, host, peer } = configuration;
    const mode = configuration.role === 'primary' ? configuration.mode : 'colo';
    return {
      vm,
      host,
      role: configuration.role,
      state: 'joining',
      mode,
      peer: {
        address: peer === undefined ? '' : formatAddress(peer),
        state: 'none',
        lastHeardMs: null,
      },
      epoch: 0,
      committedEpoch: null,
      periodMs: DEFAULT_PERIOD_US[mode] / 1000,
      checkpoints: { total: 0, byTrigger: {}, failed: 0 },
      pauseMs: { last: null, median: null, p99: null },
      dirtyPages: { last: null, inPause: null },
      bytesSent: 0,
      held: { frames: 0, bytes: 0 },
      compare: null,
      downtimeMs: null,
      dirtyTracker: 'none',
      accelerator: 'none',
      qemuVersion: 'none',
      sync: null,
      verify: null,
      disks: [],
      diskMemoryBytes: 0,
      uptimeMs: Math.round((monotonicUs() - this.#startedAtUs) / 1000),
      verified: 0,
      speech: null,
      security: null,
      lastFailure: this.reason,
    };
  }

  #refusal(): { ok: false; code: string; reason: string } {
    return { ok: false, code: 'COLO_E_ROLE', reason: this.reason };
  }
}
