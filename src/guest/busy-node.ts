/** A role in the middle of something that leaves no room for an operator's other wishes. */
import type { CommandResult, VerifyAnswer } from '../config/index.js';

interface Refusal {
  readonly ok: false;
  readonly code: string;
  readonly reason: string;
}

/** Refuses every command that is about protection. */
export class BusyNode {
  readonly #refusal: Refusal;

  constructor(reason: string) {
    this.#refusal = { ok: false, code: 'COLO_E_ROLE', reason };
  }

  async failover(): Promise<CommandResult> {
    return this.#refusal;
  }

  async switchover(): Promise<CommandResult> {
    return this.#refusal;
  }

  setPeriod(): CommandResult {
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
}
