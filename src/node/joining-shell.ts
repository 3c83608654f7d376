/** What an operator sees of a node that waits for its peer before it boots the guest. */
import type {
  CommandResult,
  Configuration,
  NodeStatus,
  RoleControl,
  RoleView,
  VerifyAnswer,
} from '../config/index.js';
import { plainStatus } from '../guest/index.js';
import { describeError } from '../lib/index.js';
import { monotonicUs } from '../linux/index.js';

export interface JoiningOptions {
  readonly configuration: Configuration;
  /** Boots the guest here, whatever the peer has. */
  readonly force: () => Promise<void>;
}

/** It knows nothing of the guest, and does one thing: `colo failover --force`. */
export class Joining implements RoleControl {
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

  async detach(): Promise<CommandResult> {
    return this.#refusal();
  }

  async attach(): Promise<CommandResult> {
    return this.#refusal();
  }

  async stopPeer(): Promise<CommandResult> {
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

  get view(): RoleView {
    const { role } = this.#options.configuration;
    return { role, phase: 'joining', reason: this.reason, peer: 'none', epoch: 0 };
  }

  status(): NodeStatus {
    return plainStatus(this.#options.configuration, {
      phase: 'joining',
      state: 'joining',
      uptimeUs: monotonicUs() - this.#startedAtUs,
      lastFailure: this.reason,
    });
  }

  #refusal(): { ok: false; code: string; reason: string } {
    return { ok: false, code: 'COLO_E_ROLE', reason: this.reason };
  }
}
