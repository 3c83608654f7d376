/** What a primary has to do with the right to speak, beside what its core asks for. */
import type { CommandResult } from '../config/index.js';
import type { Speech } from '../guest/index.js';
import type { PrimaryInput, PrimaryState } from './primary-core.js';

/**
 * A role that begins is told what its node has missed. `switchOver` is refused while nobody could
 * go on with the guest, and asked for again.
 */
export function listenToSpeech(
  speech: Speech | undefined,
  input: (input: PrimaryInput) => void,
  switchOver: () => Promise<CommandResult>,
): void {
  if (speech === undefined) return;
  const onFenced = (reason: string): void => input({ kind: 'fenced', reason });
  speech.hooks = {
    onAlone: () => input({ kind: 'granted' }),
    onFenced,
    onLanLost: () => void switchOver(),
  };
  if (speech.fenced !== undefined) onFenced(speech.fenced);
}

/** `colo failover` on a primary: it can only vouch for a secondary that is silent. */
export function failoverOfPrimary(
  speech: Speech | undefined,
  asked: { readonly force: boolean; readonly state: PrimaryState; readonly secondary: string },
): CommandResult {
  if (asked.force && speech !== undefined && asked.state.kind !== 'session') {
    speech.force();
    return { ok: true, detail: 'This node goes on without the witness' };
  }
  const reason = `This is the primary: run "colo failover" on the secondary, ${asked.secondary}`;
  return { ok: false, code: 'COLO_E_ROLE', reason };
}
