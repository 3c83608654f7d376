/** What an operator can't ask for while a guest is being moved: the same on both hosts. */
import type { CommandResult, NodeStatus, RoleView, VerifyAnswer } from '../config/index.js';

/** The commands that both ends of a migration refuse, and how they stand. */
export abstract class MovingRole {
  readonly #refusal: { readonly ok: false; readonly code: string; readonly reason: string };

  constructor(reason: string) {
    this.#refusal = { ok: false, code: 'COLO_E_ROLE', reason };
  }

  abstract status(): NodeStatus;

  get view(): RoleView {
    const { role, phase, epoch, lastFailure } = this.status();
    const peer = lastFailure === null ? 'alive' : 'suspect';
    return { role, phase, epoch, peer, reason: lastFailure ?? this.#refusal.reason };
  }

  setPeriod(): CommandResult {
    return this.#refusal;
  }

  async failover(): Promise<CommandResult> {
    return this.#refusal;
  }

  async switchover(): Promise<CommandResult> {
    return this.#refusal;
  }

  async setMode(): Promise<CommandResult> {
    return this.#refusal;
  }

  async capture(): Promise<CommandResult> {
    return this.#refusal;
  }

  async checkpoint(): Promise<CommandResult> {
    return this.#refusal;
  }

  async verify(): Promise<VerifyAnswer> {
    return this.#refusal;
  }

  async detach(): Promise<CommandResult> {
    return this.#refusal;
  }

  async attach(): Promise<CommandResult> {
    return this.#refusal;
  }

  async stopPeer(): Promise<CommandResult> {
    return this.#refusal;
  }
}
