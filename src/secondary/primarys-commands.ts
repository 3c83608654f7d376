/** What a secondary answers to an operator who means its primary. */
import type { CommandResult } from '../config/index.js';

export abstract class PrimarysCommands {
  setPeriod(): CommandResult {
    return notHere('The period is the primary\'s: run "colo set-period" there');
  }

  async setMode(): Promise<CommandResult> {
    return notHere('The mode is the primary\'s: run "colo set-mode" there');
  }

  async capture(): Promise<CommandResult> {
    return notHere('Output is compared on the primary: run "colo capture" there');
  }

  async checkpoint(): Promise<CommandResult> {
    return notHere('Checkpoints are begun by the primary: run "colo checkpoint" there');
  }

  async verify() {
    return notHere('Disks are compared by the primary: run "colo verify" there');
  }

  async detach(): Promise<CommandResult> {
    return notHere('It is the primary that detaches: run "colo detach" there');
  }

  async attach(): Promise<CommandResult> {
    return notHere('It is the primary that attaches: run "colo attach" there');
  }

  async stopPeer(): Promise<CommandResult> {
    return notHere('The primary has the guest: run "colo switchover" first');
  }
}

function notHere(reason: string) {
  return { ok: false, code: 'COLO_E_ROLE', reason } as const;
}
