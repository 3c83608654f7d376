/** `colo detach`, `colo attach` and `colo stop --peer` on the node that has the guest. */
import type { CommandResult } from '../config/index.js';
import type { PrimaryCore, PrimaryInput } from './primary-core.js';

const DETACHED = 'The guest runs on without a secondary, until "colo attach"';
const STOPPED = 'The agent of the secondary was told to end; the guest runs on';

export class PartingCommands {
  readonly #core: PrimaryCore;
  readonly #input: (input: PrimaryInput) => void;
  /** No secondary can follow this guest. */
  readonly #unprotectable: string | undefined;
  readonly #waiters: (() => void)[] = [];

  constructor(
    core: PrimaryCore,
    input: (input: PrimaryInput) => void,
    unprotectable: string | undefined,
  ) {
    this.#core = core;
    this.#input = input;
    this.#unprotectable = unprotectable;
  }

  /** Why no secondary can follow this guest; null: one can. */
  get unprotectable(): string | null {
    return this.#unprotectable ?? null;
  }

  /** The role begins: a secondary is looked for, if one can follow the guest. */
  begin(): void {
    const detach = { kind: 'partingRequested', goodbye: 'detach' } as const;
    this.#input(this.#unprotectable === undefined ? { kind: 'tick' } : detach);
  }

  detach(): Promise<CommandResult> {
    return this.#part('detach', DETACHED);
  }

  attach(): CommandResult {
    if (this.#unprotectable !== undefined) return refused(this.#unprotectable);
    if (!this.#core.isDetached) return { ok: true, detail: 'It is not detached' };
    this.#input({ kind: 'attachRequested' });
    return { ok: true, detail: 'A secondary is looked for again' };
  }

  async stopPeer(): Promise<CommandResult> {
    if (this.#core.state.kind !== 'session') {
      return refused('No secondary is connected: run "colo stop" there');
    }
    return this.#part('stop', STOPPED);
  }

  /** The core says that what was asked for is done, or void. */
  done(): void {
    for (const resolve of this.#waiters.splice(0)) resolve();
  }

  async #part(goodbye: 'detach' | 'stop', detail: string): Promise<CommandResult> {
    if (!this.#core.isHandingOver) {
      await new Promise<void>((resolve) => {
        this.#waiters.push(resolve);
        this.#input({ kind: 'partingRequested', goodbye });
      });
    }
    const isOver = this.#core.isHandingOver || this.#core.state.kind === 'left';
    return isOver ? refused('This node gives the guest up') : { ok: true, detail };
  }
}

function refused(reason: string): CommandResult {
  return { ok: false, code: 'COLO_E_ROLE', reason };
}
